"""The report of a training says what was measured on what."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vavl.corpora.label_sets import LABEL_COLUMNS
from vavl.corpora.manifest import Manifest
from vavl.metrics.names import CONDITIONS
from vavl.reports.plots import PLOTS_DIRECTORY, reliability_bins
from vavl.tracking.journal import Event, Journal
from vavl.training.report import (
    ReferenceScore,
    TrainingReport,
    epoch_history,
    references_of,
    report_plots,
    scores_by_corpus,
    write_report_page,
)
from vavl.training.training_result import label_words

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
        {"epoch": epoch, "train/loss/total": 1 / epoch, "validation/audio/accuracy": 0.1 * epoch} for epoch in (1, 2, 3)
    ]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), size=30)
    outcome = {
        "corpus": "demo", "protocol": "speaker-disjoint", "fold_title": "0", "label_target": "intended emotion",
        "label_set": None, "speaker_normalisation": "none", "clips": {"train": 1200, "test": 30},
        "speakers": {"train": ["s1", "s2"], "test": ["s3"]}, "metrics": metrics, "waived_audit": [],
    }  # fmt: skip
    return TrainingReport(
        outcome=outcome,
        history=history,
        classes=CLASSES,
        confusion={condition: np.eye(3, dtype=np.int64) for condition in CONDITIONS},
        reliability={"audio": reliability_bins(probabilities, np.zeros(30, dtype=np.int64))},
        best_epoch=3,
        references=[ReferenceScore("human raters", 67.0, "all clips")],
        facts={"store hash": "abc"},
        notes=["Measured once."],
    )


def with_outcome(report: TrainingReport, **changes: Any) -> TrainingReport:
    return dataclasses.replace(report, outcome={**report.outcome, **changes})


def _page(report: TrainingReport, folder: Path) -> str:
    return write_report_page(report, folder).read_text(encoding="utf-8")


def test_the_page_states_protocol_target_clips_speakers_and_scores(report: TrainingReport, tmp_path: Path) -> None:
    text = _page(report, tmp_path)
    for stated in (
        "speaker-disjoint, fold 0", "intended emotion", "1,200 clips of 2 speakers: s1, s2", "human raters",
        "71.2 %", "<td>71.2</td>", "<td>1.250</td>", "chance", "33.3", "Epoch 3, chosen on validation",
        "one, from the training speakers", "Measured once.", "store hash",
    ):  # fmt: skip
        assert stated in text, stated
    assert "normalized per speaker" not in text
    files = sorted(file.name for file in (tmp_path / PLOTS_DIRECTORY).iterdir())
    assert files == [
        "confusion_audio.png", "confusion_audio_video.png", "confusion_video.png", "curve_accuracy.png",
        "curve_loss.png", "reliability.png",
    ]  # fmt: skip


def test_normalisation_per_speaker_is_marked(report: TrainingReport, tmp_path: Path) -> None:
    text = _page(with_outcome(report, speaker_normalisation="full"), tmp_path)
    assert 'class="mark"' in text
    assert text.index("normalized per speaker") < text.index("<h2>Scores")


def test_without_test_scores_validation_heads_the_page(report: TrainingReport, tmp_path: Path) -> None:
    measured = report.outcome["metrics"].items()
    metrics = {name: value for name, value in measured if name.startswith("validation/audio/")}
    changed = with_outcome(report, metrics=metrics, clips={"train": 9})
    text = _page(dataclasses.replace(changed, split="validation"), tmp_path)
    assert "Test was not measured" in text
    assert "Accuracy on validation" in text
    assert "Not measured: video alone." in text


def test_attributes_have_neither_confusions_nor_bars(report: TrainingReport, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "history": [{"epoch": 1, "validation/audio/ccc_mean": 0.2}],
        "classes": (), "confusion": {}, "reliability": {}, "references": (),
    }  # fmt: skip
    metrics = {"test/audio/ccc_mean": 0.4321, "test/audio/ccc_arousal": float("nan")}
    changed = dataclasses.replace(with_outcome(report, metrics=metrics), **changes)
    assert [plot.name for plot in report_plots(changed)] == ["curve_ccc_mean"]
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
        Event(1772366400.0, "restarted", 120, "worker <1> was lost", {"attempt": 2}),
        Event(1772367000.0, "stopped", None, ""),
    ]
    text = _page(dataclasses.replace(report, events=events), tmp_path)
    assert "What happened to the run" in text
    assert "restarted: worker &lt;1&gt; was lost<small>attempt: 2</small>" in text
    assert "<td>2026-03-01 12:00:00</td><td>120</td>" in text.replace("\n", "")
    assert "None" not in text.partition("What happened to the run")[2].partition("</section>")[0]


def test_a_merged_store_has_a_table_by_corpus(report: TrainingReport, tmp_path: Path) -> None:
    own = {"test/audio/accuracy": 0.4321, "test/audio/clips": 12.0}
    merged = dataclasses.replace(report, by_corpus={"alpha": own, "beta": {"test/audio/accuracy": 0.9}})
    text = _page(merged, tmp_path)
    table = text.partition("Scores on test by corpus")[2].partition("</section>")[0]
    assert table.index("alpha") < table.index("43.2") < table.index("beta") < table.index("90.0")
    assert "by corpus" not in _page(report, tmp_path)


def step(journal: Journal, number: int, loss: float | None, time: float = 1.0) -> None:
    journal.append("step", step=number, time=time, metrics={"train/loss/total": loss})


def test_the_history_counts_a_repeated_step_once_and_takes_its_last_account(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    step(journal, 0, 4.0)
    step(journal, 1, 2.0)
    journal.append("epoch", epoch=1, step=2, metrics={"validation/audio/uar": 0.1})
    step(journal, 2, 9.0)
    # The run resumes from step 1; step 2 comes out a little different.
    step(journal, 1, 2.0)
    journal.append("epoch", epoch=1, step=2, metrics={"validation/audio/uar": 0.2})
    step(journal, 2, 8.0, time=2.0)
    step(journal, 3, None)
    journal.append("epoch", epoch=2, step=4, metrics={})
    step(journal, 4, 1.0)
    # Damaged lines are passed over.
    journal.append("step")
    journal.append("step", step="two", metrics={"train/loss/total": 5.0})
    journal.append("step", step=5, metrics=7)
    journal.append("epoch", epoch="three", step=9)
    journal.append("epoch", epoch=3, metrics={})
    first, second = epoch_history(journal)
    assert first == {
        "epoch": 1, "step": 2, "train/loss/total": pytest.approx(3.0), "validation/audio/uar": 0.2
    }  # fmt: skip
    assert second == {"epoch": 2, "step": 4, "train/loss/total": 8.0}


def test_each_corpus_is_scored_on_its_own_clips_where_there_are_several() -> None:
    rows = pa.table({
        "corpus": ["a", "a", "b", "a"],
        "condition": ["audio", "audio", "audio", "video"],
        "target_x": [1.0, 1.0, 0.0, 0.0],
        "target_y": [0.0, 0.0, 1.0, 1.0],
        "predicted_x": [0.9, 0.1, 0.2, 0.3],
        "predicted_y": [0.1, 0.9, 0.8, 0.7],
    })  # fmt: skip
    found = scores_by_corpus(rows, "test", ["a", "b", "c"], ("x", "y"))
    assert {
        corpus: {name: score for name, score in scores.items() if name.endswith(("accuracy", "clips"))}
        for corpus, scores in found.items()
    } == {
        "a": {
            "test/audio/accuracy": 0.5, "test/audio/clips": 2.0, "test/video/accuracy": 1.0, "test/video/clips": 1.0
        },
        "b": {"test/audio/accuracy": 1.0, "test/audio/clips": 1.0},
    }  # fmt: skip
    of_attributes = scores_by_corpus(rows, "test", ["a", "b"], ())
    assert {"test/audio/ccc_x", "test/audio/ccc_mean"} <= of_attributes["a"].keys()
    assert scores_by_corpus(rows, "test", ["a"], ("x", "y")) == {}


def test_a_report_shows_the_references_of_the_chosen_labels_alone() -> None:
    notes = [
        {"name": name, "accuracy_percent": 50.0, "protocol": "all", "citation": "c", "labels": labels}
        for name, labels in (("raters", "intended"), ("model", "consensus"), ("both", None))
    ]
    sets = {name: {"target": name} for name in ("consensus", "intended")}
    facts = {"corpus": "c", "labels": sets, "label_set": "consensus", "target": "x", "yardsticks": notes}
    names = [f"{column}{ending}" for ending in ("", "__intended") for column in LABEL_COLUMNS]
    table = pa.table({name: pa.nulls(1) for name in names}).replace_schema_metadata({b"vavl": json.dumps(facts)})
    manifest = Manifest(table)
    assert [note.name for note in references_of(manifest)] == ["model", "both"]
    assert [note.name for note in references_of(manifest.with_labels("intended"))] == ["raters", "both"]


@pytest.mark.parametrize(("name", "words"), [("votes", "perceived emotion (set votes)"), ("", "perceived emotion")])
def test_the_labels_of_a_run_are_told_with_their_set(name: str, words: str) -> None:
    assert label_words({"label_target": "perceived emotion", "label_set": name}) == words
