"""The weighted sum: normalized over the global batch, each part where it belongs and nowhere else."""

from __future__ import annotations

import itertools
from functools import reduce

import pytest
import torch

from vavl.models.draws import DrawKey
from vavl.models.settings import AttributeTask, ClassTask
from vavl.objectives.moments import add_moments
from vavl.objectives.predictions import conditions_there, predictions
from vavl.objectives.settings import HgrSettings, ObjectiveSettings, ReconstructionSettings, SupervisedSettings
from vavl.objectives.total import Objective

CLASSES, ATTRIBUTES = ClassTask(classes=("calm", "glad", "mad")), AttributeTask()
KEY = DrawKey(seed=3, step=5)
MIXED = "av av? a v av a? v? v av a av av?"
TASKS = pytest.mark.parametrize("task", [CLASSES, ATTRIBUTES], ids=["classes", "attributes"])


def make_objective(network, task, settings, pieces) -> Objective:
    layers = len(network.audio_path.widths)
    return Objective(task, settings, (1.0,) * layers, pieces, rows=0)


def parts_of(network, micro_batches, task, settings=None):
    """Return the parts of each micro-batch, as a training step computes them."""
    made = make_objective(network, task, settings or ObjectiveSettings(), len(micro_batches))
    outputs = [network(batch, KEY) for batch in micro_batches]
    sums = [made.moments(output, batch, None) for output, batch in zip(outputs, micro_batches, strict=True)]
    together = {name: value.detach() for name, value in reduce(add_moments, sums).items()}
    return [
        made.parts(output, batch, local, together, None)
        for output, batch, local in zip(outputs, micro_batches, sums, strict=True)
    ]


def objective(network, micro_batches, task, settings=None):
    made = make_objective(network, task, settings or ObjectiveSettings(), len(micro_batches))
    parts = parts_of(network, micro_batches, task, settings)
    return sum(value for found in parts for value in made.weighted(found, 0).values())


def clips_for(task, batches, description):
    """Draw clips; attributes are drawn anew for each, as CCC has no gradient where all are equal."""
    return batches.clips(description, soft=isinstance(task, AttributeTask))


def parts_that_move(network, gradients) -> set[str]:
    moved = set()
    for name, value in gradients(network).items():
        if value.abs().max() > 0:
            moved.add(".".join(name.split(".")[: 2 if name.split(".")[1] in ("head", "reconstruct") else 1]))
    return moved


@TASKS
def test_the_parts_of_a_split_batch_add_up_to_the_whole(tiny_network, batches, gradients, task):
    """Value and gradient: a mixed batch is the sum of its parts under the same normalizers."""
    network, clips = tiny_network(), clips_for(task, batches, MIXED)
    whole = objective(network, [batches.of(clips)], task)
    whole.backward()
    expected = gradients(network)
    for cuts in ((0, 6, 12), (0, 1, 2, 7, 12), tuple(range(13))):
        network.zero_grad()
        pieces = [batches.of(clips[start:end]) for start, end in itertools.pairwise(cuts)]
        total = objective(network, pieces, task)
        total.backward()
        torch.testing.assert_close(total, whole)
        for name, value in gradients(network).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=2e-5, msg=name)


@TASKS
def test_sorting_a_batch_by_partition_changes_nothing(tiny_network, batches, gradients, task):
    """Audio-only, video-only and paired clips in micro-batches of their own give the mixed gradient."""
    network, clips = tiny_network(), clips_for(task, batches, MIXED)
    objective(network, [batches.of(clips)], task).backward()
    expected = gradients(network)
    groups = {}
    for clip in clips:
        groups.setdefault((clip.audio is None, clip.video is None, clip.target is None), []).append(clip)
    assert len(groups) == 6
    network.zero_grad()
    objective(network, [batches.of(group) for group in groups.values()], task).backward()
    for name, value in gradients(network).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=2e-5, msg=name)


@TASKS
@pytest.mark.parametrize(
    ("description", "moved"),
    [
        ("a a? a", {"audio_path", "audio_path.head", "audio_path.reconstruct", "shared"}),
        ("v v? v", {"video_path", "video_path.head", "video_path.reconstruct", "shared"}),
        ("a? a?", {"audio_path", "audio_path.reconstruct", "shared"}),
        ("av? av?", {"audio_path", "video_path", "audio_path.reconstruct", "video_path.reconstruct", "shared"}),
        (
            "a a v v",
            {"audio_path", "audio_path.head", "audio_path.reconstruct", "shared"}
            | {"video_path", "video_path.head", "video_path.reconstruct"},
        ),
    ],
)
def test_a_batch_moves_exactly_the_parts_that_it_feeds(tiny_network, batches, gradients, task, description, moved):
    network = tiny_network()
    objective(network, [batches.of(clips_for(task, batches, description), fillers=2)], task).backward()
    assert parts_that_move(network, gradients) == moved


@TASKS
def test_no_trainable_tensor_is_unused_after_a_full_step(tiny_network, batches, gradients, task):
    network = tiny_network()
    objective(network, [batches.of(clips_for(task, batches, MIXED))], task).backward()
    unused = [
        name for name, value in gradients(network).items() if not value.abs().max() > 0 and "correlate" not in name
    ]
    assert not unused


@TASKS
@pytest.mark.parametrize(
    ("part", "moved"),
    [
        ("supervised/audio_video", {"fusion_head"}),
        ("supervised/audio", {"audio_path", "audio_path.head", "shared"}),
        ("supervised/video", {"video_path", "video_path.head", "shared"}),
        ("reconstruction/audio", {"audio_path", "audio_path.reconstruct", "shared"}),
        ("reconstruction/video", {"video_path", "video_path.reconstruct", "shared"}),
    ],
)
def test_each_part_moves_its_own_path_only(tiny_network, batches, gradients, task, part, moved):
    network = tiny_network()
    parts_of(network, [batches.of(clips_for(task, batches, MIXED))], task)[0][part].backward()
    assert parts_that_move(network, gradients) == moved


def test_the_target_of_the_reconstruction_carries_no_gradient(tiny_network, batches):
    batch = batches.of(batches.clips("av av"))
    values = batch.audio.values.requires_grad_()
    output = tiny_network()(batch)
    cut = output.audio._replace(reconstruction=output.audio.reconstruction.detach().requires_grad_())
    made = make_objective(tiny_network(), CLASSES, ObjectiveSettings(), 1)
    output = output._replace(audio=cut)
    local = made.moments(output, batch, None)
    parts = made.parts(output, batch, local, local, None)
    parts["reconstruction/audio"].backward()
    assert values.grad is None
    assert cut.reconstruction.grad.abs().max() > 0


@TASKS
def test_fillers_have_no_influence(tiny_network, batches, gradients, task):
    network, clips = tiny_network(), clips_for(task, batches, "av a v? av")
    plain = objective(network, [batches.of(clips)], task)
    plain.backward()
    expected = gradients(network)
    network.zero_grad()
    filled = objective(network, [batches.of(clips, fillers=3), batches.of([], fillers=2)], task)
    filled.backward()
    torch.testing.assert_close(filled, plain)
    for name, value in gradients(network).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@TASKS
def test_padding_has_no_influence(tiny_network, batches, task):
    network, batch = tiny_network(), batches.of(clips_for(task, batches, MIXED))
    padded = objective(network, [batches.padded(batch, 13, 1e30)], task)
    torch.testing.assert_close(padded, objective(network, [batch], task), rtol=1e-5, atol=1e-6)


@TASKS
def test_without_a_label_the_task_losses_are_0_with_finite_gradients(tiny_network, batches, gradients, task):
    network = tiny_network()
    parts = parts_of(network, [batches.of(batches.clips("av? a? v?"))], task)[0]
    for condition in ("audio_video", "audio", "video"):
        assert parts[f"supervised/{condition}"] == 0
    sum(value for name, value in parts.items() if name.startswith("supervised")).backward()
    assert all(torch.equal(value, torch.zeros_like(value)) for value in gradients(network).values())


@TASKS
def test_a_batch_of_fillers_alone_gives_0_and_runs_the_whole_graph(tiny_network, batches, task):
    network = tiny_network()
    loss = objective(network, [batches.of([], fillers=2)], task)
    loss.backward()
    assert loss == 0
    used = {name: value for name, value in network.named_parameters() if "correlate" not in name}
    assert not [name for name, parameter in used.items() if parameter.grad is None]
    assert all(not parameter.grad.any() for parameter in used.values())


def test_soft_labels_reach_the_loss_as_they_are(tiny_network, batches):
    network, batch = tiny_network(), batches.of(batches.clips("a a", soft=True))
    part = parts_of(network, [batch], CLASSES)[0]["supervised/audio"]
    logits = network(batch).audio.logits
    torch.testing.assert_close(part, -(batch.target * torch.log_softmax(logits, -1)).sum(-1).mean())


def test_losses_are_means_over_the_clips_that_carry_them(tiny_network, batches):
    network, clips = tiny_network(), batches.clips("av a? v av?")
    batch = batches.of(clips)
    output, parts = network(batch), parts_of(network, [batch], CLASSES)[0]
    means = torch.stack([torch.from_numpy(clip.audio).mean(0) for clip in clips if clip.audio is not None])
    cross_entropy, target = torch.nn.functional.cross_entropy, batch.target
    expected = {
        "supervised/audio_video": cross_entropy(output.fusion_logits[:1], target[:1]),
        "supervised/audio": cross_entropy(output.audio.logits[:1], target[:1]),
        # Clips 0 and 2 are the first two rows of those with video.
        "supervised/video": cross_entropy(output.video.logits[:2], target[[0, 2]]),
        "reconstruction/audio": (output.audio.reconstruction - means).square().mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value, msg=name)


def test_label_smoothing_mixes_in_the_uniform_distribution(tiny_network, batches):
    network, batch = tiny_network(), batches.of(batches.clips("a a a"))
    smooth = ObjectiveSettings(supervised=SupervisedSettings(label_smoothing=0.3))
    found = parts_of(network, [batch], CLASSES, smooth)[0]["supervised/audio"]
    expected = torch.nn.functional.cross_entropy(
        network(batch).audio.logits, batch.target.argmax(-1), label_smoothing=0.3
    )
    torch.testing.assert_close(found, expected)


def test_weights_scale_their_parts():
    values = {"supervised/audio": 1.0, "supervised/video": 2.0, "reconstruction/audio": 4.0}
    parts = {name: torch.tensor(value) for name, value in values.items()}
    settings = ObjectiveSettings(
        supervised=SupervisedSettings(weight=0.5), reconstruction=ReconstructionSettings(weight=3)
    )
    made = Objective(CLASSES, settings, (1.0,), 1, rows=0)
    assert made.weighted(parts, 0) == {
        "supervised/audio": 0.5, "supervised/video": 1.0, "reconstruction/audio": 12.0,
    }  # fmt: skip


def test_the_pairs_of_hgr_have_weights_of_their_own():
    settings = ObjectiveSettings(hgr=HgrSettings(weight=2, audio_video=0.5, audio_label=3, video_label=0))
    parts = {f"hgr/{pair}": torch.tensor(1.0) for pair in ("audio_video", "audio_label", "video_label")}
    weighted = Objective(CLASSES, settings, (1.0,), 1, rows=0).weighted(parts, 0)
    assert [float(value) for value in weighted.values()] == [1.0, 6.0, 0.0]


def test_a_part_of_weight_0_trains_nothing(tiny_network, batches, gradients):
    network = tiny_network()
    off = ObjectiveSettings(reconstruction=ReconstructionSettings(weight=0))
    objective(network, [batches.of(batches.clips(MIXED))], CLASSES, off).backward()
    assert not {part for part in parts_that_move(network, gradients) if part.endswith("reconstruct")}


def test_each_condition_counts_the_clips_that_have_it_and_a_label(tiny_network, batches):
    batch = batches.of(batches.clips("av av? a v? v a?"), fillers=1)
    assert conditions_there(batch).tolist() == [[1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 1, 0], [1, 1, 0, 1, 1, 0, 0]]
    output = tiny_network()(batch)
    objective = make_objective(tiny_network(), CLASSES, ObjectiveSettings(), 1)
    assert objective.moments(output, batch, None)["labelled"].tolist() == [1, 2, 2]
    found = predictions(output, batch)
    assert torch.equal(found[0], output.fusion_logits)
    assert torch.equal(found[1, [0, 1, 2, 5]], output.audio.logits)
    assert torch.equal(found[2, [0, 1, 3, 4]], output.video.logits)
