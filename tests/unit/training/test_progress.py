"""What a person sees of a training run in a log."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from vavl.config.progress import process_seconds
from vavl.tracking import journal as journal_module
from vavl.tracking.journal import Journal
from vavl.training import progress as progress_module
from vavl.training.progress import TrainingProgress, forecast_line


def epoch(number: int) -> dict[str, object]:
    metrics = {"validation/audio/uar": 0.5, "validation/video/uar": 0.25, "train/clips_per_second": 80.0}
    return {"epoch": number, "total_epochs": 9, "best_epoch": 1, "step": 7 * number, "metrics": metrics}


def test_new_epochs_are_shown_once_and_those_of_an_earlier_attempt_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("epoch", **epoch(1))
    with (
        caplog.at_level(logging.INFO, logger="vavl.config.progress"),
        TrainingProgress(journal, "validation/audio/uar") as progress,
    ):
        journal.append("step", step=8, total_steps=63, metrics={"train/loss/total": None})
        journal.append("epoch", **epoch(2))
    assert progress.first_step_seconds == pytest.approx(process_seconds(), abs=60)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("epoch 2/9  validation uar: audio 0.500  video 0.250")
    assert "best epoch 1, 80 clips/s" in caplog.messages[0]


def test_the_first_step_of_a_run_that_resumes_was_taken_earlier(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    step = {"total_steps": 63, "metrics": {"train/loss/total": None}}
    journal.append("step", step=0, **step)
    with TrainingProgress(journal, "validation/audio/uar") as progress:
        journal.append("step", step=1, **step)
    assert progress.first_step_seconds is None


def test_what_a_resumed_run_reports_again_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    event = {"what": "skipped_step", "step": 3, "message": "loss is not finite"}
    for kind, payload in (("epoch", epoch(1)), ("event", event)):
        journal.append(kind, time=5.0, **payload)
    with (
        caplog.at_level(logging.INFO, logger="vavl.config.progress"),
        TrainingProgress(journal, "validation/audio/uar"),
    ):
        for kind, payload in (("epoch", epoch(1)), ("event", event)):
            journal.append(kind, time=5.0, **payload)
        journal.append("event", what="restarted", step=2, message="worker 1 was lost")
    assert caplog.messages == ["restarted at step 2: worker 1 was lost"]


FORECAST = {"train/seconds_per_step": 0.4123, "train/expected_seconds": 732.0}


def step(number: int, **metrics: float) -> dict[str, object]:
    return {"step": number, "total_steps": 63, "time": float(number), "metrics": {"train/loss/total": 1.0, **metrics}}


def test_the_forecast_is_shown_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    with (
        caplog.at_level(logging.INFO, logger="vavl.config.progress"),
        TrainingProgress(journal, "validation/audio/uar"),
    ):
        journal.append_all([("step", step(18)), ("step", step(19, **FORECAST, **{"train/mfu": 0.4129}))])
        journal.append("step", **step(20))
    assert caplog.messages == ["step 20: 0.41 s/step, about 12 min in all, MFU 41.3%"]
    caplog.clear()
    with TrainingProgress(journal, "validation/audio/uar"):  # a resumed run reports it again
        journal.append("step", **step(19, **FORECAST))
    assert not caplog.messages


def test_the_first_step_says_what_is_trained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    with (
        caplog.at_level(logging.INFO, logger="vavl.config.progress"),
        TrainingProgress(journal, "validation/audio/uar"),
    ):
        journal.append("step", **step(0), setup="network of 0.05 M parameters, 63 steps")
        journal.append("step", **step(1))
    assert caplog.messages == ["training: network of 0.05 M parameters, 63 steps"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(9.7, "10 s"), (99.0, "99 s"), (130.0, "2 min"), (5900.0, "98 min"), (9000.0, "2.5 h")]
)
def test_the_forecast_without_gpu_and_in_units_that_fit(seconds: float, words: str) -> None:
    payload = step(1019, **{**FORECAST, "train/expected_seconds": seconds})
    assert forecast_line(payload) == f"step 1020: 0.41 s/step, about {words} in all"


def test_a_look_at_a_long_journal_costs_no_more_than_at_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, parsed, looks = Journal(tmp_path / "journal.jsonl"), [], 5
    journal.append_all([("step", step(number)) for number in range(1000)])
    monkeypatch.setattr(progress_module, "_LOOK_SECONDS", 0.01)
    progress = TrainingProgress(journal, "validation/audio/uar")
    true_parse, looked = journal_module._parsed, threading.Event()

    def parse(line: bytes) -> object:
        parsed.append(line)
        if len(parsed) == looks:
            looked.set()
        return true_parse(line)

    monkeypatch.setattr(journal_module, "_parsed", parse)
    with progress:
        assert looked.wait(20)
    assert set(parsed) == {parsed[0]}  # the last line, by which the file is known again
