"""Objectives that no clip can feed and metrics that mean nothing are refused with what to change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vavl.errors import ConfigError, InputError
from vavl.training.run_data import check_classes, check_plan, open_run_data

AUDIO_ONLY = {"without_video": range(10)}
AUDIO_SELECTS = {"select_by": ["validation/audio/accuracy"]}
ALL_LABELLED = {"without_audio": (0,), "without_video": (1,)}


@pytest.mark.parametrize(
    ("corpus", "objectives", "message"),
    [
        (AUDIO_ONLY, {"hgr": {}}, r"hgr\.audio_video.*no training clip has both audio and video"),
        (AUDIO_ONLY, {"hgr": {"audio_video": 0}}, r"hgr\.video_label.*no training clip has video and a label"),
        (AUDIO_ONLY, {"contrastive": {}}, r"contrastive\.weight.*a global batch has 0 clips with both"),
        (ALL_LABELLED, {"pseudo_label": {}}, r"pseudo_label\.weight.*every training clip has a label"),
        (None, {"pseudo_label": {"teacher": "average"}}, r"teacher.*no average of the weights"),
        (None, {"ladder": {"layer_weights": [1, 1]}}, r"layer_weights.*has 2 numbers for 3 layers"),
    ],
)  # fmt: skip
def test_an_objective_without_clips_is_refused(plan, corpus, objectives, message):
    chosen = plan(corpus=corpus, objectives=objectives, evaluation=AUDIO_SELECTS)
    with pytest.raises(ConfigError, match=message):
        check_plan(chosen)


def test_hard_labels_are_for_classes(plan):
    data, evaluation = (
        {"store": plan().data.store, "target": "attributes"},
        {"select_by": ["validation/audio/ccc_mean"]},
    )
    hard = plan(data=data, objectives={"pseudo_label": {"kind": "hard"}}, evaluation=evaluation)
    with pytest.raises(ConfigError, match=r"pseudo_label\.kind.*is hard, .* but data\.target is attributes"):
        check_plan(hard)
    check_plan(plan(data=data, objectives={"pseudo_label": {}}, evaluation=evaluation))


@pytest.mark.parametrize(
    ("corpus", "objectives"),
    [
        (AUDIO_ONLY, {"hgr": {"audio_video": 0, "video_label": 0}}),
        (AUDIO_ONLY, {"hgr": {"weight": 0}}),
        (AUDIO_ONLY, {"ladder": {}}),
        (None, {"hgr": {}, "ladder": {"layer_weights": [1, 2, 3]}, "pseudo_label": {}}),
    ],
)
def test_what_the_clips_can_feed_is_accepted(plan, corpus, objectives):
    data = open_run_data(plan(corpus=corpus, objectives=objectives, evaluation=AUDIO_SELECTS))
    assert sum(data.composition.values()) == 10


def test_a_correlation_size_that_memory_alone_could_reach_is_warned_of(plan):
    warnings = " ".join(check_plan(plan(objectives={"hgr": {}})).warnings)
    pairs = sum(rows for name, rows in open_run_data(plan()).composition.items() if name.startswith("paired"))
    assert f"correlation_size 16 is not below the {pairs} pairs" in warnings
    assert f"its bound {(pairs - 1) / 2:g}" in warnings
    small = {**plan().model.model_dump(), "correlation_size": 2}
    assert not check_plan(plan(objectives={"hgr": {}}, model=small)).warnings


def test_an_exchange_of_means_that_the_normalization_has_taken_out_is_warned_of(plan):
    data = {"store": plan().data.store, "augmentation": {"speaker_exchange": 0.5}}
    (warning,) = check_plan(plan(data=data, features={"speaker_normalisation": "mean"})).warnings
    assert warning.startswith("data.augmentation.speaker_exchange 0.5 changes nothing: features.speaker_normalisation")
    assert not check_plan(plan(data=data)).warnings


def test_training_labels_of_one_class_alone_are_refused(plan):
    """Fold 0 of a corpus whose training speakers only ever say one thing."""
    chosen = plan()
    collection_labels = open_run_data(chosen)
    rows = collection_labels.rows["train"]
    target = collection_labels.collection.target.copy()
    target[rows] = target[rows[0]]
    alike = replace(collection_labels.collection, target=target)

    with pytest.raises(InputError, match=r"labeled training clips have the same target"):
        check_classes(alike, rows, chosen)


def test_a_ladder_needs_layers_of_one_length(plan):
    chosen = plan(objectives={"ladder": {}}, model={**plan().model.model_dump(), "subsampling": 2})
    with pytest.raises(ConfigError, match=r"objectives: ladder: rebuilds layers of one length.*subsampling is 2"):
        open_run_data(chosen)


def test_a_modality_that_only_validation_has_is_refused_for_choosing_the_epoch(plan):
    data = {**plan(corpus={}).data.model_dump(), "partitions": {"audio_only_share": 1.0}}
    problem = "validation/audio_video/accuracy: no labeled training clip has audio and video"
    with pytest.raises(ConfigError, match=problem) as caught:
        check_plan(plan(data=data))
    assert "(audio)" in caught.value.fix


def test_scores_that_mean_nothing_are_announced(plan):
    data = {**plan(corpus={}).data.model_dump(), "partitions": {"audio_only_share": 1.0}}
    chosen = ["validation/audio/accuracy", "validation/video/accuracy"]
    warnings = check_plan(plan(data=data, evaluation={"select_by": chosen})).warnings
    assert len(warnings) == 2
    assert warnings[0].startswith("no labeled training clip has audio and video, but validation clips have")
    assert not warnings[0].endswith("select_by")
    assert warnings[1].startswith("no labeled training clip has video")
    assert warnings[1].endswith("also in evaluation.select_by")


def test_trained_conditions_need_no_warning(plan):
    assert not check_plan(plan()).warnings


def test_a_metric_of_another_task_is_refused(plan):
    with pytest.raises(ConfigError, match="validation/audio/ccc_mean is no metric of which more is better"):
        check_plan(plan(evaluation={"select_by": ["validation/audio/ccc_mean"]}))
