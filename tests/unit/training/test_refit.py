"""A refit trains on the validation speakers too, for a given number of steps, and says so everywhere."""

from __future__ import annotations

import json

import pytest
import torch

from vavl.config.load import validate
from vavl.errors import ConfigError
from vavl.models.saved_model import load_model
from vavl.tracking.journal import Journal
from vavl.training.report import write_report
from vavl.training.run import prepare_run
from vavl.training.run_data import check_plan, open_run_data
from vavl.training.run_directory import resolved
from vavl.training.settings import TrainingSettings
from vavl.training.training_result import chosen_words, end_tags, result_rows, version_tags
from vavl.training.worker import read_outcome, train_on_worker

REFIT = {"refit": True, "max_steps": 5, "average_decay": 0.5}
TEST = {"test": True}


@pytest.fixture(scope="module")
def nothing():
    return lambda records: None


def test_the_validation_clips_are_trained_on_and_the_test_clips_stay(plan):
    before, after = open_run_data(plan()), open_run_data(plan(training=REFIT))
    assert set(after.rows["train"]) == set(before.rows["train"]) | set(before.rows["validation"])
    assert len(after.rows["validation"]) == 0
    assert after.rows["test"].tolist() == before.rows["test"].tolist()
    assert (after.normaliser["audio"].common.mean != before.normaliser["audio"].common.mean).all()
    check_plan(plan(training=REFIT))


@pytest.mark.parametrize("is_tested", [True, False])
def test_the_last_step_is_kept_and_everything_says_so(plan, nothing, is_tested):
    chosen = plan(training=REFIT, evaluation={"test": is_tested})
    train_on_worker(chosen, nothing)
    outcome = read_outcome(chosen.directory)
    assert (outcome["steps"], outcome["refit_steps"], outcome["clips"]["validation"]) == (5, 5, 0)
    assert {name.split("/")[0] for name in outcome["metrics"]} == ({"test"} if is_tested else set())
    model = load_model(chosen.directory / "best")
    assert model.description.provenance["refit_steps"] == 5
    words = "last of 5 steps, refit on training and validation speakers"
    assert chosen_words(outcome) == words
    assert version_tags(outcome)["refit_steps"] == 5
    assert words in " ".join(end_tags(outcome).values())
    summary = {"events": {}, "model_version": None, "model_name": None, "mlflow_run_id": None}
    assert ("weights", words) in result_rows(outcome, summary)
    page = write_report(chosen.directory, chosen, outcome, Journal(chosen.directory / "journal.jsonl")).read_text()
    assert "Refit for 5 steps" in page
    assert words in page
    assert "chosen on validation" not in page
    assert not (chosen.directory / "predictions/validation.parquet").exists()


def test_the_weights_are_those_of_the_last_step(plan, train_from):
    """Their average, as it is configured; a resumed run has the same."""
    whole, broken = plan("whole", training=REFIT), plan("broken", training={**REFIT, "checkpoint_every_steps": 2})
    run = train_from(whole)[0]
    expected = run.weights()
    kept = load_model(whole.directory / "best").network.state_dict()
    assert all(torch.equal(kept[name], expected[name]) for name in kept)
    train_from(broken, die_at=3)
    train_from(broken)
    again = load_model(broken.directory / "best").network.state_dict()
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_an_earlier_run_names_the_number_of_steps(plan, nothing):
    first = plan("first", training={"max_epochs": 3})
    train_on_worker(first, nothing)
    outcome = read_outcome(first.directory)
    run = prepare_run(plan("probe"))
    assert outcome["best_step"] == min(outcome["best_epoch"] * run.steps_per_epoch, outcome["steps"])
    chosen = plan("second", training={"refit": True, "refit_from": first.directory})
    ready = resolved(chosen)
    assert ready.training.max_steps == outcome["best_step"]
    assert resolved(ready) == ready
    assert ready.config_hash == plan("third", training={"refit": True, "max_steps": outcome["best_step"]}).config_hash
    assert ready.config_hash != plan("fourth", training={"max_steps": outcome["best_step"]}).config_hash


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no finished run"),
        ({"best_step": 5, "refit_steps": 5, "fold": 0}, "is a refit itself"),
        ({"refit_steps": None, "fold": 0}, "is of an earlier version"),
        ({"best_step": 5, "fold": 2}, "is of fold 2, this run of fold 0"),
        ({"best_step": 7, "fold": 0}, r"chose step 7, and training\.max_steps is 5"),
    ],
)
def test_a_run_that_cannot_tell_is_refused(plan, tmp_path, content, message):
    if content is not None:
        (tmp_path / "outcome.json").write_text(json.dumps(content))
    chosen = plan(training={**REFIT, "refit_from": tmp_path})
    with pytest.raises(ConfigError, match=rf"refit_from: .*{message}"):
        check_plan(chosen)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"refit": True}, r"set max_steps, or refit_from"),
        ({"refit_from": "runs/a"}, r"refit_from needs refit: true"),
        ({"refit": True, "max_steps": 9, "early_stopping_epochs": 2}, r"never stops early"),
    ],
)
def test_a_refit_without_a_number_of_steps_is_refused(training, message):
    with pytest.raises(ConfigError, match=message):
        validate(TrainingSettings, training, "here")
