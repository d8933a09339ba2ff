"""Run a notebook from top to bottom without a browser: the one strict way to papermill.

papermill 2.7 exits 0 on an unknown parameter and on a lost ``parameters`` tag, takes whichever kernel is
registered, and leaves a half-executed file under the final name. Here names and types are checked before
the launch, and what lies under the final name is finished and belongs to the manifest beside it.
"""

import contextlib
import hashlib
import importlib.util
import logging
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ktda
from ktda.errors import InputError
from ktda.runs.kernel import KernelProcess, ends_with_us, kernel_manager_class
from ktda.runs.parameters import Parameter, check_values, declared_parameters
from ktda.runs.record import commit, now, write_json

# Seconds to wait for a cell's last output after it has ended. papermill's 4 are too few after a chatty cell.
_IOPUB_TIMEOUT = 600
_SHOWN_SOURCE_LINES = 25
_SHOWN_ERROR_LINES = 6


class NotebookFailed(RuntimeError):
    """A cell failed; the message shows it and where the half-executed notebook was kept.

    Attributes:
        cell_index: Position of the cell in the source notebook, from 0; None when no cell had started.
        reason: The error's last line.
    """

    def __init__(self, message: str, cell_index: int | None, reason: str) -> None:
        super().__init__(message)
        self.cell_index = cell_index
        self.reason = reason


@dataclass(frozen=True)
class Notebook:
    """A notebook as it was read: one reading serves validation, hash and execution."""

    path: Path
    content: Any
    sha256: str
    parameters: dict[str, Parameter]


def checkout_root() -> Path | None:
    """The project's checkout that this package runs from; None where it is installed without one."""
    root = Path(ktda.__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def find_notebook(source: str | Path) -> Path:
    """The file as given, else under ``notebooks/`` of the working directory, else of the checkout.

    Raises:
        InputError: There is none; says so in its own words where the package came without notebooks.
    """
    given = Path(source)
    root = checkout_root()
    folders = [Path(), Path("notebooks"), *([root / "notebooks"] if root else [])]
    names = [given] if given.suffix == ".ipynb" else [given, given.with_name(given.name + ".ipynb")]
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    if root is None and not Path("notebooks").is_dir():
        raise InputError(
            f"no notebook {source}: the notebooks are not part of the installed package; clone the repository "
            "and run this command in it"
        )
    known = sorted({path.name for folder in folders[1:] for path in folder.glob("*.ipynb")})
    raise InputError(f"no notebook {source}; there are {', '.join(known) or 'none under notebooks/'}")


def read_notebook(source: str | Path) -> Notebook:
    """Find and read a notebook and its parameters cell.

    Raises:
        InputError: Not found, not a notebook, an executed copy, or a parameters cell that breaks the rules.
    """
    path = find_notebook(source)
    if importlib.util.find_spec("papermill") is None:
        raise InputError("running notebooks needs papermill: pip install 'ktda[notebooks]'")
    import nbformat

    raw = path.read_bytes()
    try:
        content = nbformat.reads(raw.decode(), as_version=4)
    except (ValueError, KeyError, AttributeError) as error:  # NotJSONError and UnicodeDecodeError are ValueErrors
        raise InputError(f"{path} is not a Jupyter notebook: {str(error).strip().splitlines()[0][:120]}") from None
    if any("injected-parameters" in cell.metadata.get("tags", []) for cell in content.cells):
        raise InputError(f"{path} is an executed copy (it holds injected parameters); run its source")
    return Notebook(path, content, hashlib.sha256(raw).hexdigest(), declared_parameters(content, path.name))


def run_notebook(
    source: str | Path,
    parameters: dict[str, Any],
    output: str | Path,
    *,
    timeout: int | None = None,
    cwd: str | Path | None = None,
    progress: bool = False,
) -> Path:
    """Execute a notebook with parameters and write the executed copy.

    While it runs the copy is ``NAME.partial.ipynb``; if it fails it is kept as ``NAME.failed.ipynb``.
    ``NAME.manifest.json`` tells the story from the start on. An earlier output is removed at the launch.

    Args:
        source: A file, or a name under ``notebooks/`` (see `find_notebook`).
        parameters: Values by name, of the declared types.
        output: The executed copy, ``*.ipynb``; never the source.
        timeout: Seconds that one cell may take; None for no limit.
        cwd: Working directory of the kernel; None for this process's.
        progress: Show a bar over the cells.

    Returns:
        The executed copy's path.

    Raises:
        InputError: Bad notebook, parameters or output; nothing was started or written.
        NotebookFailed: A cell failed, ran past the timeout, or the kernel died.
    """
    notebook = read_notebook(source)
    check_values(notebook.parameters, parameters, notebook.path.name)
    values = {name: parameter.default for name, parameter in notebook.parameters.items()} | parameters
    if {"PRESET", "OVERRIDES"} <= values.keys():
        from ktda.config import make_config

        make_config(values["PRESET"], values["OVERRIDES"], values.get("DATA", ""))
    paths = _Paths(Path(output), notebook.path)

    paths.output.parent.mkdir(parents=True, exist_ok=True)
    for stale in (paths.output, paths.partial, paths.failed):
        stale.unlink(missing_ok=True)
    record = {
        "notebook": notebook.path.name,
        "source_sha256": notebook.sha256,
        "parameters": values,
        "ktda": ktda.__version__,
        **commit(),
        "status": "running",
        "start": now(),
        "end": None,
        "seconds": None,
        "error": None,
    }
    write_json(paths.manifest, record)
    started = time.monotonic()
    try:
        _execute(notebook, parameters, paths, timeout, cwd, progress)
        record["status"] = "finished"
    except BaseException as error:
        record["status"] = "failed"
        record["error"] = error.reason if isinstance(error, NotebookFailed) else f"ended by {error!r}"
        if paths.partial.exists():
            _settle(paths.partial, paths.failed, notebook.path.name)
        raise
    finally:
        write_json(paths.manifest, record | {"end": now(), "seconds": round(time.monotonic() - started, 2)})
    return paths.output


class _Paths:
    """Where a run writes: all beside the output, none of them the source under whatever name."""

    def __init__(self, output: Path, source: Path) -> None:
        if output.suffix != ".ipynb":
            raise InputError(f"output {output} must end in .ipynb")
        if output.is_dir():
            raise InputError(f"output {output} is a folder; name a file in it")
        # The kernel's working directory may be another one, and papermill changes ours meanwhile.
        self.output = output.absolute()
        self.partial = self.output.with_suffix(".partial.ipynb")
        self.failed = self.output.with_suffix(".failed.ipynb")
        self.manifest = self.output.with_suffix(".manifest.json")
        for path in (self.output, self.partial, self.failed):
            if path.resolve() == source.resolve() or (path.exists() and path.samefile(source)):
                raise InputError(f"output {output} would overwrite the notebook {source}; choose another name")


def _execute(
    notebook: Notebook,
    parameters: dict[str, Any],
    paths: _Paths,
    timeout: int | None,
    cwd: str | Path | None,
    progress: bool,
) -> None:
    """Let papermill run the notebook, and turn every way of failing into one."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    # What it logs as an error is raised as one; without a handler it would be printed as well.
    logging.getLogger("papermill").addHandler(logging.NullHandler())
    process = KernelProcess()
    at: dict[str, Any] = {"index": None, "cell": None}
    scratch = Path(tempfile.mkdtemp(prefix="ktda-"))
    try:
        with ends_with_us(process):
            executed = papermill.execute_notebook(
                _literal(notebook.path.absolute()),
                _literal(paths.partial),
                parameters,
                kernel_name="python3",
                language="python",
                progress_bar=progress,
                cwd=cwd,
                execution_timeout=timeout,
                iopub_timeout=_IOPUB_TIMEOUT,
                kernel_manager_class=kernel_manager_class(process, scratch),
                # A widget's state is only of use to scripts from the network; its text form stays.
                store_widget_state=False,
                coalesce_streams=True,
                on_cell_execute=lambda cell, cell_index: at.update(index=cell_index, cell=cell),
            )
        # An exit from a cell stops the notebook, and papermill calls that success.
        if any(cell.metadata.papermill.exception for cell in executed.cells):
            raise _failed(notebook, paths, at, parameters, ["SystemExit: the cell ended the notebook early"])
    except PapermillExecutionError as error:
        process.raise_if_signalled()
        trace = "\n".join(error.traceback) or f"{error.ename}: {error.evalue}"
        raise _failed(notebook, paths, at, parameters, _plain(trace).splitlines()) from None
    except CellTimeoutError:
        lines = [f"TimeoutError: the cell took longer than {timeout} s, or its output did not end"]
        raise _failed(notebook, paths, at, parameters, lines) from None
    except DeadKernelError:
        process.raise_if_signalled()
        lines = ["the kernel died while this cell ran (often for want of memory, or killed from outside)"]
        raise _failed(notebook, paths, at, parameters, lines) from None
    except RuntimeError as error:
        process.raise_if_signalled()
        if isinstance(error, NotebookFailed) or at["index"] is not None:
            raise
        raise _failed(notebook, paths, at, parameters, [f"the kernel did not start: {error}"]) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    process.raise_if_signalled()
    _settle(paths.partial, paths.output, notebook.path.name)


def _failed(
    notebook: Notebook, paths: _Paths, at: dict[str, Any], parameters: dict[str, Any], lines: list[str]
) -> NotebookFailed:
    """The error a reader sees: which cell, its source, the error's last lines, where the copy is."""
    reason = next((line for line in reversed(lines) if line.strip()), "unknown error")
    if at["index"] is None:
        return NotebookFailed(f"{notebook.path.name} failed before its first cell: {reason}", None, reason)
    tagged = next(i for i, c in enumerate(notebook.content.cells) if "parameters" in c.metadata.get("tags", []))
    # papermill puts the given parameters into a cell of their own, after the declared ones.
    index = at["index"] - (1 if parameters and at["index"] > tagged else 0)
    source = at["cell"].source.splitlines()
    if len(source) > _SHOWN_SOURCE_LINES:
        source = [*source[:_SHOWN_SOURCE_LINES], "..."]
    shown = [line for line in lines if line.strip()][-_SHOWN_ERROR_LINES:]
    message = "\n".join(
        [
            f"{notebook.path.name} failed in cell {index} of {len(notebook.content.cells)} (from 0):",
            *(f"    {line}" for line in source),
            *shown,
            f"the notebook up to there is in {paths.failed.name} beside the output",
        ]
    )
    return NotebookFailed(message, index, reason)


def _settle(partial: Path, final: Path, name: str) -> None:
    """Give the executed copy its final name, without the paths of this machine that papermill notes."""
    import nbformat

    # A copy that was cut off in mid-write cannot be read; it is still worth keeping.
    with contextlib.suppress(ValueError):
        content = nbformat.read(partial, as_version=4)
        content.metadata.papermill.update(input_path=name, output_path=final.name)
        nbformat.write(content, partial)
    partial.replace(final)


def _literal(path: Path) -> str:
    """papermill formats paths with the parameters; braces are doubled to be taken as they are."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _plain(text: str) -> str:
    """Without the colour codes of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
