"""Tables as text, for people: aligned columns for a terminal, Markdown for a page."""


def table(header, rows, text_columns=1):
    """Rows of text under a header, in aligned columns.

    Args:
        header: texts of the columns.
        rows: list of lists of texts.
        text_columns: number of the first columns, aligned to the left; the others, of numbers, to the right.

    Returns:
        Lines without trailing spaces, and no newline behind the last.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows)]

    def line(cells):
        aligned = (cell.ljust(w) if i < text_columns else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths)))
        return "  ".join(aligned).rstrip()

    return "\n".join(map(line, [header, *rows]))


def markdown(header, rows):
    """Rows of text under a header as a Markdown table, without a newline behind its last line."""

    def line(cells):
        return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"

    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, rows)])


def noun(count, singular):
    """A noun behind a count, with an s unless it is 1."""
    return singular if count == 1 else f"{singular}s"
