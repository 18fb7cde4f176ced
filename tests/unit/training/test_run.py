"""What a worker sets up before the first step, and what it refuses."""

from __future__ import annotations

import json
import logging
import re

import numpy as np
import pytest
import torch

from vavl.data.partitions import Partition, PartitionedClips
from vavl.errors import ConfigError, InputError, StoreError
from vavl.objectives.settings import ObjectiveSettings
from vavl.training.run import freeze_parts, prepare_run, steps_of_plan
from vavl.training.run_data import check_plan, open_run_data


def test_a_run_knows_its_clips_and_its_budget(plan):
    run = prepare_run(plan())
    assert {name: len(rows) for name, rows in run.data.rows.items()} == {"train": 40, "validation": 20, "test": 20}
    assert run.data.partitioned.count == 40
    assert sum(run.data.composition.values()) == 10
    assert (run.steps_per_epoch, run.total_steps) == (4, 12)
    assert run.frozen == ()
    assert run.parameters == sum(p.numel() for p in run.engine.network.parameters())


def test_the_splits_share_no_speaker(plan):
    data = open_run_data(plan())
    speakers = [set(data.collection.speaker[rows].tolist()) for rows in data.rows.values()]
    assert all(speakers)
    assert sum(len(names) for names in speakers) == len(set.union(*speakers))


def test_only_training_clips_are_drawn(plan):
    run = prepare_run(plan())
    drawn = {row for step in range(30) for row in run.loader.sampler.global_batch(step).tolist()}
    assert drawn == set(run.data.rows["train"].tolist())


@pytest.mark.parametrize(
    ("clips", "batch_size", "settings", "expected"),
    [(40, 10, {}, (4, 12)), (41, 10, {}, (5, 15)), (41, 10, {"max_steps": 7}, (5, 7)), (3, 10, {}, (1, 3)),
     (40, 10, {"max_steps": 99}, (4, 12))],
)  # fmt: skip
def test_an_epoch_is_the_training_clips_over_the_global_batch(plan, clips, batch_size, settings, expected):
    assert steps_of_plan(plan(training=settings), clips, batch_size) == expected


@pytest.mark.parametrize(
    ("names", "frozen"),
    [
        (["paired_labelled"], ()),
        (["paired_unlabelled", "audio_only_labelled"], ("video_path.head", "fusion_head")),
        (["paired_unlabelled", "audio_only_labelled", "video_only_labelled"], ("fusion_head",)),
        (["audio_only_unlabelled", "video_only_labelled"], ("audio_path.head", "fusion_head")),
        (["audio_only_labelled"], ("video_path", "fusion_head")),
        (["video_only_labelled", "video_only_unlabelled"], ("audio_path", "fusion_head")),
        (["audio_only_labelled", "video_only_labelled"], ("fusion_head",)),
    ],
)
def test_what_no_clip_feeds_is_frozen(tiny_network, names, frozen):
    network = tiny_network()
    assert (
        freeze_parts(network, PartitionedClips({Partition(name): np.arange(3) for name in names}), ObjectiveSettings())
        == frozen
    )
    for name, parameter in network.named_parameters():
        is_frozen = name.startswith(frozen or ("none",)) or "correlate" in name
        assert parameter.requires_grad != is_frozen, name


def test_partitions_that_give_no_rows_feed_nothing(plan):
    """Paired clips lie in the store, but no batch draws them."""
    composition = {"rows_per_step": {"video_only_labelled": 4}}
    run = prepare_run(plan(data={"store": plan().data.store, "composition": composition}))
    assert run.frozen == ("audio_path", "fusion_head")
    assert run.steps_per_epoch == 1  # four video-only clips
    assert run.description.video.trained
    assert not run.description.audio.trained
    assert not run.description.fusion_trained


def test_a_head_without_labels_is_not_offered_for_prediction(plan):
    """Paired clips have no labels: neither video head nor fusion can know the classes."""
    chosen = plan(corpus={"without_label": range(1, 10), "without_video": (0,)})
    run = prepare_run(chosen)
    assert run.frozen == ("video_path.head", "fusion_head")
    described = run.description
    assert (described.audio.trained, described.video.trained, described.fusion_trained) == (True, False, False)


def test_the_first_weights_follow_the_seed(plan):
    weights = [
        prepare_run(plan(training={"seed": seed})).engine.full_weights()["fusion_head.0.weight"] for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_description_holds_what_a_prediction_needs(plan):
    run = prepare_run(plan(features={"speaker_normalisation": False}))
    described = run.description
    assert described.task.classes == ("calm", "glad", "mad")
    assert (described.audio.width, described.video.width) == (6, 5)
    assert described.audio.extractor["extractor"] == "synthetic"
    assert described.provenance["store_hash"] == run.data.collection.store.hash
    assert described.provenance["config_hash"] == run.plan.config_hash
    assert json.loads(described.model_dump_json())["audio"]["statistics"]["corpus"] == "small"
    np.testing.assert_allclose(described.audio.statistics["mean"], run.data.normaliser["audio"].common.mean, rtol=1e-6)


def test_the_saved_description_says_what_the_training_clips_are_like(plan):
    run = prepare_run(plan(features={"speaker_normalisation": False}))
    described, collection, rows = run.described_with_clips, run.data.collection, run.data.rows["train"]
    assert run.description.audio.profile is None
    labelled = rows[collection.is_labelled[rows]]
    counts = np.bincount(collection.target[labelled].argmax(axis=1), minlength=3)
    np.testing.assert_allclose(described.class_shares, counts / counts.sum())
    lengths = collection.store.lengths("audio")[collection.store_row["audio"][rows[collection.has("audio")[rows]]]]
    profile = described.audio.profile
    assert (profile.shortest_frames, profile.longest_frames) == (lengths.min(), lengths.max())
    assert profile.frame_rate_hz == collection.store.info["audio"].frame_rate_hz
    used = [row for name in ("train", "validation") for row in run.data.rows[name] if collection.has("audio")[row]]
    normalisation = run.data.normaliser["audio"].common
    distances = [
        np.square(normalisation.apply(collection.frames("audio", int(row))).mean(axis=0)).mean() for row in used
    ]
    assert profile.far == pytest.approx(np.quantile(distances, 0.99), rel=1e-5)
    per_speaker = prepare_run(plan(features={"speaker_normalisation": True})).described_with_clips
    assert (per_speaker.audio.profile.far, per_speaker.video.profile is None) == (
        None, not per_speaker.video.trained,
    )  # fmt: skip


def test_the_log_says_what_is_trained_on_what(plan, caplog):
    chosen = plan(objectives={"hgr": {"weight": 0.1, "start_step": 5, "ramp_steps": 9}})
    with caplog.at_level(logging.INFO, logger="vavl.training"):
        check_plan(chosen).log()
    text = caplog.text
    assert "train 40, validation 20, test 20" in text
    (line,) = re.findall(r"paired_labelled +6 rows/step +28 clips.*", text)
    assert "calm 14, glad 5, mad 9" in line
    assert re.search(r"audio_only_unlabelled +1 rows/step +4 clips", text)
    assert re.search(r"objective, each part with its weight:\n.*  supervised +x 1\n", text)
    assert "  hgr             x 0.1 (from step 5 over 9 steps)\n" in text
    words = prepare_run(plan()).in_words
    assert words.endswith("M parameters, 12 steps (4 per epoch), 1 worker(s), ZeRO 0, fp32, engine torch")


def test_a_plan_that_can_run_is_accepted(plan):
    check_plan(plan())
    assert not plan().output_dir.exists()


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"data": {"store": "nowhere"}}, StoreError, r"prepare_corpus\.py"),
        ({"corpus": {"without_label": range(10)}}, InputError, "split train of fold 0: holds no labeled clip"),
        ({"corpus": {"without_video": range(10)}}, InputError,
         "evaluation.select_by validation/audio_video/accuracy: no validation clip has these modalities"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_run_is_refused_by_the_check(plan, sections, error, message):
    with pytest.raises(error, match=message):
        check_plan(plan(**sections))


def test_an_unknown_fold_is_refused_with_the_known_ones(plan):
    store = plan().data.store
    with pytest.raises((StoreError, InputError), match="0"):
        check_plan(plan(data={"store": store, "fold": 3}))


def test_rows_of_an_empty_partition_are_refused_by_the_check(plan):
    composition = {"rows_per_step": {"paired_labelled": 4, "audio_only_labelled": 4}}
    with pytest.raises(ConfigError, match="audio_only_labelled: this partition has no clips"):
        check_plan(plan(data={"store": plan().data.store, "composition": composition}))
