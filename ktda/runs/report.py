"""The report: every notebook in order, each in a kernel process of its own, and a page over what they made.

What a notebook makes lies in ``OUT/build/NN_topic/``: figures with the sidecar ``figures.json`` (a list of
``file``, ``title``, ``caption``), tables as csv, run folders with ``metrics.json``. Beside it are the
executed copy, its manifest and its HTML.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ktda.errors import InputError
from ktda.runs.notebook import Notebook, NotebookFailed, checkout_root, find_notebook, read_notebook, run_notebook
from ktda.runs.page import index_page, notebook_page
from ktda.runs.record import commit, content_hash, now, source_hash, versions, write_beside

PRESETS = ("smoke", "demo")


@dataclass(frozen=True)
class Result:
    """How one notebook went.

    Attributes:
        name: The notebook's stem.
        title: Its first heading.
        status: finished, unchanged or failed.
        seconds: Wall time of the run whose results are shown; None where it failed before starting.
        reason: Why it failed.
    """

    name: str
    title: str
    status: str
    seconds: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Report:
    """The written page and how each notebook went, in order."""

    index: Path
    results: list[Result]

    @property
    def failed(self) -> list[str]:
        """Names of the notebooks that failed."""
        return [result.name for result in self.results if result.status == "failed"]


def build_report(
    preset: str = "smoke",
    out: Path | str = Path("reports"),
    *,
    fresh: bool = False,
    notebooks: Path | None = None,
    echo: Callable[[str], None] = lambda line: None,
) -> Report:
    """Run what changed, and write ``OUT/index.html``; a failing notebook does not stop the others.

    Args:
        preset: smoke or demo; given to notebooks that declare ``PRESET``.
        out: Folder of the report.
        fresh: Run every notebook, also those whose source, parameters and package are as they were.
        notebooks: Their folder; ``notebooks/`` of the working directory or of the checkout by default.
        echo: Told one line per notebook.

    Raises:
        InputError: An unknown preset, or no notebooks.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r} for a report; expected one of {', '.join(PRESETS)}")
    sources = _sources(notebooks)
    out = Path(out)
    build = out / "build"
    build.mkdir(parents=True, exist_ok=True)
    width = max(len(path.stem) for path in sources)
    results = []
    for path in sources:
        result = _run_one(path, preset, build, fresh)
        results.append(result)
        seconds = "" if result.seconds is None else f"{result.seconds:8.1f} s"
        echo(f"{result.name:{width}}  {result.status:9}  {seconds}  {result.reason or ''}".rstrip())
    for result in results:  # all at once, so that links between notebooks resolve
        executed = _executed(build, result.name)
        if executed is not None:
            page = notebook_page(executed, sources[0].parent, build, [path.stem for path in sources])
            write_beside(build / f"{result.name}.html", page)
    provenance = {"preset": preset, "written": now(), **commit(), **versions()}
    write_beside(out / "index.html", index_page(results, build, provenance))
    return Report(out / "index.html", results)


def notebook_parameters(notebook: Notebook, preset: str, folder: Path) -> dict[str, Any]:
    """What a report gives a notebook: ``PRESET`` and ``OUT``, where it declares them.

    Args:
        folder: ``OUT`` of the notebook. One exception: ``OUT`` of 05_training is a run folder, and its
            ``DATA`` is the real sample where that is on this machine.
    """
    values = {"PRESET": preset, "OUT": folder.as_posix()}
    if notebook.path.stem == "05_training":
        from ktda.data.builtin import locate

        values["OUT"] = (folder / "run").as_posix()
        if locate("l8_biome_sample") is not None:
            values["DATA"] = "l8_biome_sample"
    return {name: value for name, value in values.items() if name in notebook.parameters}


def _sources(folder: Path | None) -> list[Path]:
    """The numbered notebooks, in order."""
    root = checkout_root()
    folders = [folder] if folder else [Path("notebooks"), *([root / "notebooks"] if root else [])]
    for candidate in folders:
        found = sorted(candidate.glob("[0-9][0-9]_*.ipynb"))
        if found:
            return found
    if folder is None and root is None:
        find_notebook("NN_topic.ipynb")  # says that the package came without notebooks
    raise InputError(f"no notebooks NN_topic.ipynb under {', '.join(map(str, folders))}")


def _run_one(path: Path, preset: str, build: Path, fresh: bool) -> Result:
    """Run one notebook if anything that it depends on changed since it last finished."""
    name, output, key_file = path.stem, build / path.name, build / f"{path.stem}.key"
    try:
        notebook = read_notebook(path)
        parameters = notebook_parameters(notebook, preset, build / name)
    except InputError as error:
        return Result(name, name, "failed", None, str(error))
    title = _title(notebook)
    key = content_hash([notebook.sha256, parameters, source_hash(), versions()])
    if not fresh and output.is_file() and key_file.is_file() and key_file.read_text() == key:
        return Result(name, title, "unchanged", _seconds(build, name))
    key_file.unlink(missing_ok=True)
    # Figures and runs of an earlier source must not be taken for this one's.
    shutil.rmtree(build / name, ignore_errors=True)
    (build / name).mkdir()
    try:
        run_notebook(path, parameters, output)
    except InputError as error:
        return Result(name, title, "failed", None, str(error))
    except NotebookFailed as error:
        return Result(name, title, "failed", _seconds(build, name), f"cell {error.cell_index}: {error.reason}")
    write_beside(key_file, key)
    return Result(name, title, "finished", _seconds(build, name))


def _executed(build: Path, name: str) -> Path | None:
    """The executed copy to show: the finished one, else the failed one."""
    for path in (build / f"{name}.ipynb", build / f"{name}.failed.ipynb"):
        if path.is_file():
            return path
    return None


def _seconds(build: Path, name: str) -> float | None:
    manifest = build / f"{name}.manifest.json"
    return json.loads(manifest.read_text())["seconds"] if manifest.is_file() else None


def _title(notebook: Notebook) -> str:
    """The first heading, else the file's name."""
    for cell in notebook.content.cells:
        if cell.cell_type == "markdown" and cell.source.lstrip().startswith("# "):
            return cell.source.lstrip().splitlines()[0].lstrip("# ").strip()
    return notebook.path.stem
