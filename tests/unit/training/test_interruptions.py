"""Runs that are asked to stop, that find torn checkpoints: the end is the same."""

from __future__ import annotations

import itertools

import pytest

from vavl.training.context import LocalContext
from vavl.training.worker import read_outcome, train_on_worker

STEPS = 12


class AskedAt(LocalContext):
    """Is asked to stop at the n-th step, or notified that the machine will go at the n-th report."""

    def __init__(self, step=None, report=None):
        super().__init__()
        self.steps, self.reports = itertools.count(1), itertools.count(1)
        self.step, self.report = step, report

    def is_asked_to_stop(self):
        return next(self.steps) == self.step

    def is_preempted(self):
        return next(self.reports) >= self.report if self.report else False


@pytest.fixture
def whole(plan, records):
    """Return an undisturbed run's losses by step, scores by epoch, and model."""

    def run_it(**sections):
        chosen, seen = plan("whole", **sections), records()
        train_on_worker(chosen, seen)
        return told(seen), (chosen.output_dir / "best/model.safetensors").read_bytes()

    return run_it


def told(seen):
    """Return losses by step and scores by epoch, the latest attempt's."""
    losses = {one["step"]: one["metrics"]["train/loss/total"] for one in seen.of("step")}
    scores = {
        one["epoch"]: {name: value for name, value in one["metrics"].items() if "clips_per_second" not in name}
        for one in seen.of("epoch")
    }
    return losses, scores


DRAWS = {"model": {"dropout": 0.2, "head_dropout": 0.2}}


def sections(plan, **training):
    return {"model": {**plan().model.model_dump(), **DRAWS["model"]}, "training": {"report_every_steps": 1, **training}}


@pytest.mark.parametrize("step", [1, 3, 4, 5, 11])
def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_happened(plan, records, whole, step):
    chosen, seen = plan("stopped", **sections(plan)), records()
    assert train_on_worker(chosen, seen, AskedAt(step=step)) == {"is_stopped": True, "step": step}
    assert not (chosen.output_dir / "outcome.json").exists()
    train_on_worker(chosen, seen)
    assert [(one["what"], one["step"]) for one in seen.of("event")] == [("resumed", step)]
    expected, model = whole(**sections(plan))
    assert sorted(expected[0]) == list(range(STEPS))
    assert told(seen) == expected
    assert (chosen.output_dir / "best/model.safetensors").read_bytes() == model


def test_a_run_whose_machine_will_go_away_writes_one_checkpoint_at_once_and_continues(plan, records):
    chosen, seen = (plan("preempted", **sections(plan, checkpoint_every_epochs=3, keep_checkpoints=9)), records())
    end = train_on_worker(chosen, seen, AskedAt(report=2))
    assert end == {"is_stopped": False, "step": STEPS}
    assert [(one["what"], one["step"]) for one in seen.of("event")] == [("preemption", 2)]
    found = sorted(path.name for path in (chosen.output_dir / "checkpoints").iterdir())
    assert found == ["step-00000002", "step-00000012"]


def test_the_last_step_is_the_end_whoever_asks(plan, records):
    chosen = plan("end", **sections(plan))
    assert not train_on_worker(chosen, records(), AskedAt(step=STEPS))["is_stopped"]
    assert read_outcome(chosen.output_dir)["steps"] == STEPS


def test_checkpoints_within_epochs_bound_what_is_lost(plan, records):
    chosen = plan("often", **sections(plan, checkpoint_every_steps=3, keep_checkpoints=99))
    train_on_worker(chosen, records())
    names = sorted(int(path.name[5:]) for path in (chosen.output_dir / "checkpoints").iterdir())
    assert names == [3, 4, 6, 8, 9, 12]


def test_what_a_killed_driver_had_not_received_comes_back_from_the_checkpoint(plan, records):
    """Ray hands reports on with a delay: here none but those of the second attempt arrive."""
    chosen, seen = plan("unheard", **sections(plan)), records()
    train_on_worker(chosen, records(), AskedAt(step=4))
    train_on_worker(chosen, seen)
    assert [one["step"] for one in seen.of("step")] == list(range(STEPS))
    assert [one["epoch"] for one in seen.of("epoch")] == [1, 2, 3]


def test_a_torn_checkpoint_is_told_and_costs_only_its_steps(plan, records, whole):
    chosen, seen = plan("torn", **sections(plan)), records()
    train_on_worker(chosen, seen, AskedAt(step=7))
    (chosen.output_dir / "checkpoints/step-00000007/loop.json").write_text("{}")  # another size
    train_on_worker(chosen, seen)
    events = [(one["what"], one["step"]) for one in seen.of("event")]
    assert events == [("checkpoint_skipped", 4), ("resumed", 4)]
    expected, model = whole(**sections(plan))
    assert told(seen) == expected
    assert (chosen.output_dir / "best/model.safetensors").read_bytes() == model
