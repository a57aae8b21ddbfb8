"""What the site has beyond its pages: figures and tables from committed results, the API's pages, notebooks, formulas.

MkDocs calls the functions `on_...`; none of them imports the package, so that building needs neither Keras nor TensorFlow.
In a page

    {{ results/mcu.json : boards / cortex-m4 / digits_vit_nano_acd_bit, exact / instructions | 1e-6 .1f }}

is a figure of a committed file, times 1e-6 and formatted; `<!-- table: NAME -->` a function of `tables.py`;
`<!-- scheme: NAME -->` the definition of a scheme as it stands in the code. Links may lead to any file of the repository.
"""

import os
import pathlib
import re
import sys

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import formulas
import pages
import tables

ROOT = HERE.parent
REPOSITORY = "repository"
DOCS = ROOT / "docs"
_LINK = re.compile(r"(\]\()(?!\w+:)([^)\s#]+)((?:#[^)\s]*)?\))")


def on_files(files, config):
    """Adds what is made here, and the files of the repository that pages link to, and those that these link to."""
    for address, content in [*pages.api(), *pages.notebooks(), (formulas.FONT, formulas.font())]:
        files.append(File.generated(config, address, content=content))
    waiting = list(files.documentation_pages())
    while waiting:
        page = waiting.pop()
        for target in _linked(page.src_uri, page.content_string):
            address = _address(target)
            if not target.is_file():
                raise PluginError(f"{page.src_uri} links to {target.relative_to(ROOT)}, which is no file")
            if not files.get_file_from_path(address):
                files.append(File.generated(config, address, abs_src_path=str(target)))
                if target.suffix == ".md":
                    waiting.append(files.get_file_from_path(address))
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
        markdown = markdown if address.startswith(REPOSITORY) else tables.filled(markdown)
    except (KeyError, ValueError, OSError) as error:
        raise PluginError(f"{address}: {error}") from error

    def inside(match):
        target = _target(address, match[2])
        there = os.path.relpath(_address(target), os.path.dirname(address) or ".")
        return match[1] + there + match[3] if target in _linked(address, match[0]) else match[0]

    return _LINK.sub(inside, markdown)


def on_page_content(html, page, config, files):
    return formulas.set_in(html)


def _target(address, link):
    """The file behind a link of a page; those of the repository that are shown here lie elsewhere than their pages."""
    page = ROOT / address.removeprefix(f"{REPOSITORY}/") if address.startswith(REPOSITORY) else DOCS / address
    return pathlib.Path(os.path.normpath(page.parent / link))


def _address(target):
    """Where a file of the repository is in the site."""
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS).as_posix()
    if target.suffix == ".ipynb":
        return f"notebooks/{target.stem}.md"
    return f"{REPOSITORY}/{target.relative_to(ROOT).as_posix()}"


def _linked(address, markdown):
    """The files of the repository that a page links to, without the pages that a page links to as its neighbours."""
    found = {_target(address, match[2]) for match in _LINK.finditer(markdown)}
    if address.startswith(REPOSITORY):
        return {target for target in found if target.exists()}
    return {target for target in found if not target.is_relative_to(DOCS) and not address.startswith(("api/", "notebooks/"))}
