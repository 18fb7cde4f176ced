"""Two models are compared on the same clips, and on none that either was trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vavl.errors import InputError
from vavl.evaluation.settings import ClipSelection
from vavl.models.saved_model import SavedModel
from vavl.promotion.same_clips import open_same_clips, predict_same_clips

Trained = Callable[..., Any]


@pytest.fixture
def model(trained: Trained) -> SavedModel:
    return trained().model()


@pytest.fixture
def store(trained: Trained) -> Path:
    return trained().store


def with_provenance(model: SavedModel, **changes: Any) -> SavedModel:
    provenance = {**model.description.provenance, **changes}
    return SavedModel(model.network, model.description.model_copy(update={"provenance": provenance}))


def test_both_see_the_same_clips_and_their_hash_tells_them(trained: Trained, model: SavedModel) -> None:
    other = trained(training={"seed": 5}).model()
    clips = open_same_clips({"a": model, "b": other}, ClipSelection(store=trained().store, split="test"))
    assert clips.unknown == ()
    assert set(clips.speakers) == {"s6", "s7"}
    both = predict_same_clips({"a": model, "b": other}, clips)
    assert list(both) == ["a", "b"]
    assert np.array_equal(both["a"].predictions.rows, both["b"].predictions.rows)
    assert both["a"].trained == {"audio_video", "audio", "video"}
    again = open_same_clips({"b": other}, ClipSelection(store=trained().store, split="test"))
    assert again.hash == clips.hash
    validation = open_same_clips({"b": other}, ClipSelection(store=trained().store, split="validation"))
    assert validation.hash != clips.hash


@pytest.mark.parametrize("split", ["train", "all"])
def test_clips_that_a_model_was_trained_on_are_refused(model: SavedModel, store: Path, split: Any) -> None:
    with pytest.raises(InputError, match=r"b: data: was trained on \d+ of these \d+ clips \(fold 0\)"):
        open_same_clips({"b": model}, ClipSelection(store=store, split=split))


def test_what_another_corpus_shares_is_not_known(model: SavedModel, store: Path) -> None:
    elsewhere = with_provenance(model, corpus="elsewhere")
    clips = open_same_clips({"a": model, "b": elsewhere}, ClipSelection(store=store, split="test"))
    assert clips.unknown == ("b",)


def test_models_of_other_things_are_not_compared(trained: Trained, model: SavedModel, store: Path) -> None:
    measured = {"test": True, "select_by": ["validation/audio_video/ccc_mean"]}
    attributes = trained(data={"target": "attributes"}, evaluation=measured).model()
    with pytest.raises(
        InputError, match="b: task: predicts arousal, dominance, valence; a predicts calm, glad, mad"
    ):
        open_same_clips({"a": model, "b": attributes}, ClipSelection(store=store, split="test"))
