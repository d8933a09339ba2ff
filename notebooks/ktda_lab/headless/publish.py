"""A report for people who browse the repository: Markdown and small pictures, in ``OUT/published/report``.

Every notebook that finished becomes a page ``NN_topic.md`` with its pictures and tables in ``NN_topic/``;
``README.md`` holds the headline, the figures with their captions and the provenance.
"""

import ast
import fnmatch
import html
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ktda.errors import InputError
from ktda.files import write_beside
from ktda_lab.book import pages
from ktda_lab.book.executed import Made, readable
from ktda_lab.book.headline import headline_text, read_headline
from ktda_lab.book.text import plain

LIMIT = 12_000_000  # bytes of everything that is published


def check_publishable(preset: str) -> None:
    """Refuse before anything runs.

    Raises:
        InputError: The preset's numbers mean nothing.
    """
    if preset != "demo":
        raise InputError(f"a report at preset {preset} is not published; give --preset demo")


def publish_report(
    made: Sequence[Made], build: Path, source_folder: Path, provenance: dict[str, Any], limit: int = LIMIT
) -> Path:
    """Replace ``published/report`` beside `build`; what else is published stays as it is.

    Args:
        made: What every notebook made, under `build`.
        build: What the report built.
        source_folder: The notebooks' folder, where their links start.
        provenance: Shown at the end.
        limit: Bytes that all that is published may have.

    Returns:
        The folder.

    Raises:
        InputError: A smoke report, a failed notebook, or too many bytes; nothing has changed.
    """
    check_publishable(provenance["preset"])
    failed = [notebook.name for notebook in made if notebook.status == "failed"]
    if failed:
        raise InputError(f"{', '.join(failed)} failed; a report is published when all its notebooks have finished")
    folder = build.parent / "published" / "report"
    partial = folder.with_name(".report.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)

    def put(path: str, content: bytes) -> None:
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        (partial / path).write_bytes(_small(content, path))

    def relink(target: str) -> str:
        path, mark, anchor = target.partition("#")
        moved = Path(os.path.relpath(source_folder / path, folder))
        moved = Path(moved.with_suffix(".md").name) if moved.suffix == ".ipynb" else moved
        return f"{moved.as_posix()}{mark}{anchor}"

    for notebook in made:
        paths = [figure["file"] for figure in notebook.figures]
        for path in paths + [path for formats in notebook.tables.values() for path in formats.values()]:
            put(path, (build / path).read_bytes())
        content = readable(build / f"{notebook.name}.ipynb", relink)
        for cell in content.cells:
            _show_from_files(cell, notebook.figures)
        text, pictures = _markdown(content, f"{notebook.name}/output")
        for path, picture in pictures.items():  # shown, but not saved as a figure
            put(path, picture)
        write_beside(partial / f"{notebook.name}.md", text)
    write_beside(partial / "README.md", _front(made, folder, provenance))
    kept = [path for path in folder.parent.rglob("*") if path.is_file() and folder not in path.parents]
    total = sum(path.stat().st_size for path in kept)  # the new one is among them
    if total > limit:
        shutil.rmtree(partial)
        raise InputError(f"{folder.parent} would have {total:,} bytes; at most {limit:,} are published")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def _front(made: Sequence[Made], folder: Path, provenance: dict[str, Any]) -> str:
    """The README: headline, notebooks, figures with captions and tables, provenance."""
    parts = [f"# A report at preset {plain(provenance['preset'])}"]
    parts += ["Made by `make publish` from the notebooks of this repository."]
    headline = read_headline()
    if headline:
        place = Path(os.path.relpath(headline.folder, folder)).as_posix()
        parts += ["## What each part is worth", plain(headline.question)]
        parts += [headline_text(headline, f"[{headline.folder.name}]({place})")]
    addresses = {notebook.name: f"{notebook.name}.md" for notebook in made}
    parts += ["## Notebooks", pages.notebook_table(made, addresses), pages.run_table(made)]
    for notebook in made:
        shown = [f"![{plain(f['title'])}]({f['file']})\n\n{pages.caption(f)}" for f in notebook.figures]
        paths = [path for formats in notebook.tables.values() for path in formats.values()]
        shown.append(pages.table_links(notebook, {path: path for path in paths}))
        if any(shown):
            parts += [f"## {plain(notebook.title)}", f"[Read the notebook]({notebook.name}.md)", *shown]
    parts += ["## Provenance", pages.provenance_table(provenance)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


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
            output.data = {"text/html": f'<img src="{figure["file"]}" alt="{html.escape(figure["title"])}" {size}>'}


def _markdown(content: Any, pictures: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and the pictures of it by path; names start with `pictures`."""
    from nbconvert import MarkdownExporter

    start = {"output_files_dir": str(Path(pictures).parent), "unique_key": Path(pictures).name}
    text, resources = MarkdownExporter().from_notebook_node(content, start)
    return text.strip() + "\n", dict(resources["outputs"])


def _small(content: bytes, path: str) -> bytes:
    """A png with at most 256 colours, which takes about a third of the bytes; anything else as it is."""
    if not path.endswith(".png"):
        return content
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        small = io.BytesIO()
        image.convert("RGB").quantize(256).save(small, "png", optimize=True)
    return min(content, small.getvalue(), key=len)
