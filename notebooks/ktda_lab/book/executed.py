"""An executed notebook as a reader sees it, and what it made: figures, tables, runs."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ktda.files import read_json

HIDDEN = "remove-cell"  # tag of a cell that is for provenance: versions, hashes, paths
WIDGET = "application/vnd.jupyter.widget-view+json"
TAGS = ["a", "b", "br", "code", "div", "em", "i", "li", "ol", "p", "small", "strong", "sub", "sup", "ul"]
TAGS += ["table", "tbody", "td", "tfoot", "th", "thead", "tr"]
SPANS = ["colspan", "rowspan"]
ATTRIBUTES = {"a": ["href", "title"], "table": ["class"], "td": SPANS, "th": SPANS}
LINK = re.compile(r"""(\]\(|(?:src|href)=["'])([^)\s"']+)([)"'])""")


@dataclass(frozen=True)
class Made:
    """What one notebook made, with paths from the report's ``build/`` on.

    Attributes:
        name, title, question: Of the notebook.
        status: finished, unchanged or failed; `reason` says why it failed.
        seconds: It took; None if it did not start.
        figures: What the sidecars ``figures.json`` say, with width and height in pixels.
        tables: Path by format by name.
        runs: Folder, metrics and manifest of each run.
    """

    name: str
    title: str
    question: str
    status: str
    reason: str | None
    seconds: float | None
    figures: list[dict[str, Any]]
    tables: dict[str, dict[str, str]]
    runs: list[dict[str, Any]]


def made_by(result: Any, build: Path) -> Made:
    """What the notebook of a `ktda_lab.headless.report.Result` made under `build`."""
    folder, tables, runs = build / result.name, {}, []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".csv", ".md", ".tex")):
        tables.setdefault(path.stem, {})[path.suffix[1:]] = path.relative_to(build).as_posix()
    for path in sorted(folder.rglob("metrics.json")):
        manifest = read_json(path.with_name("manifest.json"))
        where = path.parent.relative_to(build).as_posix()
        runs.append({"folder": where, "metrics": read_json(path), "manifest": manifest})
    return Made(**vars(result), figures=saved_figures(folder, build), tables=tables, runs=runs)


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


def executed_copy(name: str, build: Path) -> Path | None:
    """The executed notebook, or how far it came, or None if it did not start."""
    copies = (build / f"{name}.ipynb", build / f"{name}.partial.ipynb")
    return next((path for path in copies if path.is_file()), None)


def readable(executed: Path, relink: Callable[[str], str]) -> Any:
    """An executed notebook without what repeats versions and paths, and without markup that came with the data.

    Args:
        executed: The executed copy.
        relink: Given the target of each local link of its texts; says where it leads instead.

    Returns:
        The notebook. Of outputs only text, harmless HTML and pictures are left; a widget is its picture or a note.
    """
    import nbformat
    from nbconvert.preprocessors.sanitize import SanitizeHTML

    content = nbformat.read(executed, as_version=4)
    content.cells = [cell for cell in content.cells if HIDDEN not in cell.metadata.get("tags", [])]
    sanitise = SanitizeHTML(tags=TAGS, attributes=ATTRIBUTES, safe_output_keys={"text/plain", "image/png"})
    for place in (content, *content.cells):
        place.metadata.pop("papermill", None)  # times, with which every copy would be another one
    for cell in content.cells:
        if cell.cell_type == "markdown":
            cell.source = relinked(cell.source, relink)
            continue
        outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for data in (output.data for output in outputs if "data" in output):
            if data.pop(WIDGET, None) and "image/png" not in data:
                bar = "%|" in data.get("text/plain", "")  # of progress, which has nothing more to say
                data["text/markdown"] = "" if bar else "*Sliders and menus: open the notebook in JupyterLab.*"
            if "text/html" in data:
                data["text/html"] = re.sub(r"<style.*?</style>\s*", "", data["text/html"], flags=re.DOTALL)
        cell.outputs = sanitise.sanitize_code_outputs(outputs)
    return content


def relinked(text: str, relink: Callable[[str], str]) -> str:
    """A Markdown text with its local links led elsewhere; those to the network and within the page stay."""

    def lead(match: re.Match) -> str:
        local = not re.match(r"[a-z]+:|#", match[2])
        return f"{match[1]}{relink(match[2])}{match[3]}" if local else match[0]

    return LINK.sub(lead, text)
