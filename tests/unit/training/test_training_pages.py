"""What the report of a training takes from the journal."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from vavl.corpora.label_columns import LABEL_COLUMNS
from vavl.corpora.manifest import Manifest
from vavl.tracking.journal import Journal
from vavl.training.training_pages import epoch_history, scores_by_corpus, yardsticks_of
from vavl.training.training_result import label_words


def step(journal: Journal, number: int, loss: float | None, time: float = 1.0) -> None:
    journal.append("step", step=number, time=time, metrics={"train/loss/total": loss})


def test_the_history_counts_a_repeated_step_once_and_takes_its_last_account(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    step(journal, 0, 4.0)
    step(journal, 1, 2.0)
    journal.append("epoch", epoch=1, step=2, metrics={"validation/audio/uar": 0.1})
    step(journal, 2, 9.0)
    # The run goes on from step 1; step 2 comes out a little different.
    step(journal, 1, 2.0)
    journal.append("epoch", epoch=1, step=2, metrics={"validation/audio/uar": 0.2})
    step(journal, 2, 8.0, time=2.0)
    step(journal, 3, None)
    journal.append("epoch", epoch=2, step=4, metrics={})
    step(journal, 4, 1.0)
    first, second = epoch_history(journal)
    assert first == {
        "epoch": 1, "step": 2, "train/loss/total": pytest.approx(3.0), "validation/audio/uar": 0.2
    }  # fmt: skip
    assert second == {"epoch": 2, "step": 4, "train/loss/total": 8.0}


def test_each_corpus_is_scored_on_its_own_clips_where_there_are_several() -> None:
    rows = pa.table({
        "corpus": ["a", "a", "b", "a"],
        "condition": ["audio", "audio", "audio", "video"],
        "right": [1.0, 0.0, 1.0, 1.0],
    })  # fmt: skip

    def share(found: pa.Table) -> dict[str, float]:
        return {"accuracy": sum(found["right"].to_pylist()) / found.num_rows}

    assert scores_by_corpus(rows, "test", ["a", "b", "c"], share) == {
        "a": {
            "test/audio/accuracy": 0.5, "test/audio/clips": 2.0, "test/video/accuracy": 1.0, "test/video/clips": 1.0
        },
        "b": {"test/audio/accuracy": 1.0, "test/audio/clips": 1.0},
    }  # fmt: skip
    assert scores_by_corpus(rows, "test", ["a"], share) == {}


def test_a_report_shows_the_yardsticks_of_the_chosen_labels_alone() -> None:
    notes = [
        {"name": name, "accuracy_percent": 50.0, "protocol": "all", "citation": "c", "labels": labels}
        for name, labels in (("raters", "intended"), ("model", "consensus"), ("both", None))
    ]
    sets = {name: {"target": name} for name in ("consensus", "intended")}
    facts = {"corpus": "c", "labels": sets, "label_set": "consensus", "target": "x", "yardsticks": notes}
    names = [f"{column}{ending}" for ending in ("", "__intended") for column in LABEL_COLUMNS]
    table = pa.table({name: pa.nulls(1) for name in names}).replace_schema_metadata(
        {b"vavl": json.dumps(facts)}
    )
    manifest = Manifest(table)
    assert [note.name for note in yardsticks_of(manifest)] == ["model", "both"]
    assert [note.name for note in yardsticks_of(manifest.with_labels("intended"))] == ["raters", "both"]


@pytest.mark.parametrize(
    ("name", "words"), [("votes", "perceived emotion (set votes)"), ("", "perceived emotion")]
)
def test_the_labels_of_a_run_are_told_with_their_set(name: str, words: str) -> None:
    assert label_words({"label_target": "perceived emotion", "label_set": name}) == words
