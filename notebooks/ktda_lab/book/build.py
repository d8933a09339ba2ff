"""The book of a report: Sphinx over the executed notebooks, the guides, a gallery and the reference."""

import ast
import importlib.util
import json
import re
from collections.abc import Sequence
from io import BytesIO, StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from ktda.errors import InputError
from ktda.files import PACKAGE, write_beside
from ktda_lab.book import pages
from ktda_lab.book.executed import Made, executed_copy, readable, relinked
from ktda_lab.book.headline import headline_text, read_headline
from ktda_lab.book.source import Source, module_name, reference_page
from ktda_lab.book.text import plain, table

CONF = Path(__file__).parent  # holds conf.py
ENTRY = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>KTDA report</title>
<meta http-equiv="refresh" content="0; url=book/index.html">
<p><a href="book/index.html">The report</a></p></html>
"""


def check_installed() -> None:
    """Refuse before anything runs.

    Raises:
        InputError: What builds the book is not installed.
    """
    if importlib.util.find_spec("myst_nb") is None or importlib.util.find_spec("sphinx_book_theme") is None:
        raise InputError("a report needs Sphinx and myst-nb: pip install 'ktda[book]'")


def build_book(made: Sequence[Made], build: Path, notebooks: Path, provenance: dict[str, Any]) -> list[str]:
    """Write ``book/`` beside `build`, and ``index.html``, which leads there.

    Args:
        made: What every notebook made, under `build`.
        build: Of the report.
        notebooks: Their folder; its parent is the checkout.
        provenance: Shown at the end of the front page.

    Returns:
        What Sphinx warned of.
    """
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    source, book = Source(build / "source", notebooks.parent), build.parent / "book"
    listed = [notebook for notebook in made if _write_notebook(source, notebook, build)]
    sidebar = {"Notebooks": [f"{each.name[:2]} {each.title} <notebooks/{each.name}>" for each in listed]}
    sidebar |= {"Guides": _write_guides(source), "Reference": ["gallery", "api/index"]}
    source.write("index.md", _front(source, made, listed, provenance) + pages.contents(sidebar))
    source.write("gallery.md", _gallery(source, made, build))
    source.write("api/index.md", _reference(source))
    source.close(book)
    warnings = StringIO()
    with docutils_namespace():
        folders = map(str, (source.folder, CONF, book, build / "doctrees"))
        Sphinx(*folders, "html", status=None, warning=warnings).build(force_all=True)  # every sidebar
    write_beside(build.parent / "index.html", ENTRY)
    return re.sub("\x1b\\[[0-9;]*m", "", warnings.getvalue()).splitlines()  # without their colours


def _write_notebook(source: Source, notebook: Made, build: Path) -> bool:
    """The page of a notebook; False if it did not even start."""
    import nbformat

    copy, place = executed_copy(notebook.name, build), f"notebooks/{notebook.name}.ipynb"
    if copy is not None:
        content = readable(copy, source.relink(place))
        if notebook.reason:
            content.cells[0].source += "\n\n" + pages.directive("error", "It failed", plain(notebook.reason))
        source.write(place, nbformat.writes(content))
    return copy is not None


def _write_guides(source: Source) -> list[str]:
    """The pages under ``docs/``, in the order in which the README names them."""
    readme = source.root / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    guides = [path.relative_to(source.root).as_posix() for path in sorted(source.root.glob("docs/*.md"))]
    for guide in guides:
        source.page(guide, orphan=False)
    return sorted(guides, key=lambda guide: (guide not in text, text.find(guide)))


def _front(source: Source, made: Sequence[Made], listed: Sequence[Made], provenance: dict[str, Any]) -> str:
    """What the README opens with; headline, notebooks, runs, provenance."""
    readme = source.root / "README.md"
    opening = readme.read_text(encoding="utf-8").partition("\n## ")[0] if readme.is_file() else "# KTDA"
    parts = [relinked(opening, source.relink("README.md"))]
    parts.append(f"This is a report of {pages.status_line(made, provenance['preset'])}")
    headline = read_headline()
    if headline:
        picture = BytesIO()
        headline.figure.savefig(picture, dpi=150)
        source.write("figures/headline.png", picture.getvalue())
        parts += ["## What each part is worth", plain(headline.question)]
        parts += [f"![Differences to {plain(headline.baseline)} with 95 % intervals](/figures/headline.png)"]
        parts += [headline_text(headline, f"`{headline.folder.name}`")]
    addresses = {notebook.name: f"/notebooks/{notebook.name}.ipynb" for notebook in listed}
    parts += ["## Notebooks", pages.notebook_table(made, addresses), pages.run_table(made)]
    parts += ["## Provenance", pages.provenance_table(provenance), ""]
    return "\n\n".join(parts)


def _gallery(source: Source, made: Sequence[Made], build: Path) -> str:
    """Every figure with its caption, and the tables, by notebook."""
    parts = ["# All figures", "A click shows a figure at its full size."]
    for notebook in made:
        figures = []
        for number, figure in enumerate(notebook.figures):
            copy = f"figures/{notebook.name}-{number}.png"  # of a name that holds no markup
            source.write(copy, (build / figure["file"]).read_bytes())
            options = {"width": "100%", "alt": json.dumps(figure["title"], ensure_ascii=False)}
            options["figclass"] = "wide" if figure["width"] > 1.5 * figure["height"] else "narrow"
            figures.append(pages.directive("figure", f"/{copy}", pages.caption(figure), **options))
        addresses = {}
        for number, path in enumerate(path for formats in notebook.tables.values() for path in formats.values()):
            addresses[path] = f"/tables/{notebook.name}-{number}{Path(path).suffix}.txt"  # .md alone would be a page
            source.write(addresses[path][1:], (build / path).read_bytes())
        if figures or addresses:
            parts += [f"## {plain(notebook.title)}", pages.directive("container", "gallery", "\n".join(figures))]
            parts += [pages.table_links(notebook, addresses)]
    return "\n\n".join(parts)


def _reference(source: Source) -> str:
    """A page per room of `ktda`, with the modules in it, and here their list; a command line is no reference."""
    rows, rooms = [], {}
    for path in sorted(path for path in PACKAGE.rglob("*.py") if path.stem != "__main__" and path.parent.name != "cli"):
        name = module_name(PurePosixPath(path.relative_to(PACKAGE.parent).as_posix()))
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        page = reference_page(name)
        rows.append([f"[{name}]({page}.md)", plain(about.partition("\n")[0].replace("`", ""))])
        members = pages.directive("eval-rst", "", f".. automodule:: {name}\n   :members:")
        rooms.setdefault(page, []).append(f"## {name}\n\n{members}")
    for page, modules in rooms.items():
        text = "\n".join(modules)
        source.write(f"api/{page}.md", text.removeprefix("#") if len(modules) == 1 else f"# {page}\n\n{text}")
    return f"# The modules of ktda\n\n{table(['module', 'what'], rows)}\n" + pages.contents({"": list(rooms)})
