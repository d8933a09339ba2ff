"""Run a notebook from top to bottom without a browser: the one strict way to papermill.

papermill 2.7 exits 0 on an unknown parameter and on a lost ``parameters`` tag, takes whichever kernel is
registered, and leaves a half-executed file under the final name. Here names and types are checked before
the launch, and what lies under the final name is finished and belongs to the manifest beside it.
"""

import hashlib
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ktda.config import make_config
from ktda.errors import InputError
from ktda.files import here_or_checkout
from ktda.runs.record import Manifest
from ktda_lab.headless.kernel import own_kernel
from ktda_lab.headless.parameters import Parameter, check_values, declared_parameters

FOLDERS = here_or_checkout("notebooks")


class NotebookFailed(RuntimeError):
    """A cell failed. The message says why in its first line; then come the cell and the end of the traceback."""


@dataclass(frozen=True)
class Notebook:
    """A notebook as it was read."""

    path: Path
    content: Any
    sha256: str
    parameters: dict[str, Parameter]


def find_notebook(source: str | Path) -> Path:
    """The file as given, else under ``notebooks/`` of the working directory, else of the checkout.

    Raises:
        InputError: There is none.
    """
    name = f"{source}".removesuffix(".ipynb") + ".ipynb"
    for folder in (Path(), *FOLDERS):
        if (folder / name).is_file():
            return folder / name
    known = ", ".join(sorted({path.name for folder in FOLDERS for path in folder.glob("*.ipynb")}))
    cure = "the installed package comes without; clone the repository and run this command in it"
    raise InputError(f"no notebook {source}; {f'there are {known}' if known else cure}")


def read_notebook(source: str | Path) -> Notebook:
    """Find and read a notebook and its parameters cell.

    Raises:
        InputError: Not found, not a notebook, an executed copy, or a parameters cell that breaks the rules.
    """
    path = find_notebook(source)
    try:
        import nbformat
    except ImportError:
        raise InputError("running notebooks needs papermill: pip install 'ktda[notebooks]'") from None
    raw = path.read_bytes()
    try:
        content = nbformat.reads(raw.decode(), as_version=4)
    except (ValueError, KeyError, AttributeError, TypeError) as error:  # NotJSONError is a ValueError
        raise InputError(f"{path} is not a Jupyter notebook: {str(error).strip().splitlines()[0][:120]}") from None
    if any("injected-parameters" in cell.metadata.get("tags", []) for cell in content.cells):
        raise InputError(f"{path} is an executed copy (it holds injected parameters); run its source")
    return Notebook(path, content, hashlib.sha256(raw).hexdigest(), declared_parameters(content, path.name))


def results_hash(values: dict[str, Any]) -> str | None:
    """SHA-256 over the files below the folders of published results that parameters other than OUT name; or None."""
    digest, found = hashlib.sha256(), False
    for name, value in sorted(values.items()):
        places = here_or_checkout(value) if isinstance(value, str) and name != "OUT" else []
        folder = next((place for place in places if value and _holds_results(place)), None)
        for path in sorted(folder.rglob("*")) if folder else ():
            if path.is_file() and path.parent.name != "report":  # what was made from the results
                digest.update(f"{name}/{path.relative_to(folder)}".encode() + b"\0" + path.read_bytes())
                found = True
    return digest.hexdigest() if found else None


def _holds_results(place: Path) -> bool:
    """Whether a folder, or one in it, is of published results; no deeper look, it may be a large data set."""
    return place.is_dir() and any(any(place.glob(pattern)) for pattern in ("results.csv", "*/results.csv"))


def run_notebook(
    source: str | Path,
    parameters: dict[str, Any],
    output: str | Path,
    *,
    timeout: int | None = None,
    cwd: str | Path | None = None,
    progress: bool = False,
) -> Path:
    """Execute a notebook with parameters and write the executed copy, whose path is returned.

    While it runs the copy is ``NAME.partial.ipynb``, which stays if it fails; ``NAME.manifest.json`` tells which.

    Args:
        source: See `find_notebook`.
        parameters: Values by name, of the declared types.
        output: ``*.ipynb``; never the source.
        timeout: Seconds that one cell may take.
        cwd: Working directory of the kernel; this process's by default.
        progress: Show a bar over the cells.

    Raises:
        InputError: Bad notebook, parameters or output; nothing was started or written.
        NotebookFailed: A cell failed, ran past the timeout, or the kernel died.
    """
    notebook, output = read_notebook(source), Path(output)
    check_values(notebook.parameters, parameters, notebook.path.name)
    values = {name: parameter.default for name, parameter in notebook.parameters.items()} | parameters
    if "PRESET" in values:
        overrides = [*values.get("OVERRIDES", []), f"seed={values.get('SEED', 0)}"]
        make_config(values["PRESET"], overrides, values.get("DATA", ""))
    if output.suffix != ".ipynb" or output.is_dir():
        raise InputError(f"output {output} must be a file that ends in .ipynb")
    partial = output.with_suffix(".partial.ipynb")
    if any(path.exists() and path.samefile(notebook.path) for path in (output, partial)):
        raise InputError(f"output {output} would overwrite the notebook {source}; choose another name")
    if output.exists() and not output.with_suffix(".manifest.json").exists():
        raise InputError(f"{output} exists and is no executed copy; choose another name")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    about = {"notebook": notebook.path.name, "source_sha256": notebook.sha256, "parameters": values}
    about["results_sha256"] = results_hash(values)
    manifest = Manifest(output.with_suffix(".manifest.json"), **about)
    try:
        _execute(notebook, parameters, partial, execution_timeout=timeout, cwd=cwd, progress_bar=progress)
    except BaseException as error:
        manifest.end("failed", error=f"{type(error).__name__}: {error}".splitlines()[0])
        raise
    partial.replace(output)
    manifest.end("finished", error=None)
    return output


def _execute(notebook: Notebook, parameters: dict[str, Any], partial: Path, **options: Any) -> None:
    """Let papermill run the notebook, and turn every way of failing into one."""
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError

    papermill.log.logger.setLevel("ERROR")  # it warns of annotations that it cannot parse; ours are checked already
    running: dict[str, Any] = {}
    try:
        with own_kernel() as kernel_manager_class:
            executed = papermill.execute_notebook(
                _as_it_is(notebook.path),
                _as_it_is(partial),
                parameters,
                kernel_name="python3",
                language="python",
                start_timeout=600,  # seconds for the kernel's first word; 60 by default, too few on a busy machine
                iopub_timeout=600,  # seconds for a cell's last output; 4 by default, too few after a chatty cell
                kernel_manager_class=kernel_manager_class,
                store_widget_state=False,  # only of use to scripts from the network; a widget's text form stays
                coalesce_streams=True,
                on_cell_execute=running.update,
                **options,
            )
        if any(cell.metadata.papermill.exception for cell in executed.cells):  # which papermill calls a success
            raise RuntimeError("SystemExit ended the notebook early")
    except (papermill.PapermillExecutionError, CellTimeoutError, RuntimeError) as error:  # RuntimeError: dead kernel
        lines = f"{type(error).__name__}: {error}".rstrip().splitlines()
        in_cell = isinstance(error, papermill.PapermillExecutionError)
        cell = textwrap.indent(running["cell"].source, "    ") if running else "    (before its first cell)"
        message = [lines[-1 if in_cell else 0], f"in {notebook.path.name}, kept up to there as {partial.name}:", cell]
        raise NotebookFailed("\n".join(message + (lines[-6:] if in_cell else []))) from None
    # Instead of where the files lie on this machine.
    executed.metadata.papermill.update(input_path=notebook.path.name, output_path=notebook.path.name)
    nbformat.write(executed, partial)


def _as_it_is(path: Path) -> str:
    """For papermill, which fills parameters into braces in a path."""
    return str(path).replace("{", "{{").replace("}", "}}")
