"""Where a notebook writes: in the same folder of the checkout, wherever its kernel was started."""

from pathlib import Path

from ktda.files import project_root


def output_folder(out: Path | str) -> Path:
    """The folder that the parameter ``OUT`` names.

    papermill starts a kernel in the checkout, JupyterLab in ``notebooks/``: a relative path starts at the checkout for
    every kernel in or below it, and elsewhere at the working directory.
    """
    root = project_root()
    return root / out if root in Path.cwd().parents else Path(out)
