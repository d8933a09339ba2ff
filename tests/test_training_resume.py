"""Randomness by the seed alone: runs that are cut and resumed end as those that were not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import content_of, make_set, manifest_of, results_of, tiny, train_until

from ktda.errors import InputError
from ktda.training import train

pytestmark = pytest.mark.usefixtures("quiet")

# Everything that draws: drop path, dropout, flips, rotations, crops, distortion; and the teacher's statistics.
RANDOM = {"student_drop_path": 0.3, "dropout": 0.3, "standardise": True}


def test_the_seed_decides(finished_run: Path, tiny_set: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    train(str(tiny_set), tiny(), tmp_path / "same")
    train(str(tiny_set), tiny(seed=1), tmp_path / "other")
    assert results_of(tmp_path / "same") == results_of(finished_run)
    assert results_of(tmp_path / "other")["model"] != results_of(finished_run)["model"]


def test_workers_change_nothing(finished_run: Path, tiny_set: Path, tmp_path: Path) -> None:
    train(str(tiny_set), tiny(workers=1), tmp_path / "run")
    assert results_of(tmp_path / "run") == results_of(finished_run)


@pytest.mark.parametrize("folder", ["missing", "empty", "killed at once", "without checkpoint"])
def test_resume_without_a_checkpoint_starts_at_step_0(
    finished_run: Path, tiny_set: Path, tmp_path: Path, folder: str
) -> None:
    out = tmp_path / "run"
    if folder != "missing":
        out.mkdir()
    if folder == "killed at once":
        (out / "manifest.json.partial").write_text("{")
    if folder == "without checkpoint":
        manifest = manifest_of(finished_run) | {"status": "running", "end": None}
        (out / "manifest.json").write_text(json.dumps(manifest))
        (out / "checkpoint.safetensors.partial").write_bytes(b"half")
    train(str(tiny_set), tiny(), out, resume=True)
    assert results_of(out) == results_of(finished_run)
    assert len(manifest_of(out)["resumed"]) == (folder == "without checkpoint")


@pytest.mark.parametrize(
    ("overrides", "batch"),
    [
        # three batches per epoch: checkpoints after the evaluations at batch 3 and 5, and at 2 and 4
        ({"steps": 5, "checkpoint_steps": 2}, 2),  # in mid-epoch, first batch after a checkpoint
        ({"steps": 5, "checkpoint_steps": 2}, 4),  # in mid-epoch, second epoch
        ({"steps": 6, "tiles": 4, "unlabelled": 1, "crop": 0, "photometric": False}, 4),  # kept teacher maps
        ({"steps": 6, "fam_path": "beside", "ema": 0.9, "encoder_rate": 0.5}, 4),
        ({"steps": 3, "accumulate": 2}, 5),  # the epoch ends between two halves of a step: the checkpoint waits
    ],
)
def test_a_run_resumed_in_mid_epoch_is_bit_identical(
    tiny_set: Path, tmp_path: Path, seen: list, overrides: dict, batch: int
) -> None:
    config = tiny(**RANDOM, **overrides)
    train(str(tiny_set), config, tmp_path / "whole")
    train_until(batch, tiny_set, config, tmp_path / "cut")
    torch.manual_seed(1234)  # the state of the global generator does not matter
    begun = manifest_of(tmp_path / "cut")["start"]
    seen.clear()
    train(str(tiny_set), config, tmp_path / "cut", resume=True)
    assert 0 < len(seen) < config.steps * config.accumulate  # it did go on, and did not start again
    assert results_of(tmp_path / "cut") == results_of(tmp_path / "whole")
    whole, cut = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    manifest = manifest_of(tmp_path / "cut")
    assert (manifest["status"], manifest["start"], len(manifest["resumed"])) == ("finished", begun, 1)
    assert "error" not in manifest


def test_a_run_killed_before_its_report_only_reports(finished_run: Path, tiny_set: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished_run, tmp_path / "run")
    (out / "metrics.json").unlink()
    (out / "confusions.npz").unlink()
    (out / "manifest.json").write_text(json.dumps(manifest_of(out) | {"status": "running"}))
    train(str(tiny_set), tiny(), out, resume=True)
    assert results_of(out) == results_of(finished_run)


def test_resume_on_other_data_is_refused(tiny_set: Path, tmp_path: Path) -> None:
    train_until(1, tiny_set, tiny(), tmp_path / "run")
    before = content_of(tmp_path / "run")
    other = make_set(tmp_path / "other", {"train": 8, "val": 2})
    with pytest.raises(InputError, match=r"was started on .*, whose content was not that of .*resume with the same"):
        train(str(other), tiny(), tmp_path / "run", resume=True)
    assert content_of(tmp_path / "run") == before


def test_a_resumed_run_keeps_its_init(finished_run: Path, tiny_set: Path, tmp_path: Path) -> None:
    config, init = tiny(seed=3, steps=4), str(finished_run)
    train(str(tiny_set), config, tmp_path / "whole", init=init)
    for batch in (1, 3):  # before and after the first checkpoint
        out = tmp_path / f"cut{batch}"
        train_until(batch, tiny_set, config, out, init=init)
        train(str(tiny_set), config, out, resume=True)
        assert results_of(out) == results_of(tmp_path / "whole")
        assert manifest_of(out)["init"] == init
