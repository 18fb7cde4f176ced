"""A saved model on a store: the numbers of its training, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from copied_store import copy_store, mark_manifest

from vavl.errors import ConfigError, InputError, StoreError
from vavl.evaluation.measure import class_table, open_clips, predict_clips
from vavl.evaluation.settings import ClipSelection
from vavl.training.evaluation import score_split

ATTRIBUTES: dict[str, Any] = {
    "data": {"target": "attributes", "composition": {"batch_size": 10}},
    "evaluation": {"test": True, "select_by": ["validation/audio/ccc_mean"]},
}


@pytest.fixture
def listener(trained):
    """A training run without any picture."""
    only_audio = {"test": True, "select_by": ["validation/audio/accuracy"]}
    return trained({"without_video": tuple(range(10))}, evaluation=only_audio)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"data": {"target": "soft_label", "composition": {"batch_size": 10}, "max_frames": 5}},
        ATTRIBUTES,
        {"features": {"speaker_normalisation": "full"}},
        {"features": {"speaker_normalisation": "causal_mean"}, "data": {"max_frames": 5}},
    ],
    ids=["classes", "votes, cut clips", "attributes", "per speaker", "earlier clips"],
)  # fmt: skip
@pytest.mark.parametrize("split", ["validation", "test"])
def test_scores_are_those_of_the_training(trained, sections, split):
    run = trained(**sections)
    model = run.model()
    clips = open_clips(model, ClipSelection(store=run.store, split=split, batch_size=7))
    found = predict_clips(model, clips)
    scores = score_split(split, found, model.description.task)
    expected = {name: value for name, value in run.metrics.items() if name.startswith(f"{split}/")}
    assert len(expected) > 10
    assert scores == pytest.approx(expected, abs=1e-6)


def test_a_condition_that_no_label_trained_is_not_measured(listener):
    clips = open_clips(listener.model(), ClipSelection(store=listener.store, split="test"))
    assert clips.conditions == ("audio",)
    found = predict_clips(listener.model(), clips)
    assert {name: int(count.sum()) for name, count in found.counts.items()} == {
        "audio_video": 0, "audio": 20, "video": 0,
    }  # fmt: skip


def test_a_store_may_lack_a_side_or_have_one_more_than_the_model(trained, listener, small_store, small_corpus):
    both = small_store(small_corpus())
    audio_only = small_store(small_corpus(without_video=tuple(range(10))))
    scores = []
    for run, store in ((trained(), audio_only), (listener, both)):
        clips = open_clips(run.model(), ClipSelection(store=store, split="test"))
        found = predict_clips(run.model(), clips)
        scores.append(score_split("test", found, run.model().description.task))
    assert [sorted({name.split("/")[1] for name in each}) for each in scores] == [["audio"], ["audio"]]


def test_changed_frames_reach_the_network_and_nothing_else(trained):
    run = trained()
    clips = open_clips(run.model(), ClipSelection(store=run.store, split="test"))
    plain = predict_clips(run.model(), clips)
    seen: list[tuple[str, int]] = []

    def louder(modality: str, row: int, frames: Any) -> Any:
        seen.append((modality, row))
        return frames + 10 if modality == "audio" else frames

    changed = predict_clips(run.model(), clips, louder)
    assert {row for _, row in seen} == set(clips.rows.tolist())
    assert not np.allclose(changed.predicted["audio"], plain.predicted["audio"])
    np.testing.assert_allclose(changed.predicted["video"], plain.predicted["video"], atol=1e-6)
    again = predict_clips(run.model(), clips)
    np.testing.assert_array_equal(again.predicted["audio"], plain.predicted["audio"])


def test_classes_of_another_store_are_mapped_by_name():
    table = class_table(("calm", "cross", "glad"), ("glad", "mad"), {"cross": "mad", "calm": None})
    np.testing.assert_array_equal(table, [[-1, -1], [0, 1], [1, 0]])
    with pytest.raises(ConfigError, match="the store has no class odd"):
        class_table(("calm",), ("calm",), {"odd": "calm"})
    with pytest.raises(ConfigError, match="the model has no class odd"):
        class_table(("calm",), ("calm",), {"calm": "odd"})


@pytest.fixture
def renamed(trained, tmp_path):
    """The store of the training with other names of two classes, as another corpus."""
    from vavl.corpora.manifest import Manifest

    folder = copy_store(trained().store, tmp_path / "renamed")
    table = Manifest.read(folder).table
    metadata = json.loads(table.schema.metadata[b"vavl"]) | {"classes": ["quiet", "glad", "cross"]}
    names = {"calm": "quiet", "glad": "glad", "mad": "cross", None: None}
    labels = [names[label] for label in table["label"].to_pylist()]
    column = table.schema.get_field_index("label")
    table = table.set_column(column, table.schema.field(column), [labels])
    Manifest(table.replace_schema_metadata({b"vavl": json.dumps(metadata).encode()})).write(folder)
    return mark_manifest(folder)


def test_a_label_map_makes_another_store_equal_and_leaves_classes_out(trained, renamed):
    run, task = trained(), trained().model().description.task
    labels = {"quiet": "calm", "cross": "mad"}
    clips = open_clips(run.model(), ClipSelection(store=renamed, split="test", labels=labels))
    found = predict_clips(run.model(), clips)
    expected = {name: value for name, value in run.metrics.items() if name.startswith("test/")}
    assert score_split("test", found, task) == pytest.approx(expected, abs=1e-6)
    some = ClipSelection(store=renamed, split="test", labels={**labels, "cross": None})
    clips = open_clips(run.model(), some)
    kept = predict_clips(run.model(), clips)
    assert len(clips.rows) + clips.left_out == len(found.rows)
    assert 0 < clips.left_out < len(found.rows)
    assert not kept.target[:, 2].any()


def test_what_a_model_cannot_be_measured_on_is_refused(trained, renamed, tmp_path):
    model, store = trained().model(), trained().store
    with pytest.raises(InputError, match=r"labeled quiet, cross; the model knows calm, glad, mad"):
        open_clips(model, ClipSelection(store=renamed))
    with pytest.raises(InputError, match="split test: holds no labeled clip"):
        open_clips(model, ClipSelection(store=store, split="test", labels=dict.fromkeys(("calm", "glad", "mad"))))
    other = copy_store(store, tmp_path / "other")
    content = json.loads((other / "store.json").read_text())
    content["modalities"]["audio"]["version"] = "2"
    (other / "store.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match="statistics of other features"):
        open_clips(model, ClipSelection(store=other))
    attributes = trained(**ATTRIBUTES).model()
    with pytest.raises(ConfigError, match="maps classes, and the model predicts attributes"):
        open_clips(attributes, ClipSelection(store=store, labels={"calm": "glad"}))
