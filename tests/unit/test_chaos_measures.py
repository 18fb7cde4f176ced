"""What `make chaos` measures: a run that differs, repeats or lacks a step is seen."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from vavl.tracking.journal import Journal

CHAOS = Path(__file__).parents[1] / "chaos"


@pytest.fixture
def chaos(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Return modules of the program, which is not a package."""
    monkeypatch.syspath_prepend(str(CHAOS))
    return {name: importlib.import_module(name) for name in ("difference", "reading", "faults")}


def write_run(folder: Path, losses: Sequence[tuple[int, float, float]], weight: float = 1.0) -> Path:
    """Write a journal of (step, time, loss) and a model."""
    for step, time, loss in losses:
        Journal(folder / "journal.jsonl").append("step", step=step, metrics={"train/loss/total": loss}, time=time)
    (folder / "best").mkdir(parents=True, exist_ok=True)
    save_file({"weight": torch.tensor([weight, 2.0])}, folder / "best/model.safetensors")
    return folder


UNDISTURBED = [(0, 1.0, 0.5), (1, 2.0, 0.25), (2, 3.0, 0.125)]


@pytest.mark.parametrize(
    ("losses", "weight", "expected"),
    [
        ([(0, 5.0, 0.5), (1, 6.0, 0.25), (2, 7.0, 0.125)], 1.0, 0.0),
        ([(0, 5.0, 0.5), (1, 6.0, 0.25), (1, 7.0, 0.25), (2, 8.0, 0.125)], 1.0, 0.0),
        ([(0, 5.0, 0.5), (1, 6.0, 0.26), (1, 7.0, 0.25), (2, 8.0, 0.125)], 1.0, 0.04),
        ([(0, 5.0, 0.5), (1, 6.0, 0.25), (2, 7.0, 0.125)], 1.5, 0.5 / math.sqrt(5)),
        ([(0, 5.0, 0.5), (2, 7.0, 0.125)], 1.0, math.inf),
    ],
    ids=["equal", "step again", "other loss the first time", "other weights", "step lost"],
)
def test_a_difference_is_found(chaos, tmp_path, losses, weight, expected) -> None:
    mine, theirs = write_run(tmp_path / "a", losses, weight), write_run(tmp_path / "b", UNDISTURBED)
    assert chaos["difference"].difference_of(mine, theirs, steps=3) == pytest.approx(expected)


def test_steps_from_a_checkpoints_records_are_not_new(chaos, tmp_path: Path) -> None:
    """Reported again with their first time; a step that was computed again has another."""
    folder = write_run(tmp_path, [*UNDISTURBED, (1, 2.0, 0.25)])
    Journal(folder / "journal.jsonl").append("event", what="resumed", step=1, message="from step-00000001", time=10.0)
    write_run(folder, [(1, 11.0, 0.25), (2, 12.0, 0.125), (3, 13.0, 0.1)])
    reading = chaos["reading"].RunReading(folder)
    reading.refresh()
    resumed = reading.resumed_after(5.0)
    assert (resumed.step, reading.done(resumed.time), reading.reached(3, resumed.time)) == (1, 3, 13.0)
    assert len(reading.losses) == 6


@pytest.mark.parametrize(
    ("recovery", "difference", "allowed", "fault", "is_lost"),
    [
        (1.0, 0.0, 0.0, "", False),
        (1.0, 5e-5, 1e-4, "", False),
        (1.0, 1e-9, 0.0, "", True),
        (1.0, math.inf, 1e-4, "", True),
        (1.0, math.nan, 1e-4, "", True),
        (None, 0.0, 0.0, "", True),
        (1.0, None, 0.0, "", True),
        (1.0, 0.0, 0.0, "the driver does not end", True),
    ],
)
def test_a_lost_run_is_counted(chaos, recovery, difference, allowed, fault, is_lost) -> None:
    made = chaos["faults"].Fault(
        "worker killed", "run", 3, recovery_seconds=recovery, steps_repeated=0, allowed=allowed,
        final_difference=difference, fault=fault,
    )  # fmt: skip
    assert made.is_lost is is_lost
    assert chaos["faults"].summary_of([made])["lost"] == int(is_lost)
