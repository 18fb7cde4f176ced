"""A whole training in this process: what it leaves behind, and what a second start does."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from vavl.config.files import read_json, write_json
from vavl.data.collection import open_collection
from vavl.errors import StoreError, TrainingError
from vavl.features import ChannelSums
from vavl.models.saved_model import load_model
from vavl.store.store import FeatureStore
from vavl.training.checkpoint_files import LoopState
from vavl.training.launch import launch_training
from vavl.training.run import prepare_run
from vavl.training.run_data import open_run_data
from vavl.training.run_directory import claim_run_directory
from vavl.training.worker import conclude, read_outcome, train_on_worker


def trained(plan, records):
    seen = records()
    launch_training(plan, claim_run_directory(plan), seen)
    return read_outcome(plan.output_dir), seen


def test_a_training_leaves_the_model_its_scores_and_its_predictions(plan, records):
    chosen = plan(evaluation={"test": True})
    outcome, seen = trained(chosen, records)
    assert len(seen.losses()) == outcome["steps"] == 12
    assert outcome["clips"] == {"train": 40, "validation": 20, "test": 20}
    assert outcome["speakers"]["test"] == ["s6", "s7"]
    assert outcome["config_hash"] == chosen.config_hash
    assert outcome["rows_per_step"]["paired_labelled"] >= 1
    assert {"validation/audio_video/accuracy", "test/video/uar"} <= outcome["metrics"].keys()
    assert load_model(chosen.output_dir / "best").classes == ("calm", "glad", "mad")
    for split, clips in (("validation", 16), ("test", 16)):
        table = pq.read_table(chosen.output_dir / f"predictions/{split}.parquet")
        assert table.filter(table["condition"].to_numpy() == "audio_video").num_rows == clips


def test_the_reported_scores_are_those_of_the_kept_model(plan, records):
    """The scores of the best epoch in training and those of the files that are registered."""
    dropped = {**plan().model.model_dump(), "dropout": 0.4, "head_dropout": 0.4}
    chosen = plan(model=dropped, training={"max_epochs": 6, "optimizer": {"learning_rate": 0.05}})
    outcome, seen = trained(chosen, records)
    best = seen.of("epoch")[outcome["best_epoch"] - 1]["metrics"]
    for name, value in outcome["metrics"].items():
        assert value == pytest.approx(best[name], abs=1e-6), name


def test_test_is_not_touched_unless_asked(plan, records):
    chosen = plan()
    outcome, _ = trained(chosen, records)
    assert not [name for name in outcome["metrics"] if name.startswith("test/")]
    assert not (chosen.output_dir / "predictions/test.parquet").exists()


def test_a_finished_training_is_only_concluded_again(plan, records):
    chosen = plan()
    outcome, first = trained(chosen, records)
    (chosen.output_dir / "outcome.json").unlink()
    again, seen = trained(chosen, records)
    # Nothing is trained: what the last checkpoint holds is told once more, in case nobody had heard it.
    assert all(record in first.all for record in seen.of("step") + seen.of("epoch"))
    assert [event["what"] for event in seen.of("event")] == ["resumed"]
    assert again["metrics"] == outcome["metrics"]


def test_other_features_are_refused_on_resume(plan, records, small_store, small_corpus):
    chosen = plan()
    trained(chosen, records)
    other = small_store(small_corpus(seed=5))
    moved = chosen.model_copy(update={"data": chosen.data.model_copy(update={"store": other})})
    with pytest.raises(TrainingError, match="store_hash: the checkpoint has"):
        train_on_worker(moved, records())


def test_a_run_without_an_epoch_has_nothing_to_conclude(plan):
    run = prepare_run(plan())
    fresh = LoopState(config_hash="", store_hash="", workers=1, zero_stage=0)
    with pytest.raises(TrainingError, match="no epoch was finished"):
        conclude(run, fresh)


def test_statistics_of_another_corpus_are_refused(plan, records):
    chosen = plan()
    run = prepare_run(chosen)
    _, seen = trained(chosen, records)
    assert seen.losses()
    description = chosen.output_dir / "best/model.json"
    content = read_json(description)
    content["audio"]["statistics"]["corpus"] = "other"
    write_json(description, content)
    state = LoopState(config_hash="", store_hash="", workers=1, zero_stage=0, best_epoch=1)
    with pytest.raises(StoreError, match="statistics of another corpus: other, the store holds small"):
        conclude(run, state)


def test_threads_are_those_of_the_settings(plan, records):
    train_on_worker(plan(training={"cpus_per_worker": 2, "max_steps": 1}), records())
    assert torch.get_num_threads() == 2


SCARCE = {"labelled_fraction": 0.5, "audio_only_share": 0.25, "video_only_share": 0.25}


def scarce(plan, name):
    data = {**plan(corpus={}).data.model_dump(), "partitions": SCARCE}
    return plan(name, data=data, evaluation={"test": True})


def test_a_training_with_few_labels_and_pairs_says_what_it_had(plan, records):
    chosen = scarce(plan, "scarce")
    outcome, seen = trained(chosen, records)
    assert all(np.isfinite(seen.losses()))
    found = Counter()
    with (chosen.output_dir / "partitions.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["partition"]] += int(row["clips"])
    assert found.total() == 40
    assert sum(count for name, count in found.items() if not name.endswith("_unlabelled")) == 20
    for side, clips in (("paired", 20), ("audio_only", 10), ("video_only", 10)):
        assert sum(count for name, count in found.items() if name.startswith(side)) == clips
    assert outcome["partitions"].keys() == found.keys()
    assert outcome["metrics"]["test/audio_video/clips"] == 20
    assert outcome["metrics"]["validation/video/clips"] == 20


def test_what_a_training_must_not_see_changes_nothing(plan, records, monkeypatch):
    """Hidden sides and the sums that hold them are NaN here."""
    _, untouched = trained(scarce(plan, "untouched"), records)
    chosen = scarce(plan, "poisoned")
    data = open_run_data(chosen)
    rows = {
        modality: set(open_collection(chosen.data).store_row[modality][hidden].tolist())
        for modality, hidden in data.collection.hidden.items()
    }
    assert [len(hidden) for hidden in rows.values()] == [10, 10]
    speakers = {
        modality: {data.collection.speakers[code] for code in data.collection.speaker[hidden]}
        for modality, hidden in data.collection.hidden.items()
    }
    read, add_up = FeatureStore.features, FeatureStore.speaker_sums

    def features(store, modality, row, **words):
        values = read(store, modality, row, **words)
        return np.full_like(values, np.nan) if row in rows[modality] else values

    def speaker_sums(store, modality):
        sums = add_up(store, modality)
        return {
            name: ChannelSums(one.count, one.sum * np.nan, one.sum_of_squares) if name in speakers[modality] else one
            for name, one in sums.items()
        }

    monkeypatch.setattr(FeatureStore, "features", features)
    monkeypatch.setattr(FeatureStore, "speaker_sums", speaker_sums)
    _, poisoned = trained(chosen, records)
    assert poisoned.losses() == untouched.losses()
