"""The report: every notebook in order, each in a kernel process of its own, and a page over what they made.

What a notebook makes lies in ``OUT/build/NN_topic/``: figures with the sidecar ``figures.json`` (a list of
``file``, ``title``, ``caption``), tables as csv, run folders with ``metrics.json``. Beside it are the
executed copy, its manifest and its HTML.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ktda.errors import InputError
from ktda.files import now, read_json, write_beside
from ktda.runs.record import commit, elapsed, source_hash, versions
from ktda_lab.headless.notebook import FOLDERS, Notebook, NotebookFailed, read_notebook, results_hash, run_notebook
from ktda_lab.headless.page import copy_mathjax, index_page, notebook_page
from ktda_lab.headless.publish import check_publishable, publish_report

PRESETS = ("smoke", "demo")


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
    """Run what changed, and write ``OUT/index.html``; a failing notebook does not stop the others.

    Args:
        preset: smoke or demo; given to notebooks that declare ``PRESET``.
        notebooks: Their folder; ``notebooks/`` of the working directory or of the checkout by default.
        publish: Copy it to ``OUT/published/report`` if all notebooks have finished.
        echo: Told one line per notebook.

    Raises:
        InputError: An unknown preset, no notebooks, or a report that is not to be published.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r} for a report; expected one of {', '.join(PRESETS)}")
    if publish:
        check_publishable(preset)
    folders = [notebooks] if notebooks else FOLDERS
    sources = next(filter(None, (sorted(folder.glob("[0-9][0-9]_*.ipynb")) for folder in folders)), [])
    if not sources:
        raise InputError(f"no notebooks under {folders[0]}; run this command in a clone of the repository")
    build = Path(out) / "build"
    build.mkdir(parents=True, exist_ok=True)
    copy_mathjax(build)
    results = []
    for path in sources:
        result = _run_one(path, preset, build)
        seconds = "" if result.seconds is None else f"{result.seconds:.0f} s"
        echo(f"{result.name:24} {result.status:9} {seconds:>6} {result.reason or ''}".rstrip())
        results.append(result)
        for executed in (build / path.name, build / f"{path.stem}.partial.ipynb"):
            if executed.is_file():
                write_beside(build / f"{path.stem}.html", notebook_page(executed, path.parent))
    provenance = {"preset": preset, "written": now(), **commit(), **versions()}
    write_beside(build.parent / "index.html", index_page(results, build, provenance))
    if publish:
        echo(f"published in {publish_report(results, build, sources[0].parent, provenance)}")
    return results


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
            "source_hash": source_hash(),
            "versions": versions(),
        }
        before = read_json(manifest) if manifest.is_file() else {}
        if wanted.items() <= before.items():
            return Result(path.stem, status="unchanged", seconds=elapsed(before), **about)
        # Figures and runs of an earlier source must not be taken for this one's.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        run_notebook(path, given, build / path.name)
    except InputError as error:
        return Result(path.stem, status="failed", reason=str(error), **about)
    except NotebookFailed as error:
        reason = str(error).splitlines()[0]
        return Result(path.stem, status="failed", seconds=elapsed(read_json(manifest)), reason=reason, **about)
    return Result(path.stem, status="finished", seconds=elapsed(read_json(manifest)), **about)
