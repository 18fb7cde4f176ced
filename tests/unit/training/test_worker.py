"""A whole training in this process: what it leaves behind, and what a second start does."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
import torch

from vavl.config.files import read_json, write_json
from vavl.errors import StoreError, TrainingError
from vavl.models.saved_model import load_model
from vavl.training.checkpoint import LoopState
from vavl.training.launch import launch_training
from vavl.training.run import prepare_run
from vavl.training.run_folder import claim_run_folder
from vavl.training.worker import conclude, read_outcome, train_on_worker


def trained(plan, records):
    seen = records()
    launch_training(plan, claim_run_folder(plan), seen)
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
    outcome, _ = trained(chosen, records)
    (chosen.output_dir / "outcome.json").unlink()
    again, seen = trained(chosen, records)
    assert not seen.all
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
    train_on_worker(plan(training={"threads_per_worker": 2, "max_steps": 1}), records())
    assert torch.get_num_threads() == 2
