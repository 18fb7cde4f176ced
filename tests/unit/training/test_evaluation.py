"""Predictions and scores of a split: every labeled clip once, under the conditions that it has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from vavl.corpora.manifest import TEST, TRAIN, VALIDATION
from vavl.data.collection import open_collection
from vavl.data.loader import RankPlace, collate
from vavl.data.normalization import normalisers
from vavl.data.settings import DataSettings
from vavl.metrics.names import CONDITIONS
from vavl.metrics.scores import class_scores
from vavl.models.settings import AttributeTask, ClassTask
from vavl.training import evaluation
from vavl.training.evaluation import EvaluationData, predict_split, save_predictions, score_split

CLASSES = ClassTask(classes=("calm", "glad", "mad"))
MIXED = {"without_audio": (0,), "without_video": (1,), "without_label": (2,)}


@pytest.fixture
def data(small_store, small_corpus):
    def make(task=CLASSES, batch_size=7, place=RankPlace(), **corpus):  # noqa: B008  it is frozen
        target = "label" if task is CLASSES else "attributes"
        store = small_store(small_corpus(**(corpus or MIXED)))
        collection = open_collection(DataSettings(store=store, target=target))
        rows = rows_of(collection, TRAIN)
        normaliser = normalisers(collection, rows)
        return EvaluationData(collection, normaliser, task, batch_size, place, torch.device("cpu"))

    return make


@pytest.fixture
def network(tiny_network):
    return tiny_network().eval()


def rows_of(collection, split: int) -> np.ndarray:
    return np.flatnonzero(collection.manifest.split(0) == split)


def test_every_labelled_clip_is_predicted_under_its_conditions(data, network):
    inputs = data()
    rows = rows_of(inputs.collection, TRAIN)
    found = predict_split(network, inputs, rows[::-1])
    assert found.rows.tolist() == [row for row in rows if row % 10 != 2]
    number = found.rows % 10
    assert np.array_equal(found.counts["audio"], number != 0)
    assert np.array_equal(found.counts["video"], number != 1)
    assert np.array_equal(found.counts["audio_video"], (number != 0) & (number != 1))
    for condition in CONDITIONS:
        np.testing.assert_allclose(found.predicted[condition].sum(axis=1), 1)
    assert np.array_equal(found.target, inputs.collection.target[found.rows])


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_changes_no_prediction(data, network, batch_size):
    rows = rows_of(data().collection, VALIDATION)
    expected, found = (predict_split(network, data(batch_size=size), rows) for size in (7, batch_size))
    for condition in CONDITIONS:
        counts = expected.counts[condition]
        np.testing.assert_allclose(found.predicted[condition][counts], expected.predicted[condition][counts], atol=1e-5)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_predict_what_one_does(data, network, monkeypatch, world_size):
    """Each rank fills in its own clips; what is added up over the ranks is the whole split."""
    rows = rows_of(data().collection, TEST)
    shares = []
    monkeypatch.setattr(evaluation, "add_array_over_ranks", lambda values, _: shares.append(values) or values)
    expected = predict_split(network, data(), rows)
    whole = shares.pop()
    for rank in range(world_size):
        predict_split(network, data(place=RankPlace(rank, world_size)), rows)
    assert all(np.abs(share).sum() > 0 for share in shares)
    together = np.sum(shares, axis=0)
    for place, condition in enumerate(CONDITIONS):
        counts = expected.counts[condition]
        np.testing.assert_allclose(together[place][counts], whole[place][counts], atol=1e-5)


def test_a_prediction_is_that_of_the_clip_alone(data, network, batches):
    inputs = data()
    found = predict_split(network, inputs, rows_of(inputs.collection, TEST))
    for place in (0, 5, 11):
        row = found.rows[place : place + 1]
        alone = predict_split(network, replace(inputs, batch_size=1), row)
        for condition in CONDITIONS:
            if found.counts[condition][place]:
                np.testing.assert_allclose(alone.predicted[condition][0], found.predicted[condition][place], atol=1e-5)


def test_scores_are_those_of_the_counted_clips(data, network):
    inputs = data()
    found = predict_split(network, inputs, rows_of(inputs.collection, TRAIN))
    scores = score_split("train", found, CLASSES)
    for condition, clips in (("audio_video", 28), ("audio", 32), ("video", 32)):
        counts = found.counts[condition]
        assert scores[f"train/{condition}/clips"] == counts.sum() == clips
        expected = class_scores(found.predicted[condition][counts], found.target[counts])
        assert {name: scores[f"train/{condition}/{name}"] for name in expected} == expected


def test_attributes_are_scored_by_concordance(data, network):
    inputs = data(AttributeTask())
    found = predict_split(network, inputs, rows_of(inputs.collection, TEST))
    scores = score_split("test", found, AttributeTask())
    assert {"test/audio/ccc_valence", "test/audio/ccc_mean", "test/video/rmse_arousal"} <= scores.keys()
    assert not np.allclose(found.predicted["audio"].sum(axis=1), 1)


def test_a_condition_without_clips_has_no_scores(data, network):
    inputs = data(without_video=range(10))
    narrow = replace(inputs, collection=inputs.collection)
    torch.manual_seed(0)
    network.video_path.projection = torch.nn.Linear(1, 16)  # the stand-in of a missing modality has one channel
    found = predict_split(network, narrow, rows_of(inputs.collection, TEST))
    assert {name.split("/")[1] for name in score_split("test", found, CLASSES)} == {"audio"}


def test_saved_predictions_have_one_row_per_clip_and_condition(data, network, tmp_path):
    inputs = data()
    found = predict_split(network, inputs, rows_of(inputs.collection, TRAIN))
    save_predictions(tmp_path / "train.parquet", "train", found, inputs.collection, CLASSES)
    table = pq.read_table(tmp_path / "train.parquet").to_pandas()
    assert table.groupby("condition").size().to_dict() == {"audio": 32, "audio_video": 28, "video": 32}
    assert set(table["split"]) == {"train"}
    one = table[(table["clip_id"] == "s1_0004") & (table["condition"] == "video")].iloc[0]
    place = int(np.flatnonzero(found.rows == 14)[0])
    assert (one["corpus"], one["speaker"]) == ("small", "s1")
    np.testing.assert_allclose([one[f"predicted_{name}"] for name in CLASSES.classes], found.predicted["video"][place])
    assert [one[f"target_{name}"] for name in CLASSES.classes] == found.target[place].tolist()


@torch.no_grad()
def test_soft_hgr_is_that_of_the_whole_split_at_once(data, network):
    """However the split is cut into batches; clips that lack a modality or a label leave its pair alone."""
    inputs = replace(data(batch_size=5), correlates=True)
    rows = rows_of(inputs.collection, TRAIN)
    found = predict_split(network, inputs, rows)
    whole = collate(inputs.collection, found.rows, inputs.normaliser)
    output = network(whole)
    audio, video = (dict(zip(clips.clip.tolist(), path.correlation, strict=True))
                    for clips, path in ((whole.audio, output.audio), (whole.video, output.video)))  # fmt: skip
    label = dict(enumerate(output.label_correlation))
    pairs = {"audio_video": (audio, video), "audio_label": (audio, label), "video_label": (video, label)}
    for pair, (first, second) in pairs.items():
        both = sorted(first.keys() & second.keys())
        f, g = (torch.stack([side[clip] for clip in both]).double() for side in (first, second))
        f, g, n = f - f.mean(0), g - g.mean(0), len(both) - 1
        expected = torch.trace(f.T @ g) / n - 0.5 * ((f.T @ f / n) * (g.T @ g / n)).sum()
        assert found.correlation[pair] == pytest.approx(float(expected), rel=1e-4)
    scores = score_split("validation", found, CLASSES)
    assert scores["validation/audio_video/soft_hgr"] == found.correlation["audio_video"]
    assert scores["validation/video/soft_hgr_label"] == found.correlation["video_label"]
    assert not predict_split(network, data(), rows).correlation
