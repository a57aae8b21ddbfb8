"""What the site has beyond its pages: figures and tables from committed results, the API's pages, notebooks, formulas.

MkDocs calls the functions `on_...`; none of them imports the package, so that building needs neither Keras nor TensorFlow.
In a page

    {{ results/mcu.json : boards / cortex-m4 / digits_vit_nano_acd_bit, exact / instructions | 1e-6 .1f }}

is a figure of a committed file, times 1e-6 and formatted; `<!-- table: NAME -->` a function of `tables.py`; `<!-- scheme: NAME -->`
the definition of a scheme as it stands in the code. Links may lead to any file of the repository.
"""

import os
import pathlib
import re
import sys

import latex2mathml.converter
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import pages
import tables

ROOT = HERE.parent
REPOSITORY = "repository"
_MATH = re.compile(r'<(span|div) class="arithmatex">\s*\\([(\[])(.*?)\\[)\]]\s*</\1>', re.DOTALL)
_LINK = re.compile(r"(\]\()(\.\./[^)\s#]+)((?:#[^)\s]*)?\))")


def on_files(files, config):
    """Adds what is made here, and the files of the repository that pages link to."""
    for address, content in [*pages.api(), *pages.notebooks()]:
        files.append(File.generated(config, address, content=content))
    for page in list(files.documentation_pages()):
        for target in _outside(page.src_uri, page.content_string):
            if not target.is_file():
                raise PluginError(f"{page.src_uri} links to {target.relative_to(ROOT)}, which is no file")
            address = f"{REPOSITORY}/{target.relative_to(ROOT).as_posix()}"
            if target.suffix != ".ipynb" and not files.get_file_from_path(address):
                files.append(File.generated(config, address, abs_src_path=str(target)))
    return files


def on_config(config):
    """Puts the pages that are made here into the navigation, where its entries end with a slash."""
    made = {
        "notebooks/": [name for name, _ in pages.notebooks() if name.endswith(".md")],
        "api/": [name for name, _ in pages.api()],
    }
    config.nav = [_filled(entry, made) for entry in config.nav]
    return config


def _filled(entry, made):
    if isinstance(entry, dict):
        return {title: _filled(value, made) for title, value in entry.items()}
    if isinstance(entry, list):
        return [_filled(part, made) for part in entry]
    return list(made.get(entry, ())) or entry


def on_page_markdown(markdown, page, config, files):
    address = page.file.src_uri
    try:
        markdown = tables.filled(markdown)
    except (KeyError, ValueError, OSError) as error:
        raise PluginError(f"{address}: {error}") from error

    def inside(match):
        target = _target(address, match[2])
        if target is None:
            return match[0]
        if target.suffix == ".ipynb":
            there = f"notebooks/{target.stem}.md"
        else:
            there = f"{REPOSITORY}/{target.relative_to(ROOT).as_posix()}"
        return match[1] + os.path.relpath(there, os.path.dirname(address) or ".") + match[3]

    return _LINK.sub(inside, markdown)


def on_page_content(html, page, config, files):
    """Formulas become MathML, which browsers set by themselves."""

    def formula(match):
        display = "block" if match[1] == "div" else "inline"
        text = match[3].strip().replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        return latex2mathml.converter.convert(text, display=display)

    return _MATH.sub(formula, html)


def _target(address, link):
    """The file of the repository behind a link that leaves the pages, or `None`."""
    target = pathlib.Path(os.path.normpath(ROOT / "docs" / os.path.dirname(address) / link))
    return None if target.is_relative_to(ROOT / "docs") else target


def _outside(address, markdown):
    found = (_target(address, match[2]) for match in _LINK.finditer(markdown))
    return {target for target in found if target is not None}
