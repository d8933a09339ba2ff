"""The report: every notebook in order, each in a kernel process of its own, and a page over what they made.

What a notebook makes lies in ``OUT/build/NN_topic/``: figures with the sidecar ``figures.json`` (a list of
``file``, ``title``, ``caption``), tables as csv, run folders with ``metrics.json``. Beside it are the
executed copy and its manifest, and over all of them ``OUT/book/``.
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ktda.errors import InputError
from ktda.files import PACKAGE, now, read_json, write_json
from ktda.runs.record import commit, elapsed, versions
from ktda_lab.book.build import build_book, check_installed
from ktda_lab.book.executed import made_by
from ktda_lab.folders import output_folder
from ktda_lab.headless.notebook import FOLDERS, Notebook, NotebookFailed, read_notebook, results_hash, run_notebook
from ktda_lab.headless.publish import check_publishable, publish_report

PRESETS = ("smoke", "demo")
LAB = Path(__file__).parents[1]


@dataclass(frozen=True)
class Result:
    """How one notebook went: status is finished, unchanged or failed; reason says why it failed."""

    name: str
    title: str
    status: str
    seconds: float | None = None
    reason: str | None = None
    question: str = ""  # that the notebook asks below its title


def build_report(
    preset: str = "smoke",
    out: Path | str = Path("reports"),
    *,
    notebooks: Path | None = None,
    publish: bool = False,
    echo: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Run what changed, and write ``OUT/book`` and ``OUT/index.html``; a failing notebook does not stop the others.

    Args:
        preset: smoke or demo; given to notebooks that declare ``PRESET``.
        notebooks: Their folder; ``notebooks/`` of the working directory or of the checkout by default.
        publish: Copy it to ``OUT/published/report`` if all notebooks have finished.
        echo: Told one line per notebook.

    Raises:
        InputError: An unknown preset, no notebooks, no Sphinx, or a report that is not to be published.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r} for a report; expected one of {', '.join(PRESETS)}")
    if publish:
        check_publishable(preset)
    folders = [notebooks] if notebooks else FOLDERS
    sources = next(filter(None, (sorted(folder.glob("[0-9][0-9]_*.ipynb")) for folder in folders)), [])
    if not sources:
        raise InputError(f"no notebooks under {folders[0]}; run this command in a clone of the repository")
    check_installed()
    build = output_folder(out) / "build"
    build.mkdir(parents=True, exist_ok=True)
    results = []
    for path in sources:
        result = _run_one(path, preset, build)
        seconds = "" if result.seconds is None else f"{result.seconds:.0f} s"
        echo(f"{result.name:24} {result.status:9} {seconds:>6} {result.reason or ''}".rstrip())
        results.append(result)
    provenance = {"preset": preset, "written": now(), **commit(), **versions()}
    made = [made_by(result, build) for result in results]
    for warning in build_book(made, build, sources[0].parent, provenance):
        echo(f"book: {warning}")
    if publish:
        echo(f"published in {publish_report(made, build, sources[0].parent, provenance)}")
    return results


def report_hash() -> str:
    """SHA-256 over what a notebook computes with: both packages but for the book, which only shows it."""
    digest = hashlib.sha256()
    for folder in (PACKAGE, LAB):
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.suffix in (".py", ".yaml", ".safetensors") and name.parts[0] != "book":
                digest.update(f"{folder.name}/{name.as_posix()}".encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def notebook_parameters(notebook: Notebook, preset: str, folder: Path) -> dict[str, Any]:
    """What a report gives a notebook: ``PRESET`` and ``OUT``, where it declares them.

    ``OUT`` is the notebook's folder. One exception: that of 05_training is a run folder in it, and its
    ``DATA`` is the real sample where that is on this machine.
    """
    values = {"PRESET": preset, "OUT": folder.as_posix()}
    if notebook.path.stem == "05_training":
        from ktda.data.builtin import locate

        values["OUT"] = (folder / "run").as_posix()
        if locate("l8_biome_sample") is not None:
            values["DATA"] = "l8_biome_sample"
    return {name: value for name, value in values.items() if name in notebook.parameters}


def _run_one(path: Path, preset: str, build: Path) -> Result:
    """Run one notebook if anything that it depends on changed since it last finished."""
    about, folder, manifest = {"title": path.stem}, build / path.stem, build / f"{path.stem}.manifest.json"
    try:
        notebook = read_notebook(path)
        opening = "\n\n".join(c.source for c in notebook.content.cells if c.cell_type == "markdown").split("\n\n")
        question = next((paragraph for paragraph in opening[1:4] if paragraph.endswith("?")), "").replace("*", "")
        about = {"title": opening[0].partition("\n")[0].lstrip("# ") or path.stem, "question": question}
        given = notebook_parameters(notebook, preset, folder)
        values = {name: parameter.default for name, parameter in notebook.parameters.items()} | given
        wanted = {
            "status": "finished",
            "source_sha256": notebook.sha256,
            "parameters": values,
            "results_sha256": results_hash(values),
            "report_hash": report_hash(),
            "versions": versions(),
        }
        before = read_json(manifest) if manifest.is_file() else {}
        if wanted.items() <= before.items():
            return Result(path.stem, status="unchanged", seconds=elapsed(before), **about)
        # Figures and runs of an earlier source must not be taken for this one's.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        run_notebook(path, given, build / path.name)
        write_json(manifest, read_json(manifest) | {"report_hash": wanted["report_hash"]})
    except InputError as error:
        return Result(path.stem, status="failed", reason=str(error), **about)
    except NotebookFailed as error:
        reason = str(error).splitlines()[0]
        return Result(path.stem, status="failed", seconds=elapsed(read_json(manifest)), reason=reason, **about)
    return Result(path.stem, status="finished", seconds=elapsed(read_json(manifest)), **about)
