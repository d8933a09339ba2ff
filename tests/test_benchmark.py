"""``ktda benchmark``: small sizes, real steps; times are not judged."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ktda.cli.main import app
from ktda.errors import InputError
from ktda_lab.benchmark import forms, scene_memory, steps
from ktda_lab.benchmark.forms import Wish
from ktda_lab.benchmark.report import _scene_memory
from ktda_lab.benchmark.scene_memory import measure_scene_memory

SMALL = ["benchmark", "--device", "cpu", "--preset", "grid", "--size", "32", "--seconds", "0", "--repeats", "2"]


def run(*words: str) -> str:
    done = CliRunner().invoke(app, [*SMALL, *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_steps_of_forms_and_peers_are_timed_in_turn(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "cost.json"
    names = [
        "as released",
        "beside, no FMM, fast, unlabelled",
        "UPerNet",
        "UPerNet, plain PyTorch",
        "UPerNet of SMP, plain PyTorch",
    ]
    chosen = [word for name in names for word in ("--form", name)]
    printed = run("--what", "step", *chosen, "--out", str(out))
    content = json.loads(out.read_text())
    assert list(content["step"]) == names
    for name, found in content["step"].items():
        assert found["turns"] == 2, name
        assert 0 < found["seconds"]["least"] <= found["seconds"]["median"] <= found["seconds"]["most"]
        assert name in printed
    parts = content["step"]["as released"]["parts"]
    assert all(parts[part] > 0 for part in ("teacher", "forward and loss", "backward", "optimiser"))
    assert content["step"]["UPerNet"]["parts"]["teacher"] == 0
    assert content["weights"] == "random"
    assert "random weights" in printed
    assert "bookkeeping add: " in printed


def test_a_form_takes_the_steps_of_a_training(tmp_path: Path) -> None:
    wish = forms.Wish("grid", 32, 2, "cpu")
    with forms.tiles(wish) as folder:
        shared: dict = {}
        first, second = (forms.Form(name, wish, folder, shared) for name in ("as released", "as published"))
        plain = forms.Form("beside, no FMM, fast, unlabelled", wish, folder)
        assert len(plain.load()[0]["image"]) == 4  # two labelled, two not
        before = next(first.trainer.model.parameters()).detach().clone()
        second.step()
        assert first.trainer.progress.batch == 0
        assert second.trainer.progress.batch == 1
        # one set of weights for both, moved by either
        assert all(
            a is b for a, b in zip(first.trainer.model.parameters(), second.trainer.model.parameters(), strict=True)
        )
        assert not before.equal(next(first.trainer.model.parameters()))


def test_a_form_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    step = forms.Form.step

    def failing(self: forms.Form) -> None:
        if self.name == "as published":
            raise RuntimeError("out of memory")
        step(self)

    monkeypatch.setattr(forms.Form, "step", failing)
    said: list[str] = []
    wish = forms.Wish("grid", 32, 2, "cpu")
    found = steps.time_steps(["as published", "UPerNet"], wish, 0, 2, said.append)
    assert found["as published"] == {"failed": "out of memory"}
    assert found["UPerNet"]["turns"] == 2
    assert "as published: failed: out of memory" in said


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_what_was_measured_before_an_end_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: type[BaseException]
) -> None:
    step, taken = forms.Form.step, []

    def ended(self: forms.Form) -> None:
        taken.append(self)
        if len(taken) == 10:
            raise ending(1)
        step(self)

    monkeypatch.setattr(forms.Form, "step", ended)
    monkeypatch.setattr(steps, "TURN", 0.0)  # a step a turn: one to warm up, then one in each round
    out = tmp_path / "cost.json"
    words = [*SMALL, "--repeats", "50", "--seconds", "1000", "--what", "step", "--form", "UPerNet", "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code != 0
    content = json.loads(out.read_text())
    assert content["unfinished"]
    assert content["step"]["UPerNet"]["turns"] == 8
    assert "UNFINISHED" in done.output
    assert "UPerNet" in done.output


@pytest.mark.slow
def test_memory_and_scenes(tmp_path: Path) -> None:
    out = tmp_path / "cost.json"
    run("--what", "memory", "--form", "as published", "--out", str(out))
    assert json.loads(out.read_text())["memory"]["as published"]["bytes"] > 1e8
    run("--what", "predict", "--out", str(out))
    predict = json.loads(out.read_text())["predict"]
    assert predict["128"]["as published"]["megapixels_a_second"] > 0
    assert "plain loop, beside, no FMM" in predict["128"]


def test_a_way_that_runs_out_of_memory_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(call: Callable, way: str, *rest: Any) -> int:
        if way == "plain loop":
            raise MemoryError
        return 3 * 10**9

    monkeypatch.setattr(scene_memory, "SIDES", (32, 64))
    monkeypatch.setattr(scene_memory, "in_new_process", peak)
    said: list[str] = []
    found = measure_scene_memory(Wish("smoke", 64, 2, "cpu"), pace=1.0, seconds=5.0, tell=said.append)
    assert [found[side]["plain loop"] for side in ("32", "64")] == [{"failed": "out of memory"}] * 2
    assert found["64"]["ktda predict"] == {"bytes": 3 * 10**9}
    assert "64 px, plain loop: failed: out of memory" in said
    rows = [line.split() for line in _scene_memory(found).splitlines()]
    assert ["ktda", "predict", "3.00", "3.00"] in rows
    assert ["plain", "loop", "failed", "failed"] in rows


@pytest.mark.slow
def test_a_scene_in_strips_needs_less_memory_than_one_held_whole() -> None:
    wish = Wish("smoke", 64, 2, "cpu")
    said: list[str] = []
    found = measure_scene_memory(wish, pace=1.0, seconds=5.0, tell=said.append)
    assert list(found) == ["1024", "2048"]
    ours, held = ([found[side][way]["bytes"] for side in found] for way in ("ktda predict", "plain loop"))
    assert ours[1] - ours[0] < 0.5 * (held[1] - held[0])
    assert said[-1] == "8192 px: memory left out, about 67 s"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--form", "as ever"], "unknown form 'as ever'; expected some of: as released"),
        (["--what", "all of it"], "--what all of it; expected one of step"),
        (["--device", "tpu"], "--device tpu; expected one of cpu, cuda"),
        (["--size", "100"], "--size 100; expected a multiple of 8"),
        (["--set", "lr=1"], "unknown setting 'lr'; did you mean learning_rate"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], line: str) -> None:
    with pytest.raises(InputError, match=line):
        CliRunner().invoke(app, [*SMALL, *words], catch_exceptions=False)


def test_the_guide_says_what_was_measured() -> None:
    root = Path(__file__).resolve().parents[1]
    step = json.loads((root / "reports/published/benchmark/step_cpu.json").read_text())["step"]
    said = (root / "docs/train.md").read_text()
    base = step["as released"]["seconds"]["median"]
    for found in step.values():
        median = found["seconds"]["median"]
        assert f"| {median:.1f} | {base / median:.1f} |" in said
    memory = json.loads((root / "reports/published/benchmark/memory_cpu.json").read_text())["memory"]
    for name, found in memory.items():
        share = found["bytes"] / memory["as released"]["bytes"]
        if name == "published, checkpointed":
            assert f"{found['bytes'] / 1e9:.1f} GB: {share:.2f} of released" in said
            continue
        median = step[name]["seconds"]["median"]
        pace = f"| {median:.1f} | {base / median:.1f} |"
        assert f"{pace} {found['bytes'] / 1e9:.1f} | {share:.2f} |" in said


def test_the_guide_says_what_was_measured_at_preset_demo() -> None:
    root = Path(__file__).resolve().parents[1]
    folder = root / "reports/published/benchmark"
    said = " ".join((root / "docs/train.md").read_text().split())
    step, eight = (
        json.loads((folder / f"demo_step_{name}.json").read_text())["step"] for name in ("cpu", "eight_heads_cpu")
    )
    published, beside = (_times_plain(step, name) for name in ("as published", "beside, no FMM"))
    assert f"takes {published:.1f} times as long as that of a plain UPerNet, and {beside:.1f} times with" in said
    assert f"leaves a head 8 channels, {_times_plain(eight, 'as published'):.1f} times" in said
    waiting = max(found.get("waiting_share", 0) for found in step.values())
    assert waiting < 0.05  # the aim
    assert f"Waiting for the loader is less than {math.floor(100 * waiting) + 1} % of any form's step." in said
    content = json.loads((folder / "predict_cpu.json").read_text())
    pace = {name: found["megapixels_a_second"] for name, found in content["predict"]["2048"].items()}
    ours, halves = pace["beside, no FMM"], pace["beside, no FMM, bf16"]
    assert f"predicts {ours:.2f} megapixels a second, {ours / pace['as published']:.1f} times what" in said
    assert f"does, and {halves:.2f} in bf16" in said
    loop, monai = (pace[f"{way}, beside, no FMM"] for way in ("plain loop", "MONAI"))
    assert f"a loop tile by tile does {loop:.2f} with the same model, MONAI {monai:.2f}." in said
    memory = content["scene_memory"]
    for way, words in {
        "ktda predict": "of `ktda predict` grows from {:.1f} to {:.1f} GB",
        "MONAI": "of MONAI from {:.1f} to {:.1f} (",
    }.items():
        assert words.format(*(memory[side][way]["bytes"] / 1e9 for side in ("1024", "8192"))) in said


def _times_plain(step: dict, name: str) -> float:
    """A form's median step over that of a plain UPerNet."""
    return step[name]["seconds"]["median"] / step["UPerNet, plain PyTorch"]["seconds"]["median"]
