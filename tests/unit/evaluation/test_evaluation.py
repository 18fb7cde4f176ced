"""An evaluation: degraded inputs beside whole ones, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from vavl.errors import ConfigError
from vavl.evaluation.degradation import open_degradations
from vavl.evaluation.evaluation import Evaluation, chance_and_majority, evaluate
from vavl.evaluation.measure import open_clips
from vavl.evaluation.results import numbers_of, write_predictions
from vavl.evaluation.settings import EvaluationPlan
from vavl.metrics.scores import class_scores

DEGRADED = {
    "noise_db": [10], "dropped_frames": [0.5], "shifted_s": [0.3, -0.3], "feature_noise": [0.5, 4],
}  # fmt: skip


def _evaluate(run: Any, folder: Path, **changes: Any) -> Evaluation:
    content = {
        "output_dir": folder,
        "model": str(run.folder),
        "data": {"store": run.store, "split": "test"},
        "degradations": DEGRADED,
        **changes,
    }
    plan = EvaluationPlan.model_validate(content)
    clips = open_clips(run.model(), plan.data)
    return evaluate(run.model(), plan, clips, open_degradations(run.model(), plan, clips))


@pytest.fixture
def able(trained):
    """A training long enough to know the classes apart."""
    return trained(training={"max_epochs": 12, "optimizer": {"learning_rate": 2e-2}})


@pytest.fixture
def evaluation(able, tmp_path):
    return _evaluate(able, tmp_path)


def test_whole_inputs_score_as_in_training_and_degraded_ones_have_names_of_their_own(able, evaluation):
    metrics = evaluation.metrics()
    expected = {name: value for name, value in able.metrics.items() if name.startswith("test/")}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    places = {name.partition(":")[2]: set() for name in metrics}
    for name in metrics:
        places[name.partition(":")[2]].add(name.split("/")[1])
    both, pictures = {"audio_video", "audio", "video"}, {"audio_video", "video"}
    assert places == {
        "": both, "dropped_frames_0.5": pictures, "shifted_0.3s": pictures, "shifted_-0.3s": pictures,
        "feature_noise_0.5": both, "feature_noise_4": both,
    }  # fmt: skip
    assert all(np.isfinite(value) for value in metrics.values())


def test_sound_is_untouched_by_what_happens_to_pictures(evaluation):
    whole = evaluation.whole.predictions
    for measured in evaluation.degraded[:3]:
        np.testing.assert_allclose(measured.predictions.predicted["audio"], whole.predicted["audio"], atol=1e-6)
        assert np.abs(measured.predictions.predicted["video"] - whole.predicted["video"]).max() > 1e-3


def test_an_evaluation_repeats_itself_and_another_seed_draws_anew(able, tmp_path):
    first, again = (_evaluate(able, tmp_path / name).metrics() for name in ("one", "two"))
    assert first == again
    other = _evaluate(able, tmp_path, degradations={**DEGRADED, "seed": 1}).metrics()
    changed = {name.partition(":")[2] for name in first if first[name] != other[name]}
    assert "feature_noise_4" in changed
    assert not changed & {"", "shifted_0.3s", "shifted_-0.3s"}


def test_more_noise_on_features_costs_more_and_differences_are_paired(evaluation):
    weak, strong = (
        measured.differences["audio_video"]
        for measured in evaluation.degraded
        if measured.name.startswith("feature_noise")
    )
    assert strong.value < min(weak.value, 0)
    assert strong.low <= strong.value <= strong.high
    metrics = evaluation.metrics()
    expected = metrics["test/audio_video/accuracy:feature_noise_4"] - metrics["test/audio_video/accuracy"]
    assert strong.value == pytest.approx(expected)


def test_noise_without_media_is_not_measured_and_that_is_said(evaluation, caplog):
    assert list(evaluation.not_measured) == ["noise_10db"]
    assert "only features are at hand" in evaluation.not_measured["noise_10db"]
    assert numbers_of(evaluation)["not_measured"] == evaluation.not_measured


def test_scores_by_class_and_speaker_add_up(evaluation):
    scores = evaluation.whole.scores["audio_video"]
    clips = sum(found["clips"] for found in scores.by_speaker.values())
    right = sum(found["accuracy"] * found["clips"] for found in scores.by_speaker.values())
    assert list(scores.by_speaker) == ["s6", "s7"]
    assert (clips, right / clips) == (scores.metrics["clips"], pytest.approx(scores.metrics["accuracy"]))
    assert sum(one.clips for one in scores.classes) == clips
    low, high = scores.intervals["accuracy"].low, scores.intervals["accuracy"].high
    assert low <= scores.metrics["accuracy"] <= high


def test_predictions_have_a_row_per_clip_condition_and_degradation(evaluation, tmp_path):
    table = pq.read_table(write_predictions(evaluation, tmp_path)).to_pandas()
    assert {"clip_id", "corpus", "speaker", "split", "label", "probability_calm", "target_mad", "error"} < set(table)
    whole = table[(table["degradation"] == "none") & (table["condition"] == "audio")]
    probabilities = whole[["probability_calm", "probability_glad", "probability_mad"]].to_numpy()
    target = whole[["target_calm", "target_glad", "target_mad"]].to_numpy()
    accuracy = evaluation.whole.scores["audio"].metrics["accuracy"]
    assert class_scores(probabilities, target)["accuracy"] == accuracy
    assert (whole["label"] == whole["true_label"]).mean() == accuracy
    assert set(table.loc[table["degradation"] == "shifted_0.3s", "condition"]) == {"audio_video", "video"}


def test_the_most_frequent_class_is_that_of_the_training_clips(evaluation):
    chance, majority, whose = chance_and_majority(evaluation.clips)
    assert (chance, whose) == (pytest.approx(1 / 3), "the training clips of fold 0")
    labels = evaluation.clips.collection.manifest.table.to_pandas()
    most = labels[labels["split_0"] == "train"]["label"].mode()[0]
    assert majority == pytest.approx((labels[labels["split_0"] == "test"]["label"] == most).mean())


def test_clips_that_made_the_model_are_told(able, tmp_path):
    run = able
    told = {
        split: _evaluate(run, tmp_path, data={"store": run.store, "split": split}, degradations=NOTHING).standing
        for split in ("test", "validation", "train", "all")
    }
    assert told["test"].warnings == ()
    assert "the epoch that is kept was chosen on all 2 measured speakers (s4, s5)" in told["validation"].warnings[0]
    assert "the model was trained on all 4 measured speakers" in told["train"].warnings[0]
    assert [text.split(" on ")[1][:8] for text in told["all"].warnings] == ["4 of the", "2 of the"]


NOTHING: dict[str, Any] = {"noise_db": [], "dropped_frames": [], "shifted_s": [], "feature_noise": []}


def test_attributes_are_measured_too(trained, tmp_path):
    run = trained(
        data={"target": "attributes", "composition": {"batch_size": 10}},
        evaluation={"test": True, "select_by": ["validation/audio/ccc_mean"]},
    )
    evaluation = _evaluate(run, tmp_path)
    metrics = evaluation.metrics()
    assert {"test/audio/ccc_arousal", "test/audio/rmse_valence", "test/audio/mae_dominance"} < set(metrics)
    assert "test/video/ccc_mean:shifted_0.3s" in metrics
    table = pq.read_table(write_predictions(evaluation, tmp_path))
    assert {"arousal", "target_valence"} < set(table.column_names)
    assert numbers_of(evaluation)["classes"] == {}


def test_the_media_have_to_be_those_of_the_corpus(able, tmp_path):
    card = Path(__file__).parents[3] / "datasets" / "demo.yaml"
    with pytest.raises(ConfigError, match="is the card of demo, the store holds small"):
        _evaluate(able, tmp_path, media={"card": card})
