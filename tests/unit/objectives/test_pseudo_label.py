"""Pseudo-labels: the surest condition names the class, sure enough ones count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vavl.data.batch import WeakView
from vavl.models.settings import ClassTask
from vavl.objectives.pseudo_label import ConfidenceState, guess, guess_moments, pseudo_target
from vavl.objectives.settings import ObjectiveSettings, PseudoLabelSettings
from vavl.objectives.total import Objective

TASK = ClassTask(classes=("calm", "glad", "mad"))
START = ConfidenceState.at_start(3)
CPU = torch.device("cpu")


def sure_of(label: int, by: float):
    """Return logits of three classes that favor one."""
    return [by if number == label else 0.0 for number in range(3)]


@pytest.fixture
def guessed(tiny_network, batches):
    """Guess for a batch of six clips, of which four have no label, with chosen logits."""
    batch = batches.of(batches.clips("av av? a? v a? av?"))
    # Rows of the weak view: clips 1, 2, 4 and 5; audio has 1, 2, 4, 5 and video 1, 5.
    weak = batches.of(batches.clips("av? a? a? av?"))
    output = tiny_network()(weak)
    audio = [sure_of(0, 1), sure_of(1, 5), sure_of(2, 0.1), sure_of(2, 9)]
    output = output._replace(
        audio=output.audio._replace(logits=torch.tensor(audio)),
        video=output.video._replace(logits=torch.tensor([sure_of(1, 3), sure_of(0, 1)])),
        fusion_logits=torch.tensor([sure_of(2, 2), sure_of(0, 50), sure_of(0, 50), sure_of(1, 3)]),
    )  # fmt: skip
    view = WeakView(weak, torch.tensor([1, 2, 4, 5]))
    return batch, guess(output, view, batch.clips)


def test_the_surest_condition_that_the_clip_offers_names_the_class(guessed):
    _, found = guessed
    assert found.is_unlabelled.tolist() == [0, 1, 1, 0, 1, 1]
    # Clip 1: video is surest. Clips 2 and 4 have no fusion, however sure its logits. Clip 5: audio.
    assert found.probabilities.argmax(-1)[[1, 2, 4, 5]].tolist() == [1, 1, 2, 2]
    torch.testing.assert_close(found.probabilities[1], torch.softmax(torch.tensor(sure_of(1, 3)), -1))
    assert not found.probabilities[[0, 3]].any()


def test_heads_without_labels_neither_guess_nor_learn(tiny_network, batches):
    """Labeled clips have audio alone: the fusion and the video head are what they were drawn as."""
    weak = batches.of(batches.clips("av? v?"))
    output = tiny_network()(weak)
    output = output._replace(fusion_logits=torch.tensor([sure_of(0, 50), sure_of(0, 50)]))
    found = guess(output, WeakView(weak, torch.arange(2)), 2, ("audio",))
    torch.testing.assert_close(found.probabilities[0], torch.softmax(output.audio.logits[0], -1))
    assert found.is_unlabelled.tolist() == [1, 0]
    settings = ObjectiveSettings(pseudo_label=PseudoLabelSettings())
    objective = Objective(TASK, settings, (1.0,), 1, ("audio",))
    local = objective.moments(output, weak, found)
    parts = objective.parts(output, weak, local, local, pseudo_target(found, torch.tensor([0.1, 0.1, 0.1])))
    assert [name for name in parts if name.startswith("pseudo_label")] == ["pseudo_label/audio"]


def test_only_sure_labels_count(guessed):
    _, found = guessed
    targets = pseudo_target(found, torch.tensor([0.9, 0.9, 0.9]))
    assert targets.is_sure.tolist() == [0, 1, 1, 0, 0, 1]
    assert targets.target[5].tolist() == [0, 0, 1]
    assert pseudo_target(found, torch.tensor([0.9, 0.999, 0.9])).is_sure.tolist() == [0, 0, 0, 0, 0, 1]


def test_without_an_unlabelled_clip_nothing_counts(tiny_network, batches):
    batch, weak = batches.of(batches.clips("av a v")), batches.of([], fillers=1)
    found = guess(tiny_network()(weak), WeakView(weak, torch.tensor([0])), batch.clips)
    assert not found.is_unlabelled.any()
    assert not pseudo_target(found, START.on(CPU).thresholds(PseudoLabelSettings(adaptive=True))).is_sure.any()
    assert guess_moments(found)["count"] == 0


def test_the_loss_is_a_mean_over_all_unlabelled_clips(guessed, tiny_network):
    batch, found = guessed
    settings = ObjectiveSettings(pseudo_label=PseudoLabelSettings())
    objective, network = Objective(TASK, settings, (1.0,), 1), tiny_network()
    output = network(batch)
    local = objective.moments(output, batch, found)
    targets = pseudo_target(found, torch.tensor([0.9, 0.9, 0.9]))
    parts = objective.parts(output, batch, local, local, targets)
    # Audio: clips 0, 1, 2, 4, 5; of the four unlabeled ones 1, 2 and 5 are sure.
    losses = -torch.log_softmax(output.audio.logits, -1)
    expected = (losses[1, 1] + losses[2, 1] + losses[4, 2]) / 4
    torch.testing.assert_close(parts["pseudo_label/audio"], expected)
    fusion = -torch.log_softmax(output.fusion_logits, -1)
    torch.testing.assert_close(parts["pseudo_label/audio_video"], (fusion[1, 1] + fusion[5, 2]) / 2)


def test_no_gradient_reaches_the_labels(tiny_network, batches):
    weak = batches.of(batches.clips("av?"))
    found = guess(tiny_network()(weak), WeakView(weak, torch.tensor([0])), 1)
    assert not found.probabilities.requires_grad


def test_labelled_clips_are_no_candidates_even_if_the_weak_view_shows_them_to_a_rank(guessed):
    batch, found = guessed
    assert not (found.is_unlabelled * batch.is_labelled).any()


def test_adaptive_thresholds_follow_confidence_and_spare_rare_classes():
    settings, start = PseudoLabelSettings(adaptive=True), START.on(CPU)
    assert start.thresholds(settings).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    moments = {
        name: torch.tensor(value, dtype=torch.float64)
        for name, value in {"count": 10.0, "confidence": 9.0, "by_class": [6.0, 3.0, 1.0]}.items()
    }
    running = start.after(moments, 0.5)
    after = ConfidenceState.of(running.values.tolist())
    assert after.confidence == pytest.approx(0.5 / 3 + 0.45)
    high, middle, low = running.thresholds(settings).tolist()
    assert high == pytest.approx(after.confidence)
    assert high > middle > low
    nothing = start.after({name: torch.zeros_like(value) for name, value in moments.items()}, 0.5)
    assert ConfidenceState.of(nothing.values.tolist()) == START


def test_fixed_thresholds_ignore_the_state():
    state = ConfidenceState(confidence=0.4, by_class=(0.7, 0.2, 0.1)).on(CPU)
    expected = torch.tensor([0.8, 0.8, 0.8])
    assert torch.equal(state.thresholds(PseudoLabelSettings(threshold=0.8)), expected)


def test_the_training_view_may_lack_a_side_that_the_weak_view_has(guessed, tiny_network):
    """Modality dropout: the label of both modalities trains the side that is left."""
    batch, found = guessed
    objective = Objective(TASK, ObjectiveSettings(pseudo_label=PseudoLabelSettings()), (1.0,), 1)
    has_video = batch.has_video.clone()
    has_video[1] = 0
    kept = batch.video.clip != 1
    left = {name: value[kept] for name, value in vars(batch.video).items()}
    video = replace(batch.video, **left)
    dropped = replace(batch, has_video=has_video, video=video)
    output = tiny_network()(dropped)
    local = objective.moments(output, dropped, found)
    assert local["audio_video/guessed"] == 1
    assert local["audio/guessed"] == 4
    parts = objective.parts(output, dropped, local, local, pseudo_target(found, torch.tensor([0.9, 0.9, 0.9])))
    assert parts["pseudo_label/audio"] > 0
