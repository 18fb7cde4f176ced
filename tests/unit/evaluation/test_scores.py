"""Scores by the length of clips, and lengths that training did not have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from vavl.evaluation.degradation import open_degradations
from vavl.evaluation.evaluation import evaluate
from vavl.evaluation.measure import open_clips
from vavl.evaluation.results import numbers_of
from vavl.evaluation.scores import scores_by_length, seconds_of_clips, unlike_training
from vavl.evaluation.settings import ClipSelection, EvaluationPlan
from vavl.metrics.names import CONDITIONS
from vavl.models.settings import ClassTask
from vavl.store.clip_facts import FILE_NAME, write_facts
from vavl.training.evaluation import SplitPredictions

TASK = ClassTask(classes=("calm", "glad"))
SECONDS = np.array([1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, np.nan])
SPEAKERS = np.array(["a", "b"] * 4)


def predictions() -> SplitPredictions:
    """Eight clips of one class: the four shortest are right, the others wrong; the last two have no video."""
    right = np.array([1, 1, 1, 1, 0, 0, 0, 1], bool)
    predicted = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
    everywhere, with_video = np.ones(8, bool), np.arange(8) < 6
    counts = {"audio_video": with_video, "audio": everywhere, "video": with_video}
    target = np.tile([1.0, 0.0], (8, 1))
    return SplitPredictions(np.arange(8), dict.fromkeys(CONDITIONS, predicted), counts, target)


def test_quartiles_are_the_groups_unless_seconds_are_given():
    found = scores_by_length(predictions(), SECONDS, SPEAKERS, TASK, 0)
    assert [(one.low_s, one.high_s, one.clips) for one in found] == [
        (1.0, 1.75, 2), (1.75, 2.5, 2), (2.5, 3.25, 1), (3.25, 4.0, 2),
    ]  # fmt: skip
    assert [one.scores["audio"].value for one in found] == [1, 1, 0, 0]
    found = scores_by_length(predictions(), SECONDS, SPEAKERS, TASK, 0, (0.5, 3.0, 9.0))
    assert [(one.low_s, one.high_s, one.clips) for one in found] == [(1.0, 3.0, 5), (3.0, 4.0, 2)]
    accuracy = found[0].scores["audio"]
    assert accuracy.value == pytest.approx(0.8)
    assert 0 <= accuracy.low <= 0.8 <= accuracy.high <= 1


def test_a_group_without_a_condition_lacks_its_score_and_one_group_says_nothing():
    found = scores_by_length(predictions(), SECONDS, SPEAKERS, TASK, 0, (3.5,))
    assert [set(one.scores) for one in found] == [set(CONDITIONS), {"audio"}]
    assert scores_by_length(predictions(), np.full(8, 2.0), SPEAKERS, TASK, 0) == ()
    assert scores_by_length(predictions(), np.full(8, np.nan), SPEAKERS, TASK, 0) == ()


def test_an_evaluation_states_them_and_clips_of_other_lengths(trained, tmp_path):
    run = trained()
    plan = EvaluationPlan.model_validate(
        {
            "output_dir": tmp_path, "model": str(run.folder), "data": {"store": run.store, "split": "test"},
            "degradations": {"noise_db": [], "dropped_frames": [], "shifted_s": []},
        }
    )  # fmt: skip
    model = run.model()
    clips = open_clips(model, plan.data)
    store = clips.collection.store
    longest = np.zeros(len(clips.rows))
    for modality in ("audio", "video"):
        rows = clips.collection.store_row[modality][clips.rows]
        frames = np.where(rows >= 0, store.lengths(modality)[rows], 0)
        longest = np.maximum(longest, frames / store.info[modality].frame_rate_hz)
    np.testing.assert_allclose(seconds_of_clips(clips), longest)
    evaluation = evaluate(model, plan, clips, open_degradations(model, plan, clips))
    stated = numbers_of(evaluation)["lengths"]
    assert sum(one["clips"] for one in stated) == len(clips.rows)
    assert len(stated) > 1
    described = model.description
    profile = described.audio.profile.model_copy(update={"shortest_frames": 1000, "longest_frames": 2000})
    audio = described.audio.model_copy(update={"profile": profile})
    (note,) = (
        text for text in unlike_training(described.model_copy(update={"audio": audio}), clips) if "audio" in text
    )
    count = int((clips.collection.store_row["audio"][clips.rows] >= 0).sum())
    assert note.startswith(f"audio: of {count} clips {count} are shorter than every training clip (")
    old = replace_profiles(described)
    assert list(unlike_training(old, clips)) == []


def replace_profiles(described: Any) -> Any:
    sides = {name: getattr(described, name).model_copy(update={"profile": None}) for name in ("audio", "video")}
    return described.model_copy(update=sides)


def test_clips_of_one_frame_have_the_length_of_their_file(trained):
    run = trained()
    selection = ClipSelection.model_validate({"store": run.store, "split": "test"})
    clips = open_clips(run.model(), selection)
    store = clips.collection.store
    store.info = {name: replace(one, frame_rate_hz=None) for name, one in store.info.items()}
    (store.directory / FILE_NAME).unlink(missing_ok=True)
    assert np.isnan(seconds_of_clips(clips)).all()
    known = sorted(clips.clip_ids)[:3]
    write_facts(
        store.directory,
        [
            {"clip_id": name, "modality": modality, "seconds": seconds}
            for name in known
            for modality, seconds in (("audio", 1.5), ("video", 1.25))
        ],
    )
    expected = [1.5 if name in known else np.nan for name in clips.clip_ids]
    np.testing.assert_array_equal(seconds_of_clips(clips), expected)


def test_lengths_that_do_not_ascend_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="do not ascend"):
        EvaluationPlan.model_validate(
            {"output_dir": tmp_path, "model": "m", "data": {"store": tmp_path}, "lengths_s": [3, 2]}
        )
