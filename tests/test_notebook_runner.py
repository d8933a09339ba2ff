"""The strict wrapper around papermill: what it refuses, what it leaves behind, and that no kernel outlives it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import ktda_lab.headless.notebook as wrapper
from ktda.errors import InputError
from ktda_lab.commands.notebook import NotebookCommand, notebook, report
from ktda_lab.headless.kernel import own_kernel
from ktda_lab.headless.notebook import NotebookFailed, find_notebook, read_notebook, run_notebook
from ktda_lab.headless.parameters import check_values, declared_parameters, values_from_text

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("papermill")

PARAMETERS = """# comments are fine
SEED: int = 0
RATE: float = 0.5
NAME: str = "a"
DEEP: bool = False
LEVELS: list[int] = [1, 2]
TAGS: list[str] = []
LIMIT: int | None = None
"""


def write_notebook(path: Path, parameters: str | None, *cells: str) -> Path:
    """A notebook with a heading, a parameters cell and code cells."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    content = new_notebook(cells=[new_markdown_cell("# A notebook")])
    if parameters is not None:
        content.cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    content.cells += [new_code_cell(cell) for cell in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(content, path)
    return path


def declared(source: str = PARAMETERS) -> dict:
    cell = {"cell_type": "code", "source": source, "metadata": {"tags": ["parameters"]}}
    return declared_parameters({"cells": [cell]}, "x.ipynb")


def output_text(executed: Path) -> str:
    cells = nbformat.read(executed, as_version=4).cells
    return "".join(o.get("text", "") for c in cells if c.cell_type == "code" for o in c.outputs)


# The parameters cell


def test_declares_names_annotations_and_defaults_in_order():
    found = declared()
    assert list(found) == ["SEED", "RATE", "NAME", "DEEP", "LEVELS", "TAGS", "LIMIT"]
    assert found["LEVELS"].default == [1, 2]
    assert found["LIMIT"].annotation == "int | None"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("SEED = 0", "got `SEED = 0`"),
        ("seed: int = 0", "upper case.*got `seed: int = 0`"),
        ("import os", "got `import os`"),
        ("SEED: int", "got `SEED: int`"),
        ("SEED: int = 1 + max(1, 2)", "a literal of int.*max"),
        ("SEED: int = 'a'", "a literal of int.*'a'"),
        ("SEED: int = True", "a literal of int.*True"),
        ("LEVELS: list[int] = 1", "a literal of int.*list"),
        ("SEED: Path = 'a'", "got `SEED: Path"),
        ("TABLE: dict = {}", "got `TABLE: dict"),
        ("SEED: int = 0\nSEED: int = 1", "each once.*got `SEED: int = 1`"),
        ("SEED: int = (", "not Python"),
    ],
)
def test_refuses_parameters_cells_that_papermill_would_get_wrong(source, words):
    with pytest.raises(InputError, match=words) as error:
        declared(source)
    assert "\n" not in str(error.value)


def test_wants_exactly_one_tagged_code_cell():
    cell = {"cell_type": "code", "source": "A: int = 0", "metadata": {"tags": ["parameters"]}}
    for cells in ([], [cell, cell], [cell | {"cell_type": "markdown"}]):
        with pytest.raises(InputError, match="exactly one"):
            declared_parameters({"cells": cells}, "x.ipynb")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"SED": 1}, "no parameter SED; it has SEED, RATE"),
        ({"SEED": "1"}, "'1', expected int"),
        ({"SEED": True}, "expected int"),
        ({"SEED": 1.0}, "expected int"),
        ({"RATE": float("nan")}, "expected float"),
        ({"DEEP": 1}, "expected bool"),
        ({"NAME": Path("a")}, "expected str"),
        ({"TAGS": "a"}, r"expected list\[str\]"),
        ({"LEVELS": [1, "2"]}, r"expected list\[int\]"),
        ({"SEED": None}, "expected int"),
    ],
)
def test_values_are_checked_not_converted(values, words):
    with pytest.raises(InputError, match=words):
        check_values(declared(), values, "x.ipynb")


def test_fitting_values_pass():
    good = {"SEED": 1, "RATE": 1, "NAME": "", "DEEP": True, "LEVELS": [], "LIMIT": 3}
    check_values(declared(), good, "x.ipynb")


def test_text_is_converted_by_the_annotation():
    typed = {
        "SEED": "-3", "RATE": "1e-3", "NAME": "7", "DEEP": "True", "LEVELS": "[3, 4]", "TAGS": "a=1", "LIMIT": "None",
    }  # fmt: skip
    assert values_from_text(declared(), typed.items(), "x.ipynb") == {
        "SEED": -3, "RATE": 1e-3, "NAME": "7", "DEEP": True, "LEVELS": [3, 4], "TAGS": ["a=1"], "LIMIT": None,
    }  # fmt: skip
    repeated = [("TAGS", "a=1"), ("TAGS", "['b=2', 'c=3']"), ("TAGS", "d=4,5"), ("LIMIT", "5")]
    assert values_from_text(declared(), repeated, "x.ipynb") == {"TAGS": ["a=1", "b=2", "c=3", "d=4,5"], "LIMIT": 5}


@pytest.mark.parametrize(
    "pair", [("SEED", "a"), ("SEED", "1.5"), ("DEEP", "yes"), ("LEVELS", "[a"), ("LEVELS", "x"), ("LIMIT", "a")]
)
def test_text_that_does_not_convert_is_one_line_with_an_example(pair):
    with pytest.raises(InputError, match=f"parameter {pair[0]} is .* as in `-p {pair[0]}") as error:
        values_from_text(declared(), [pair], "x.ipynb")
    assert "\n" not in str(error.value)


# Before the launch


def test_finds_the_file_as_given_then_under_notebooks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_notebook(tmp_path / "notebooks" / "01_x.ipynb", "A: int = 0")
    assert find_notebook("01_x.ipynb") == Path("notebooks/01_x.ipynb")
    assert find_notebook("01_x") == Path("notebooks/01_x.ipynb")
    write_notebook(tmp_path / "01_x.ipynb", "A: int = 0")
    assert find_notebook("01_x.ipynb") == Path("01_x.ipynb")
    with pytest.raises(InputError, match=r"no notebook 02_y; there are .*01_x.ipynb"):
        find_notebook("02_y")


def test_without_a_checkout_it_says_that_the_package_has_no_notebooks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(wrapper, "FOLDERS", (Path("notebooks"), tmp_path / "site-packages" / "notebooks"))
    with pytest.raises(InputError, match="the installed package comes without; clone the repository"):
        find_notebook("00_quickstart.ipynb")


def test_refuses_what_is_no_notebook_or_an_executed_copy(tmp_path):
    (tmp_path / "text.ipynb").write_text("hello")
    with pytest.raises(InputError, match="not a Jupyter notebook"):
        read_notebook(tmp_path / "text.ipynb")
    executed = write_notebook(tmp_path / "x.ipynb", "A: int = 0", "1")
    content = nbformat.read(executed, as_version=4)
    content.cells[-1].metadata["tags"] = ["injected-parameters"]
    nbformat.write(content, executed)
    with pytest.raises(InputError, match="executed copy"):
        read_notebook(executed)


def test_output_never_overwrites_the_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = write_notebook(tmp_path / "x.ipynb", "A: int = 0")
    before = source.read_bytes()
    (tmp_path / "link.ipynb").symlink_to(source)
    (tmp_path / "folder").symlink_to(tmp_path)
    os.link(source, tmp_path / "hard.ipynb")
    failed = write_notebook(tmp_path / "y.partial.ipynb", "A: int = 0")
    for given, output in [
        (source, source),
        (source, "x.ipynb"),
        (source, "link.ipynb"),
        (source, "folder/x.ipynb"),
        (source, "hard.ipynb"),
        (failed, "y.ipynb"),
    ]:
        with pytest.raises(InputError, match="would overwrite"):
            run_notebook(given, {}, output)
    assert source.read_bytes() == before
    assert not list(tmp_path.glob("*.manifest.json"))
    for output, words in [("x.html", "must be a file that ends in .ipynb"), ("d.ipynb", "must be a file")]:
        (tmp_path / "d.ipynb").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=words):
            run_notebook(source, {}, output)


def test_training_overrides_are_validated_before_the_launch(tmp_path):
    pytest.importorskip("ktda.config")
    source = write_notebook(tmp_path / "x.ipynb", 'PRESET: str = "smoke"\nOVERRIDES: list[str] = []', "1")
    for values in ({"PRESET": "nope"}, {"OVERRIDES": ["no_such_field=1"]}):
        with pytest.raises(InputError, match=r"nope|no_such_field"):
            run_notebook(source, values, tmp_path / "out.ipynb")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.ipynb"]


# Runs


@pytest.fixture(scope="module")
def good_run(tmp_path_factory) -> tuple[Path, Path]:
    """One successful run, with a hostile environment: no home, Agg, spaces and braces in the path, chatty cells."""
    folder = tmp_path_factory.mktemp("good") / "a {good} run"
    folder.mkdir()
    source = write_notebook(
        folder / "01_x.ipynb",
        'SEED: int = 0\nTAGS: list[str] = ["a"]',
        "import os, sys\nprint('seed', SEED, TAGS, sys.executable, os.getcwd())",
        "for i in range(20_000):\n    print(i)",
        "for i in range(4_000):\n    print(i, flush=True)",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
    )
    (folder / "out").mkdir()
    (folder / "out" / "01_x.partial.ipynb").write_text("of an earlier run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", "/nonexistent")
        patch.setenv("MPLBACKEND", "Agg")
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", str(folder)))
        written = run_notebook(source, {"SEED": 7}, folder / "out" / "01_x.ipynb", cwd=folder)
    return source, written


def test_run_uses_this_interpreter_the_given_values_and_the_working_directory(good_run):
    source, written = good_run
    assert f"seed 7 ['a'] {sys.executable} {source.parent}" in output_text(written)


def test_a_chatty_cell_loses_no_line(good_run):
    cells = nbformat.read(good_run[1], as_version=4).cells
    for cell, count in zip(cells[4:6], (20_000, 4_000), strict=True):
        assert "".join(o.text for o in cell.outputs).split() == [str(i) for i in range(count)]


def test_a_listener_that_pauses_loses_no_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ipykernel.py").write_text("raise RuntimeError('the working directory stands in for a library')")
    Path("mine.py").write_text("COUNT = 4_000")
    cell = "import mine\nfor i in range(mine.COUNT):\n    print(i, flush=True)"

    async def heard() -> str:
        with own_kernel() as kernel_manager_class:
            manager = kernel_manager_class()
            await manager.start_kernel()
            client = manager.client()
            client.context.rcvhwm = 1  # what is not read at once waits on the kernel's side
            client.start_channels()
            try:
                return await printed(client)
            finally:
                client.stop_channels()
                await manager.shutdown_kernel(now=True)

    async def printed(client) -> str:
        await client.wait_for_ready(timeout=900)
        asked, of, text, idle = client.execute(cell), None, [], False
        while of != asked:  # the cell has ended before the first of its lines is read
            of = (await client.get_shell_msg(timeout=900))["parent_header"].get("msg_id")
        while not idle:
            message = await client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") == asked:
                text.append(message["content"].get("text", ""))
                idle = message["content"].get("execution_state") == "idle"
        return "".join(text)

    assert asyncio.run(heard()).split() == [str(i) for i in range(4_000)]


def test_figures_reach_the_executed_copy(good_run):
    assert "image/png" in nbformat.read(good_run[1], as_version=4).cells[-1].outputs[-1]["data"]


def test_run_leaves_the_copy_and_a_finished_manifest_and_nothing_else(good_run):
    source, written = good_run
    assert sorted(p.name for p in written.parent.iterdir()) == ["01_x.ipynb", "01_x.manifest.json"]
    manifest = json.loads(written.with_suffix(".manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["parameters"] == {"SEED": 7, "TAGS": ["a"]}
    assert manifest["error"] is None
    assert manifest["start"] <= manifest["end"]
    assert {"commit", "dirty", "versions", "source_sha256", "source_hash"} <= manifest.keys()
    noted = nbformat.read(written, as_version=4).metadata.papermill
    assert (noted.input_path, noted.output_path) == ("01_x.ipynb", "01_x.ipynb")
    assert "outputs" not in source.read_text().replace('"outputs": []', "")


def test_failing_cell_is_shown_and_the_copy_kept_under_a_name_that_says_so(tmp_path):
    source = write_notebook(tmp_path / "x.ipynb", "A: int = 0", "1", "def f():\n    raise KeyError('boo')\nf()", "2")
    output = tmp_path / "out" / "x.ipynb"
    output.parent.mkdir()
    output.write_text("not ours")
    with pytest.raises(InputError, match="is no executed copy; choose another name"):
        run_notebook(source, {"A": 1}, output)
    assert output.read_text() == "not ours"
    output.with_suffix(".manifest.json").write_text("{}")  # of an earlier run
    with pytest.raises(NotebookFailed) as error:
        run_notebook(source, {"A": 1}, output)
    assert str(error.value).splitlines()[0] == "KeyError: 'boo'"
    for words in ("in x.ipynb", "    def f():\n        raise KeyError('boo')\n    f()", "x.partial.ipynb"):
        assert words in str(error.value)
    assert sorted(p.name for p in output.parent.iterdir()) == ["x.manifest.json", "x.partial.ipynb"]
    manifest = json.loads(output.with_suffix(".manifest.json").read_text())
    assert (manifest["status"], manifest["error"]) == ("failed", "NotebookFailed: KeyError: 'boo'")
    assert manifest["end"] is not None


@pytest.mark.parametrize(
    ("cell", "reason", "timeout"),
    [
        ("import os\nos._exit(3)", "Kernel died", None),
        ("raise SystemExit", "ended the notebook early", None),
        ("import time\ntime.sleep(3600)", "timed out.*after 2 seconds", 2),
    ],
    ids=["dead", "exit", "timeout"],
)
def test_every_other_way_to_fail_is_a_failure_too(tmp_path, cell, reason, timeout):
    source = write_notebook(tmp_path / "x.ipynb", "A: int = 0", cell, "print('not reached')")
    with pytest.raises(NotebookFailed, match=reason) as error:
        run_notebook(source, {}, tmp_path / "out.ipynb", timeout=timeout)
    if timeout is None:  # on a busy machine the cell before it may be the one that takes too long
        assert cell.splitlines()[-1] in str(error.value)
    assert (tmp_path / "out.partial.ipynb").is_file()
    assert not (tmp_path / "out.ipynb").exists()


# The command line

app = typer.Typer()
app.command(cls=NotebookCommand)(notebook)
app.command()(report)


def test_command_converts_runs_and_reports_a_failing_cell_with_exit_1(tmp_path):
    source = write_notebook(tmp_path / "x.ipynb", "A: int = 0\nTAGS: list[str] = []", "assert A != -1, TAGS")
    arguments = ["-p", "A", "-1", "-p", "TAGS", "k=v", "-p", "TAGS", "-w"]
    done = CliRunner().invoke(app, ["notebook", *arguments, str(source), "--out", str(tmp_path / "o.ipynb")])
    assert done.exit_code == 1
    assert "ktda: AssertionError: ['k=v', '-w']" in done.output
    assert "    assert A != -1, TAGS" in done.output
    assert "NotebookFailed" not in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "B", "1"], "no parameter B; it has A"),
        (["-p", "A", "x"], "expected int"),
        (["-p", "A=x"], "expected int"),
        (["-p", "A"], "has no value"),
    ],
)
def test_command_refuses_bad_parameters(tmp_path, arguments, words):
    source = write_notebook(tmp_path / "x.ipynb", "A: int = 0", "1")
    done = CliRunner().invoke(app, ["notebook", str(source), *arguments])
    assert isinstance(done.exception, InputError)
    assert words in str(done.exception)


def test_the_program_itself_takes_name_and_value_and_exits_2_with_one_line(tmp_path, monkeypatch, capsys):
    main = pytest.importorskip("ktda.cli.main").main
    source = write_notebook(tmp_path / "x.ipynb", "A: int = 0", "1")
    monkeypatch.setattr(sys, "argv", ["ktda", "notebook", str(source), "-p", "B", "1"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert capsys.readouterr().err.splitlines() == ["ktda: x.ipynb has no parameter B; it has A (names are upper case)"]


# No kernel outlives the wrapper


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_the_kernel_ends_with_the_wrapper(tmp_path, name):
    source = write_notebook(
        tmp_path / "x.ipynb",
        "A: int = 0",
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(9999)'])\n"
        "open('pids.part', 'w').write(f'{os.getpid()} {child.pid}')\nos.replace('pids.part', 'pids')\n"
        "time.sleep(9999)",
    )
    code = f"from ktda_lab.headless.notebook import run_notebook; run_notebook({str(source)!r}, {{}}, 'out.ipynb')"
    wrapped = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL)
    pids = tmp_path / "pids"
    try:
        _wait(pids.exists)
        wrapped.send_signal(getattr(signal, name))
        code = wrapped.wait(900)
    finally:
        wrapped.kill()
    kernel, child = map(int, pids.read_text().split())
    _wait(lambda: not _alive(kernel))
    if name == "SIGKILL":  # nobody is left to end the kernel's children: its own watch ends it alone
        os.kill(child, signal.SIGKILL)
        return
    assert code == (143 if name == "SIGTERM" else -signal.SIGINT)
    _wait(lambda: not _alive(child))
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert (tmp_path / "out.partial.ipynb").is_file()


def _wait(condition, seconds: float = 900) -> None:  # only against hanging, however busy the machine is
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    """Running, and no zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
