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


def test_what_a_resumed_run_reports_again_is_no_news(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    event = {"what": "skipped_step", "step": 3, "message": "loss is not finite"}
    for kind, payload in (("epoch", epoch(1)), ("event", event)):
        journal.append(kind, time=5.0, **payload)
    with (
        caplog.at_level(logging.INFO, logger="vavl.tracking.progress"),
        TrainingProgress(journal, "validation/audio/uar"),
    ):
        for kind, payload in (("epoch", epoch(1)), ("event", event)):
            journal.append(kind, time=5.0, **payload)
        journal.append("event", what="restarted", step=2, message="worker 1 was lost")
    assert caplog.messages == ["restarted at step 2: worker 1 was lost"]
