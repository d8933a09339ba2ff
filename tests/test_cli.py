"""The command line as a user types it: results, help on everything, and one line for every mistake."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import typer
from tiny_runs import FILES, as_options, content_of, make_set, manifest_of, results_of

import ktda
from ktda.cli.main import app, main


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def ktda_(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> Iterator:
    """Runs ``ktda WORDS...`` in this process, in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["ktda", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        return Done(caught.value.code, *capsys.readouterr())

    return run


def test_version_and_bare_call(ktda_) -> None:
    assert ktda_("--version") == Done(0, f"ktda {ktda.__version__}\n", "")
    bare = ktda_()
    assert bare.code == 2
    for command in ("data", "train", "evaluate", "notebook", "report"):
        assert command in bare.out + bare.err


def commands(group: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_the_commands_are_the_documented_ones() -> None:
    documented = {(), ("train",), ("settings",), ("teachers",), ("evaluate",), ("notebook",), ("report",), ("data",)}
    documented |= {("grid",), ("status",), ("show",), ("predict",), ("export-encoder",), ("convert",), ("export",)}
    documented |= {("data", name) for name in ("list", "fetch", "check", "make", "import")} | {("benchmark",)}
    assert set(COMMANDS) == documented


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_explains_every_argument_and_option(ktda_, path: tuple[str, ...], flag: str) -> None:
    done = ktda_(*path, flag)
    assert (done.code, done.err) == (0, "")
    command = COMMANDS[path]
    assert command.help
    for parameter in command.params:
        assert parameter.help, parameter.name
        if parameter.param_type_name == "option":
            assert max(parameter.opts, key=len) in done.out


def test_train_and_evaluate(ktda_, tiny_set: Path, tmp_path: Path, finished_run: Path) -> None:
    done = ktda_("train", tiny_set, *as_options(), "--out", "my/run")
    assert done.code == 0
    assert all(line.startswith("step ") for line in done.err.splitlines())  # see test_watch.py
    assert {p.name for p in Path("my/run").iterdir()} == FILES | {"figures"}
    assert results_of(Path("my/run")) == results_of(finished_run)  # the same as from Python
    metrics = json.loads(Path("my/run/metrics.json").read_text())
    assert f"mIoU {100 * metrics['miou']:.2f}" in done.out
    assert "(percent; test, protocol honest, whole image)" in done.out
    assert done.out.splitlines()[-2:] == ["run folder: my/run", "pictures: my/run/figures"]

    scored = ktda_("evaluate", "my/run", "--split", "val", "--out", "new/val.json")
    assert (scored.code, scored.err) == (0, "")
    content = json.loads(Path("new/val.json").read_text())
    assert content["confusion_matrix"] == metrics["splits"]["val"]["confusion_matrix"]
    assert "(percent; val, protocol honest, whole image)" in scored.out

    shutil.rmtree("my/run/figures")  # drawn anew
    before = content_of(Path("my/run"))
    again = ktda_("train", tiny_set, *as_options(), "--out", "my/run", "--resume")
    assert (again.code, again.out, again.err) == (0, done.out, "")
    shutil.rmtree("my/run/figures")
    assert content_of(Path("my/run")) == before


def test_a_picture_that_fails_is_a_line_and_the_run_is_finished(
    ktda_, finished_run: Path, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")

    def broken(*arguments: object) -> None:
        raise RuntimeError("no\nfont")

    monkeypatch.setattr("ktda_lab.run_pictures.draw_run", broken)
    done = ktda_("train", tiny_set, *as_options(), "--out", "run", "--resume")
    assert done.code == 0
    assert done.err == "ktda: no pictures: no font; try again by `ktda show run`\n"
    assert done.out.splitlines()[-1] == "run folder: run"


def test_only_the_main_process_tells(ktda_, tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktda.training.train", lambda *arguments: {})
    monkeypatch.setattr("accelerate.PartialState", lambda: SimpleNamespace(is_main_process=False))
    assert ktda_("train", tiny_set, *as_options(), "--out", "run") == Done(0, "", "")


def test_out_and_seed_have_defaults(ktda_, tiny_set: Path) -> None:
    assert ktda_("train", tiny_set, *as_options(steps=1, seed=3)).code == 0
    assert manifest_of(Path("runs/tiny-smoke-seed3"))["seed"] == 3  # --set seed counts
    assert ktda_("train", tiny_set, *as_options(steps=1, seed=3), "--seed", 4).code == 0
    assert manifest_of(Path("runs/tiny-smoke-seed4"))["seed"] == 4  # --seed wins


def test_init_says_what_it_left_out(ktda_, finished_run: Path, tmp_path: Path) -> None:
    spec = "classes: [a, b, c, d]\nscene: '^(.+)_patch_'\n"
    make_set(tmp_path / "four", {"train": 4, "val": 2, "test": 1}, classes=4, spec=spec)
    done = ktda_("train", "four", *as_options(steps=1), "--init", finished_run, "--out", "run")
    assert done.code == 0
    lines = dict(line.split(": ", 1) for line in done.out.splitlines() if "started anew" in line)
    assert lines["student.encoder"].endswith(" 0 started anew")
    assert lines["decode_head"].endswith(" 2 started anew")  # weight and bias of the classes


MISTAKES = [
    ("trane", "See `ktda --help`."),
    ("data frobnicate", "No such command 'frobnicate'. See `ktda data --help`."),
    ("train", "Missing argument 'data'. See `ktda train --help`."),
    ("train DATA --bogus", "No such option: --bogus"),
    ("train DATA --seed x", "'--seed'"),
    ("train DATA --seed -1", "seed=-1; expected a whole number from 0 to"),
    ("train DATA --preset big", "unknown preset 'big'; expected one of smoke, demo, paper"),
    ("train DATA --set alpah=1", "unknown setting 'alpah'; did you mean alpha?"),
    ("train DATA --set alpha", "override 'alpha'; expected KEY=VALUE"),
    ("train DATA --set alpha=high", "alpha=high; expected a number"),
    ("train DATA --set learning_rate=nan", "learning_rate=nan; expected"),
    ("train nowhere", "'nowhere' is neither a folder nor a built-in data set"),
    ("train gras", "built in are grass, cloud, l8_biome_sample"),
    ("train DATA --preset smoke --set tiles=7", "tiles=7, but tiny has 6 to train on; 0 takes all"),
    ("train DATA TINY --set student=tu-nothing --out r", "unknown student encoder 'tu-nothing'"),
    ("train DATA TINY --set teacher=nothing --out r", "unknown teacher 'nothing'"),
    ("train DATA TINY --set teacher=nothing.safetensors --out r", "no teacher weights at nothing.safetensors"),
    ("train DATA TINY --set crop=64 --out r", "ktda: crop 64 "),
    ("train DATA TINY --set crop=64 --set workers=1 --out r", "ktda: crop 64 "),
    ("train DATA TINY --set batch_size=7 --out r", "6 training tiles do not fill one batch of 7"),
    ("train DATA TINY --set fmm_heads=5 --out r", "5 FMM heads do not divide the channels"),
    ("train DATA TINY --set class_weights=1,2 --out r", "2 class_weights for 3 classes"),
    ("train DATA TINY --init nowhere --out r", "no weights file at nowhere"),
    ("train DATA TINY --out RUN", "holds a run (finished); go on with --resume, or choose another --out"),
    ("train DATA TINY --set steps=9 --out RUN --resume", "was started with other settings (steps=4)"),
    ("train DATA TINY --out RUN/..", "is not empty and holds no run; choose another --out"),
    ("train DATA TINY --out DATA", "is inside the data set"),
    ("train DATA TINY --out DATA/dataset.yaml", "dataset.yaml is no folder; choose another --out"),
    ("train DATA TINY --out DATA/dataset.yaml/run", "dataset.yaml is no folder; choose another --out"),
    ("evaluate nowhere", "nowhere holds no trained model"),
    ("evaluate RUN --split winter", "tiny has no split 'winter'; it has train, val, test"),
    ("evaluate RUN --data nowhere", "'nowhere' is neither a folder nor a built-in data set"),
    ("evaluate RUN --out DATA/dataset.yaml/x.json", "dataset.yaml"),
    ("predict RUN nowhere.tif --out maps", "there is no scene at nowhere.tif"),
    ("predict RUN nowhere.tif --out maps --bands red", "--bands red: expected numbers between commas"),
    ("predict RUN nowhere.tif --out maps --nodata black", "--nodata black; expected a number or none"),
    ("data check nowhere", "'nowhere' is neither a folder nor a built-in data set"),
    ("notebook", "Missing argument 'file'"),
    ("notebook 99_nothing.ipynb", "99_nothing.ipynb"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2(
    ktda_, finished_run: Path, tiny_set: Path, words: str, message: str
) -> None:
    places = {"DATA": str(tiny_set), "RUN": str(finished_run)}
    typed: list[str] = []
    for word in words.split():
        if word == "TINY":
            typed += as_options()
        else:
            first, slash, rest = word.partition("/")
            typed.append(places.get(first, first) + slash + rest)
    done = ktda_(*typed)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert done.err.startswith("ktda: ")
    assert message in done.err


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tiny_set: Path, tmp_path: Path) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("ktda.training.train", broken)
    monkeypatch.setattr(sys, "argv", ["ktda", "train", str(tiny_set), "--out", str(tmp_path / "run")])
    with pytest.raises(RuntimeError, match="a bug"):
        main()


def test_ctrl_c_is_no_traceback(ktda_, monkeypatch: pytest.MonkeyPatch, tiny_set: Path) -> None:
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ktda.training.train", stopped)
    assert ktda_("train", tiny_set, "--out", "run").code == 130
