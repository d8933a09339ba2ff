"""The pages of a report: a notebook as HTML or Markdown, and the index. Nothing in them loads from the network."""

import ast
import fnmatch
import html
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ktda.files import read_json

TEMPLATES = Path(__file__).parent / "templates"
WIDGET = "application/vnd.jupyter.widget-view+json"


def copy_mathjax(build: Path) -> None:
    """Put MathJax beside the pages, once: what they need of the copy that a package brings."""
    source = Path(importlib.util.find_spec("jupyter_server_mathjax").origin).parent / "static"
    if not (build / "mathjax").is_dir():
        shutil.rmtree(build / "mathjax.partial", ignore_errors=True)
        ignored = shutil.ignore_patterns("a11y", "localization", "SVG")
        shutil.copytree(source, build / "mathjax.partial", ignore=ignored)
        (build / "mathjax.partial").rename(build / "mathjax")


def notebook_page(executed: Path, source_folder: Path) -> str:
    """An executed notebook as one HTML page, to lie beside it, its figures and ``mathjax/``."""
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    exporter = HTMLExporter(raw_template=(TEMPLATES / "notebook.html.j2").read_text())
    styles = {name: HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("friendly", "monokai")}
    content = readable(executed, source_folder, executed.parent, ".html")
    return exporter.from_notebook_node(content, {"metadata": {"name": executed.stem}, "styles": styles})[0]


def readable(executed: Path, source_folder: Path, place: Path, suffix: str) -> Any:
    """An executed notebook as its page shows it.

    Args:
        executed: The executed copy, beside the folder of what it made.
        source_folder: Where relative links start; they are led to what they mean, those to notebooks to their pages.
        place: Folder of the page, where what the notebook made lies under its name.
        suffix: Of the pages, such as ".html".

    Returns:
        The notebook; a figure that was saved is shown from its file, a widget by its picture or a note.
    """
    import nbformat

    def relink(match: re.Match) -> str:
        target, mark, anchor = match[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        moved = Path(os.path.relpath(source_folder / target, place))
        if moved.suffix == ".ipynb":
            moved = Path(moved.with_suffix(suffix).name)
        return f"{match[1]}{moved.as_posix()}{mark}{anchor}{match[3]}"

    content = nbformat.read(executed, as_version=4)
    figures = saved_figures(executed.parent / executed.name.partition(".")[0], executed.parent)
    for cell in content.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"""(\]\(|(?:src|href)=["'])([^)\s"']+)([)"'])""", relink, cell.source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if data.pop(WIDGET, None) and "image/png" not in data:
                bar = "%|" in data.get("text/plain", "")  # of progress, which has nothing more to say
                data["text/markdown"] = "" if bar else "*Sliders and menus: open the notebook in JupyterLab.*"
            if "text/html" in data:  # Markdown on the web shows a style as text
                data["text/html"] = re.sub(r"<style.*?</style>\s*", "", data["text/html"], flags=re.DOTALL)
        _show_from_files(cell, figures)
    return content


def saved_figures(folder: Path, start: Path) -> list[dict[str, Any]]:
    """What the sidecars ``figures.json`` under a folder say; files as paths from `start`, with width and height."""
    from PIL import Image

    found = []
    for sidecar in sorted(folder.rglob("figures.json")):
        for figure in json.loads(sidecar.read_text(encoding="utf-8")):
            path = sidecar.parent / figure["file"]
            with Image.open(path) as image:
                width, height = image.size
            where = path.relative_to(start).as_posix()
            found.append(figure | {"file": where, "width": width, "height": height})
    return found


def made_by(result: Any, build: Path, start: Path) -> dict[str, Any]:
    """What one notebook made, with paths from `start` on: figures, tables (their formats by name), runs."""
    folder, tables, runs = build / result.name, {}, []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".csv", ".md", ".tex")):
        tables.setdefault(path.stem, {})[path.suffix[1:]] = path.relative_to(start).as_posix()
    for path in sorted(folder.rglob("metrics.json")):
        where = path.parent.relative_to(build).as_posix()
        runs.append(
            {"folder": where, "metrics": read_json(path), "manifest": read_json(path.with_name("manifest.json"))}
        )
    page = (build / f"{result.name}.html").is_file()
    return {"result": result, "page": page, "figures": saved_figures(folder, start), "tables": tables, "runs": runs}


def index_page(results: Sequence[Any], build: Path, provenance: dict[str, Any]) -> str:
    """The report's front page, over every `report.Result` and what lies in `build`, the folder beside it."""
    made = [made_by(result, build, build.parent) for result in results]
    return render("index.html.j2", build.parent, made, provenance)


def render(template: str, place: Path, notebooks: list[dict[str, Any]], provenance: dict[str, Any]) -> str:
    """A page over all notebooks, to lie in `place`."""
    from jinja2 import Environment, FileSystemLoader

    from ktda_lab.ablations.tables import markdown
    from ktda_lab.headless.headline import read_headline

    headline = read_headline()
    folder = Path(os.path.relpath(headline.folder, place)).as_posix() if headline else None
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=template.endswith(".html.j2"))
    environment.filters["markdown_table"] = markdown
    return environment.get_template(template).render(
        notebooks=notebooks, provenance=provenance, headline=headline, folder=folder
    )


def _show_from_files(cell: Any, figures: list[dict[str, Any]]) -> None:
    """Let the images that a cell shows come from the files that it saved, if it saved as many."""
    images = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    if not images or "save_figure(" not in cell.source:
        return
    saved = []
    for node in ast.walk(ast.parse(cell.source)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "save_figure":
            names = [keyword.value for keyword in node.keywords if keyword.arg == "name"] + node.args[2:3]
            parts = getattr(names[0], "values", [names[0]]) if names else []  # of an f-string, or the string itself
            pattern = "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in parts)
            saved += [f for f in figures if fnmatch.fnmatch(Path(f["file"]).stem, pattern) and f not in saved]
    if len(saved) == len(images):
        for output, figure in zip(images, saved, strict=True):
            size = f'width="{figure["width"]}" height="{figure["height"]}"'
            title = html.escape(figure["title"])
            output.data = {"text/html": f'<img src="{figure["file"]}" alt="{title}" {size}>'}
