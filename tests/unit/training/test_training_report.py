"""The report of a training says what was measured on what."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vavl.metrics.names import CONDITIONS
from vavl.reports.pictures import reliability_bins
from vavl.training.training_content import EventNote, TrainingReport, YardstickNote
from vavl.training.training_report import report_pictures, write_training_report

CLASSES = ("joy", "anger", "fear")


@pytest.fixture
def report() -> TrainingReport:
    metrics = {
        f"{split}/{condition}/{name}": value
        for split in ("validation", "test")
        for condition in CONDITIONS
        for name, value in (("accuracy", 0.7123), ("loss", 1.25), ("clips", 30.0))
    }
    history = [
        {"epoch": epoch, "train/loss/total": 1 / epoch, "validation/audio/accuracy": 0.1 * epoch}
        for epoch in (1, 2, 3)
    ]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), size=30)
    return TrainingReport(
        title="demo: VAVL",
        corpus="demo",
        protocol="speaker-disjoint, fold 0",
        label_target="intended emotion",
        speaker_normalisation=False,
        clips={"train": 1200, "test": 30},
        speakers={"train": ["s1", "s2"], "test": ["s3"]},
        metrics=metrics,
        history=history,
        classes=CLASSES,
        confusion={condition: np.eye(3, dtype=np.int64) for condition in CONDITIONS},
        reliability={"audio": reliability_bins(probabilities, np.zeros(30, dtype=np.int64))},
        best_epoch=3,
        yardsticks=[YardstickNote("human raters", 67.0, "all clips")],
        facts={"store hash": "abc"},
        notes=["Measured once."],
    )


def _page(report: TrainingReport, folder: Path) -> str:
    return write_training_report(report, folder).read_text(encoding="utf-8")


def test_the_page_states_protocol_target_clips_speakers_and_scores(
    report: TrainingReport, tmp_path: Path
) -> None:
    text = _page(report, tmp_path)
    for stated in (
        "speaker-disjoint, fold 0", "intended emotion", "1,200 clips of 2 speakers: s1, s2", "human raters",
        "71.2 %", "<td>71.2</td>", "<td>1.250</td>", "chance", "33.3", "Epoch 3, chosen on validation",
        "one, from the training speakers", "Measured once.", "store hash",
    ):  # fmt: skip
        assert stated in text, stated
    assert "normalised per speaker" not in text
    files = sorted(file.name for file in (tmp_path / "pictures").iterdir())
    assert files == [
        "confusion_audio.png", "confusion_audio_video.png", "confusion_video.png", "curve_accuracy.png",
        "curve_loss.png", "reliability.png",
    ]  # fmt: skip


def test_normalisation_per_speaker_is_marked(report: TrainingReport, tmp_path: Path) -> None:
    text = _page(dataclasses.replace(report, speaker_normalisation=True), tmp_path)
    assert 'class="mark"' in text
    assert text.index("normalised per speaker") < text.index("<h2>Scores")


def test_without_test_scores_validation_heads_the_page(report: TrainingReport, tmp_path: Path) -> None:
    metrics = {name: value for name, value in report.metrics.items() if name.startswith("validation/audio/")}
    text = _page(
        dataclasses.replace(report, metrics=metrics, confusion_split="validation", clips={"train": 9}),
        tmp_path,
    )
    assert "Test was not measured" in text
    assert "Accuracy on validation" in text
    assert "Not measured: video alone." in text


def test_attributes_have_neither_confusions_nor_bars(report: TrainingReport, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "metrics": {"test/audio/ccc_mean": 0.4321, "test/audio/ccc_arousal": float("nan")},
        "history": [{"epoch": 1, "validation/audio/ccc_mean": 0.2}],
        "classes": (), "confusion": {}, "reliability": {}, "yardsticks": (),
    }  # fmt: skip
    changed = dataclasses.replace(report, **changes)
    assert [picture.name for picture in report_pictures(changed)] == ["curve_ccc_mean"]
    text = _page(changed, tmp_path)
    assert "0.432" in text
    assert "chance" not in text


def test_intervals_stand_below_their_score(report: TrainingReport, tmp_path: Path) -> None:
    intervals = {"test/audio/accuracy": (0.66, 0.78)}
    assert "<td>71.2<small>66.0 to 78.0</small></td>" in _page(
        dataclasses.replace(report, intervals=intervals), tmp_path
    )


def test_what_happened_to_the_run_is_listed(report: TrainingReport, tmp_path: Path) -> None:
    assert "What happened to the run" not in _page(report, tmp_path)
    events = [
        EventNote("2026-03-01 12:00:00", 120, "restarted: worker <1> was lost", "attempt: 2"),
        EventNote("2026-03-01 12:10:00", None, "stopped"),
    ]
    text = _page(dataclasses.replace(report, events=events), tmp_path)
    assert "What happened to the run" in text
    assert "restarted: worker &lt;1&gt; was lost<small>attempt: 2</small>" in text
    assert "<td>120</td>" in text
    assert "None" not in text.partition("What happened to the run")[2].partition("</section>")[0]


def test_a_merged_store_has_a_table_by_corpus(report: TrainingReport, tmp_path: Path) -> None:
    own = {"test/audio/accuracy": 0.4321, "test/audio/clips": 12.0}
    merged = dataclasses.replace(report, by_corpus={"alpha": own, "beta": {"test/audio/accuracy": 0.9}})
    text = _page(merged, tmp_path)
    table = text.partition("Scores on test by corpus")[2].partition("</section>")[0]
    assert table.index("alpha") < table.index("43.2") < table.index("beta") < table.index("90.0")
    assert "by corpus" not in _page(report, tmp_path)
