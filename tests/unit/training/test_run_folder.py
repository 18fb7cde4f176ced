"""The folder of a run: continued, or put aside; nothing is deleted."""

from __future__ import annotations

import json

import pytest

from vavl.config.load import read_config
from vavl.errors import InputError
from vavl.training.run_folder import claim_run_folder
from vavl.training.settings import TrainingPlan


def state(plan) -> dict:
    return json.loads((plan.output_dir / "run.json").read_text())


def test_a_new_folder_belongs_to_a_new_run(plan):
    chosen = plan()
    folder = claim_run_folder(chosen)
    assert not folder.is_resumed
    assert state(chosen) == {"run_id": folder.run_id, "config_hash": chosen.config_hash, "state": "running"}
    assert read_config(TrainingPlan, chosen.output_dir / "config.yaml") == chosen


def test_an_unfinished_run_is_continued(plan):
    chosen = plan()
    first = claim_run_folder(chosen)
    (chosen.output_dir / "half.txt").write_text("done")
    again = claim_run_folder(chosen)
    assert again.is_resumed
    assert again.run_id == first.run_id
    assert (chosen.output_dir / "half.txt").exists()


@pytest.mark.parametrize("why", ["finished", "never", "settings"])
def test_another_run_puts_the_earlier_one_aside(plan, why):
    chosen = plan()
    first = claim_run_folder(chosen)
    (chosen.output_dir / "result.txt").write_text("kept")
    match why:
        case "finished":
            first.finish()
        case "never":
            chosen = plan(training={"resume": "never"})
        case "settings":
            chosen = plan(training={"seed": 5})
    again = claim_run_folder(chosen)
    assert not again.is_resumed
    assert again.run_id != first.run_id
    kept = chosen.output_dir / "earlier" / first.run_id
    assert (kept / "result.txt").read_text() == "kept"
    assert json.loads((kept / "run.json").read_text())["run_id"] == first.run_id
    assert not (chosen.output_dir / "result.txt").exists()
    third = claim_run_folder(plan(training={"seed": 7}))
    earlier = sorted(path.name for path in (chosen.output_dir / "earlier").iterdir())
    assert earlier == sorted([first.run_id, again.run_id])
    assert third.run_id not in earlier


def test_a_place_that_cannot_be_written_is_refused(plan, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        claim_run_folder(plan().model_copy(update={"output_dir": tmp_path / "file" / "run"}))
