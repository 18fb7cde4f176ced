"""What a person sees of a training in a log."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from vavl.tracking.journal import Journal
from vavl.tracking.progress import TrainingProgress


def epoch(number: int) -> dict[str, object]:
    metrics = {"validation/audio/uar": 0.5, "validation/video/uar": 0.25, "train/clips_per_second": 80.0}
    return {"epoch": number, "total_epochs": 9, "best_epoch": 1, "step": 7 * number, "metrics": metrics}


def test_new_epochs_are_shown_once_and_those_of_an_earlier_attempt_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("epoch", **epoch(1))
    with (
        caplog.at_level(logging.INFO, logger="vavl.tracking.progress"),
        TrainingProgress(journal, "validation/audio/uar"),
    ):
        journal.append("step", step=8, total_steps=63, metrics={"train/loss/total": None})
        journal.append("epoch", **epoch(2))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("epoch 2/9  validation uar: audio 0.500  video 0.250")
    assert "best epoch 1, 80 clips/s" in caplog.messages[0]
