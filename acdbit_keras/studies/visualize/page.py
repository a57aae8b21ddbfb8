"""One HTML page that holds everything: text, tables and the pictures themselves, so that it can be mailed or archived."""

import base64
import html

_STYLE = """
:root { color-scheme: light; --ink: #1c1f23; --quiet: #5b636d; --line: #dfe3e8; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 40px 28px 80px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 21px; margin: 56px 0 4px; padding-top: 20px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; margin: 28px 0 0; }
p { max-width: 820px; margin: 10px 0; }
.quiet, figcaption, footer { color: var(--quiet); }
nav { margin: 18px 0 0; }
nav a { margin-right: 18px; color: #0b5394; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 18px 0; font-size: 15px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--quiet); vertical-align: bottom; white-space: normal; line-height: 1.3; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
figure { margin: 14px 0 26px; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { max-width: 900px; margin-top: 8px; font-size: 14.5px; }
footer { margin-top: 60px; font-size: 14px; border-top: 1px solid var(--line); padding-top: 14px; }
@media print { figure { break-inside: avoid; } }
"""


def render(title, lead, header, rows, sections, footer):
    """The page as text.

    Args:
        title: of the page.
        lead: sentence below it.
        header: of the table of models, list of texts.
        rows: of that table, lists of texts.
        sections: list of `Section`.
        footer: sentence at the end.
    """
    parts = [f"<h1>{_text(title)}</h1>", f'<p class="quiet">{_text(lead)}</p>', _table(header, rows)]
    links = (f'<a href="#{section.anchor}">{_text(section.heading)}</a>' for section in sections)
    parts.append(f"<nav>{''.join(links)}</nav>")
    for section in sections:
        parts.append(f'<h2 id="{section.anchor}">{_text(section.heading)}</h2><p>{_text(section.explanation)}</p>')
        parts += map(_figure, section.figures)
    parts.append(f"<footer>{_text(footer)}</footer>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _figure(figure):
    source = f"data:image/png;base64,{base64.b64encode(figure.content).decode()}"
    heading = f"<h3>{_text(figure.heading)}</h3>" if figure.heading else ""
    image = f'<img alt="{_text(figure.alternative)}" src="{source}">'
    return f"{heading}<figure>{image}<figcaption>{_text(figure.caption)}</figcaption></figure>"


def _table(header, rows):
    head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _text(value):
    return html.escape(str(value))
