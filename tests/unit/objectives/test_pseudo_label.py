"""Pseudo-labels: conditions combined, classes aligned and sharpened, or the most confident class alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vavl.config.load import validate
from vavl.data.batch import WeakView
from vavl.errors import ConfigError
from vavl.models.settings import AttributeTask, ClassTask
from vavl.objectives.pseudo_label import (
    LabelStatistics,
    TeacherPrediction,
    combine_conditions,
    on_device,
    pseudo_target,
    running_mean,
    teacher_moments,
)
from vavl.objectives.settings import ObjectiveSettings, PseudoLabelSettings
from vavl.objectives.total import Objective

TASK, ATTRIBUTES = ClassTask(classes=("calm", "glad", "mad")), AttributeTask()
THIRDS = on_device([1 / 3] * 3, torch.device("cpu"))
LABELS = LabelStatistics(THIRDS, on_device([0.2, 0.1, 0.4], torch.device("cpu")))
SOFT, HARD = PseudoLabelSettings(), PseudoLabelSettings(kind="hard", threshold=0.9)
PLAIN = PseudoLabelSettings(temperature=1, align=False)


def favor(label: int, by: float):
    """Return logits of three classes that favor one."""
    return [by if number == label else 0.0 for number in range(3)]


@pytest.fixture
def offered(tiny_network, batches):
    """Return a batch of six clips, of which four have no label, and chosen logits for its weak view."""
    batch = batches.of(batches.clips("av av? a? v a? av?"))
    # Rows of the weak view: clips 1, 2, 4 and 5; audio has 1, 2, 4, 5 and video 1, 5.
    weak = batches.of(batches.clips("av? a? a? av?"))
    output = tiny_network()(weak)
    audio = [favor(0, 1), favor(1, 5), favor(2, 0.1), favor(2, 9)]
    output = output._replace(
        audio=output.audio._replace(logits=torch.tensor(audio)),
        video=output.video._replace(logits=torch.tensor([favor(1, 3), favor(0, 1)])),
        fusion_logits=torch.tensor([favor(2, 2), favor(0, 50), favor(0, 50), favor(1, 3)]),
    )  # fmt: skip
    return batch, output, WeakView(weak, torch.tensor([1, 2, 4, 5]))


@pytest.fixture
def combined(offered):
    """Return a function that combines the conditions of ``offered``."""
    batch, output, view = offered

    def combine(settings=SOFT, task=TASK, **changes):
        return combine_conditions(output, view, batch.clips, task, settings, **changes)

    return combine


@pytest.fixture
def parts(tiny_network):
    """Return a function that gives the parts of a batch."""

    def of(batch, found, settings, task=TASK, **changes):
        objective = Objective(task, ObjectiveSettings(pseudo_label=settings), (1.0,), 1, rows=0, **changes)
        output = tiny_network()(batch)
        local = objective.moments(output, batch, found)
        target = pseudo_target(found, task, settings, LABELS, THIRDS)
        return output, local, objective.parts(output, batch, local, local, target)

    return of


def probabilities(*logits):
    return torch.softmax(torch.tensor(logits), -1)


def test_soft_labels_average_the_conditions_that_the_clip_has(combined):
    found = combined()
    assert found.is_taught.tolist() == [0, 1, 1, 0, 1, 1]
    fusion, audio, video = probabilities(favor(2, 2), favor(0, 1), favor(1, 3))
    torch.testing.assert_close(found.values[1], 0.5 * fusion + 0.25 * audio + 0.25 * video)
    # Clips 2 and 4 have no fusion, however confident its logits.
    torch.testing.assert_close(found.values[[2, 4]], probabilities(favor(1, 5), favor(2, 0.1)))
    assert not found.values[[0, 3]].any()
    assert found.votes[1].tolist() == [2, 0, 1]
    assert found.votes[2].tolist() == [-1, 1, -1]


def test_hard_labels_are_those_of_the_most_confident_condition(combined):
    found = combined(HARD)
    # Clip 1: video is most confident. Clip 5: audio.
    assert found.values.argmax(-1)[[1, 2, 4, 5]].tolist() == [1, 1, 2, 2]
    torch.testing.assert_close(found.values[1], probabilities(favor(1, 3))[0])
    assert not found.values[[0, 3]].any()
    targets = pseudo_target(found, TASK, HARD, LABELS, THIRDS)
    assert targets.weight.tolist() == [0, 1, 1, 0, 0, 1]
    assert targets.target[5].tolist() == [0, 0, 1]
    stricter = PseudoLabelSettings(kind="hard", threshold=0.999)
    assert pseudo_target(found, TASK, stricter, LABELS, THIRDS).weight.tolist() == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("settings", [SOFT, HARD], ids=["soft", "hard"])
def test_heads_without_labels_neither_teach_nor_learn(combined, parts, offered, settings):
    """Labeled clips have audio alone: the fusion and the video head are what they were drawn as."""
    found = combined(settings, conditions=("audio",))
    torch.testing.assert_close(found.values[1], probabilities(favor(0, 1))[0])
    _, _, made = parts(offered[0], found, settings, labelled=("audio",))
    assert [name for name in made if name.startswith("pseudo_label")] == ["pseudo_label/audio"]


@pytest.mark.parametrize("settings", [SOFT, HARD], ids=["soft", "hard"])
def test_without_an_unlabelled_clip_nothing_counts(tiny_network, batches, settings):
    batch, weak = batches.of(batches.clips("av a v")), batches.of([], fillers=1)
    found = combine_conditions(tiny_network()(weak), WeakView(weak, torch.tensor([0])), batch.clips, TASK, settings)
    targets = pseudo_target(found, TASK, settings, LABELS, THIRDS)
    assert not found.is_taught.any()
    assert not targets.weight.any()
    assert targets.target.isfinite().all()
    moments = teacher_moments(found)
    assert torch.equal(running_mean(THIRDS, moments, 0.5), THIRDS)


def test_labels_are_sharpened_by_the_temperature():
    found = TeacherPrediction(torch.tensor([[0.5, 0.3, 0.2]]), torch.ones(1), torch.zeros(1, 3), torch.zeros(1, 3))
    target = pseudo_target(found, TASK, PseudoLabelSettings(align=False), LABELS, THIRDS).target
    torch.testing.assert_close(target, torch.tensor([[0.25, 0.09, 0.04]]) / 0.38)
    torch.testing.assert_close(pseudo_target(found, TASK, PLAIN, LABELS, THIRDS).target, found.values)


def test_alignment_moves_the_mean_of_the_teacher_to_the_shares_of_the_labels():
    """A teacher that says calm twice as often as it should: its mean becomes even where all clips are uncertain."""
    rows = torch.tensor([[0.5, 0.25, 0.25], [0.52, 0.24, 0.24], [0.48, 0.26, 0.26]])
    found = TeacherPrediction(rows, torch.ones(3), torch.zeros(3, 3), torch.zeros(3, 3))
    mean = running_mean(THIRDS, teacher_moments(found), 0.0)
    torch.testing.assert_close(mean, rows.double().mean(0))
    aligned = pseudo_target(found, TASK, PseudoLabelSettings(temperature=1), LABELS, mean).target
    torch.testing.assert_close(aligned.mean(0), torch.full((3,), 1 / 3), atol=1e-3, rtol=0)
    shares = on_device([0.6, 0.3, 0.1], torch.device("cpu"))
    uneven = pseudo_target(found, TASK, SOFT, replace(LABELS, mean=shares), mean).target
    assert (uneven.argsort(-1, descending=True) == torch.arange(3)).all()


def test_the_mean_of_the_teacher_moves_by_its_momentum():
    moments = {
        "count": torch.tensor(10.0, dtype=torch.float64), "values": torch.tensor([6.0, 3, 1], dtype=torch.float64)
    }  # fmt: skip
    assert running_mean(THIRDS, moments, 0.5).tolist() == pytest.approx([0.3 + 1 / 6, 0.15 + 1 / 6, 0.05 + 1 / 6])
    parts = [{name: value * share for name, value in moments.items()} for share in (0.3, 0.7)]
    added = {name: parts[0][name] + parts[1][name] for name in moments}
    torch.testing.assert_close(running_mean(THIRDS, added, 0.5), running_mean(THIRDS, moments, 0.5))


def test_the_loss_is_a_mean_over_all_unlabelled_clips(combined, parts, offered):
    found = combined(HARD)
    output, _, made = parts(offered[0], found, HARD)
    # Audio: clips 0, 1, 2, 4, 5; of the four unlabeled ones 1, 2 and 5 are confident.
    losses = -torch.log_softmax(output.audio.logits, -1)
    torch.testing.assert_close(made["pseudo_label/audio"], (losses[1, 1] + losses[2, 1] + losses[4, 2]) / 4)
    fusion = -torch.log_softmax(output.fusion_logits, -1)
    torch.testing.assert_close(made["pseudo_label/audio_video"], (fusion[1, 1] + fusion[5, 2]) / 2)
    soft = combined(PLAIN)
    _, _, made = parts(offered[0], soft, PLAIN)
    expected = (losses[[1, 2, 3, 4]] * soft.values[[1, 2, 4, 5]]).sum() / 4
    torch.testing.assert_close(made["pseudo_label/audio"], expected)


def test_attributes_are_the_average_and_count_less_where_conditions_differ(combined, parts, offered):
    found = combined(task=ATTRIBUTES)
    fusion, audio, video = (torch.tensor(favor(*one)) for one in ((2, 2), (0, 1), (1, 3)))
    mean = 0.5 * fusion + 0.25 * audio + 0.25 * video
    torch.testing.assert_close(found.values[1], mean)
    variance = 0.5 * (fusion - mean) ** 2 + 0.25 * (audio - mean) ** 2 + 0.25 * (video - mean) ** 2
    torch.testing.assert_close(found.variance[1], variance)
    assert (found.votes == -1).all()
    target = pseudo_target(found, ATTRIBUTES, SOFT, LABELS, THIRDS)
    expected = 1 / (1 + (variance / LABELS.variance.float()).mean())
    torch.testing.assert_close(target.weight[1], expected)
    assert target.weight[[0, 2, 3, 4]].tolist() == [0, 1, 0, 1]
    output, _, made = parts(offered[0], found, SOFT, ATTRIBUTES)
    errors = (output.audio.logits[[1, 2, 3, 4]] - target.target[[1, 2, 4, 5]]) ** 2 / (2 * LABELS.variance.float())
    torch.testing.assert_close(made["pseudo_label/audio"], (errors.sum(-1) * target.weight[[1, 2, 4, 5]]).sum() / 4)


def test_no_gradient_reaches_the_labels(tiny_network, batches):
    weak = batches.of(batches.clips("av?"))
    found = combine_conditions(tiny_network()(weak), WeakView(weak, torch.tensor([0])), 1, TASK, SOFT)
    assert not found.values.requires_grad


def test_labelled_clips_are_not_taught_even_if_the_weak_view_shows_them_to_a_rank(combined, offered):
    assert not (combined().is_taught * offered[0].is_labelled).any()


def test_the_training_view_may_lack_a_side_that_the_weak_view_has(combined, parts, offered):
    """Modality dropout: the label of both modalities trains the side that is left."""
    batch = offered[0]
    has_video = batch.has_video.clone()
    has_video[1] = 0
    kept = batch.video.clip != 1
    rows = {name: value[kept] for name, value in vars(batch.video).items() if isinstance(value, torch.Tensor)}
    video = replace(batch.video, **rows)
    _, local, made = parts(replace(batch, has_video=has_video, video=video), combined(), SOFT)
    assert local["taught"].tolist() == [1, 4, 1]
    assert made["pseudo_label/audio"] > 0


class TestSettings:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"threshold": 0.8}, r"threshold=0.8 is for hard labels: write kind: hard"),
            ({"adaptive": True}, r"adaptive is gone: kind: soft .* kind: hard with threshold"),
            ({"kind": "hard", "temperature": 0}, r"temperature"),
        ],
    )
    def test_what_means_nothing_is_refused(self, given, message):
        with pytest.raises(ConfigError, match=message):
            validate(ObjectiveSettings, {"pseudo_label": given}, "here")

    def test_hard_labels_of_an_earlier_version_keep_their_hash_and_threshold(self):
        former = {"threshold": 0.8, "adaptive": False, "adaptive_momentum": 0.99}
        given = validate(ObjectiveSettings, {"pseudo_label": {**former, "kind": "hard"}}, "here")
        common = {"weight": 1.0, "start_step": 0, "ramp_steps": 0, "teacher": "self"}
        assert given.hashed["pseudo_label"] == {**common, **former}
        assert PseudoLabelSettings(kind="hard").least_confidence == 0.95
        assert ObjectiveSettings(pseudo_label=SOFT).hashed["pseudo_label"]["kind"] == "soft"
