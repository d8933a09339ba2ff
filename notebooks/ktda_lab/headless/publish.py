"""A report for people who browse the repository: Markdown and small pictures, in ``OUT/published/report``.

Every notebook that finished becomes a page ``NN_topic.md`` with its pictures and tables in ``NN_topic/``;
``README.md`` holds the headline, the figures with their captions and the provenance.
"""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ktda.errors import InputError
from ktda.files import write_beside
from ktda_lab.headless.page import made_by, readable, render

LIMIT = 8_000_000  # bytes of everything that is published


def check_publishable(preset: str) -> None:
    """Refuse before anything runs.

    Raises:
        InputError: The preset's numbers mean nothing.
    """
    if preset != "demo":
        raise InputError(f"a report at preset {preset} is not published; give --preset demo")


def publish_report(
    results: Sequence[Any], build: Path, source_folder: Path, provenance: dict[str, Any], limit: int = LIMIT
) -> Path:
    """Replace ``published/report`` beside `build`; what else is published stays as it is.

    Args:
        results: Every `ktda_lab.headless.report.Result`.
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
    failed = [result.name for result in results if result.status == "failed"]
    if failed:
        raise InputError(f"{', '.join(failed)} failed; a report is published when all its notebooks have finished")
    folder = build.parent / "published" / "report"
    partial = folder.with_name(".report.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    made = [made_by(result, build, build) for result in results]
    for notebook in made:
        paths = [figure["file"] for figure in notebook["figures"]]
        for path in paths + [path for formats in notebook["tables"].values() for path in formats.values()]:
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            (partial / path).write_bytes(_small((build / path).read_bytes(), path))
        name = notebook["result"].name
        text, pictures = _markdown(readable(build / f"{name}.ipynb", source_folder, folder, ".md"), f"{name}/output")
        for path, content in pictures.items():  # shown, but not saved as a figure
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            (partial / path).write_bytes(_small(content, path))
        write_beside(partial / f"{name}.md", text)
    write_beside(partial / "README.md", render("published.md.j2", folder, made, provenance))
    kept = [path for path in folder.parent.rglob("*") if path.is_file() and folder not in path.parents]
    total = sum(path.stat().st_size for path in kept)  # the new one is among them
    if total > limit:
        shutil.rmtree(partial)
        raise InputError(f"{folder.parent} would have {total:,} bytes; at most {limit:,} are published")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


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
