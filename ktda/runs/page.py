"""The pages of a report: a notebook as HTML, and the index. Nothing in them loads from the network."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"


def notebook_page(executed: Path, source_folder: Path) -> str:
    """An executed notebook as one HTML page without scripts, to lie beside it.

    Relative links, which start at `source_folder`, are led to what they mean, those to notebooks to their pages.
    """
    import nbformat
    from nbconvert import HTMLExporter

    def relink(match: re.Match) -> str:
        target, mark, anchor = match[1].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        moved = Path(os.path.relpath(source_folder / target, executed.parent))
        if moved.suffix == ".ipynb":
            moved = Path(moved.with_suffix(".html").name)
        return f"]({moved.as_posix()}{mark}{anchor})"

    content = nbformat.read(executed, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\(([^)\s]+)\)", relink, cell.source)
    exporter = HTMLExporter(raw_template=(TEMPLATES / "notebook.html.j2").read_text())
    return exporter.from_notebook_node(content, {"metadata": {"name": executed.stem}})[0]


def index_page(results: Sequence[Any], build: Path, provenance: dict[str, Any]) -> str:
    """The report's front page, over every `ktda.runs.report.Result` and what lies in `build`, the folder beside it."""
    from jinja2 import Environment, FileSystemLoader

    template = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template("index.html.j2")
    return template.render(notebooks=[_made(result, build) for result in results], provenance=provenance)


def _made(result: Any, build: Path) -> dict[str, Any]:
    """What one notebook made, with paths from the page on."""
    folder = build / result.name
    figures = []
    for sidecar in sorted(folder.rglob("figures.json")):
        place = sidecar.parent.relative_to(build.parent).as_posix()
        figures += [figure | {"file": f"{place}/{figure['file']}"} for figure in json.loads(sidecar.read_text())]
    runs = []
    for path in sorted(folder.rglob("metrics.json")):
        manifest = json.loads(path.with_name("manifest.json").read_text())
        where = path.parent.relative_to(build).as_posix()
        runs.append({"folder": where, "metrics": json.loads(path.read_text()), "manifest": manifest})
    return {
        "result": result,
        "page": (build / f"{result.name}.html").is_file(),
        "figures": figures,
        "runs": runs,
        "tables": [path.relative_to(build.parent).as_posix() for path in sorted(folder.rglob("*.csv"))],
    }
