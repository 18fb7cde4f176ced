"""All objectives at once: each part's gradient where it belongs, and parts of a batch that add up to it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import reduce

import pytest
import torch

from vavl.data.batch import WeakView
from vavl.models.draws import DrawKey
from vavl.models.settings import AttributeTask, ClassTask, LadderShape
from vavl.objectives.moments import add_moments
from vavl.objectives.pseudo_label import LabelStatistics, combine_conditions, pseudo_target
from vavl.objectives.settings import (
    ContrastiveSettings,
    HgrSettings,
    LadderSettings,
    ObjectiveSettings,
    PseudoLabelSettings,
)
from vavl.objectives.total import Objective

CLASSES, ATTRIBUTES = ClassTask(classes=("calm", "glad", "mad")), AttributeTask()
ROWS = 16
KEY = DrawKey(seed=3, step=5)
MIXED = "av av? a v av a? v? av a av av? av?"
SIDES = ("audio", "video")
TASKS = pytest.mark.parametrize("task", [CLASSES, ATTRIBUTES], ids=["classes", "attributes"])
UNPAIRED_CASES = [("a a? a a", "audio"), ("v v? v v", "video")]


@pytest.fixture
def network(tiny_network):
    return tiny_network(ladder=LadderShape(lateral="both", detach_target=False), contrast_size=5)


def settings_for(task) -> ObjectiveSettings:
    pseudo = PseudoLabelSettings(weight=0.7)
    contrastive = ContrastiveSettings(weight=0.4)
    return ObjectiveSettings(
        hgr=HgrSettings(weight=0.5), contrastive=contrastive, ladder=LadderSettings(weight=0.3), pseudo_label=pseudo
    )


def parts_of(network, micro_batches, task):
    """Return the objective and the parts of each micro-batch, as a training step computes them."""
    settings = settings_for(task)
    made = Objective(task, settings, (1.0, 0.5, 2.0), len(micro_batches), rows=ROWS)
    taught = [prediction_of(network, batch, task, settings.pseudo_label) for batch in micro_batches]
    outputs = [network(batch, KEY) for batch in micro_batches]
    sums = [made.moments(*one) for one in zip(outputs, micro_batches, taught, strict=True)]
    together = {name: value.detach() for name, value in reduce(add_moments, sums).items()}
    labels = LabelStatistics(torch.full((3,), 1 / 3), torch.full((3,), 0.2))
    pseudo = [pseudo_target(one, task, settings.pseudo_label, labels, labels.mean) for one in taught]
    return made, [
        made.parts(output, batch, local, together, labels)
        for output, batch, local, labels in zip(outputs, micro_batches, sums, pseudo, strict=True)
    ]


def prediction_of(network, batch, task, settings):
    """Let the network teach the unlabeled clips of a batch, which is its own weak view here."""
    view = WeakView(batch, torch.arange(batch.clips))
    with torch.no_grad():
        found = combine_conditions(network(batch), view, batch.clips, task, settings)
    return replace(found, is_taught=found.is_taught * (1 - batch.is_labelled))


def total_of(network, micro_batches, task):
    made, found = parts_of(network, micro_batches, task)
    return sum(value for parts in found for value in made.weighted(parts, 0).values())


def clips_for(task, batches, description):
    """Draw clips; attributes are drawn anew for each, as CCC has no gradient where all are equal."""
    return batches.clips(description, soft=isinstance(task, AttributeTask))


def moved(gradients) -> set[str]:
    """Name the parts that have a gradient: the heads of a path and each decoder of the ladder apart."""
    found = set()
    for name, value in gradients.items():
        first, second, *_ = name.split(".")
        if value.abs().max() > 0:
            is_apart = first in ("ladder", "contrast") or second in ("head", "reconstruct", "correlate")
            found.add(f"{first}.{second}" if is_apart else first)
    return found


def encoder(*names: str) -> set[str]:
    return {"shared", *(f"{name}_path" for name in names)}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("supervised/audio_video", {"fusion_head"}),
        ("supervised/audio", {"audio_path.head"} | encoder("audio")),
        ("reconstruction/video", {"video_path.reconstruct"} | encoder("video")),
        ("hgr/audio_video", {"audio_path.correlate", "video_path.correlate"} | encoder(*SIDES)),
        ("hgr/audio_label", {"audio_path.correlate", "correlate_label"} | encoder("audio")),
        ("hgr/video_label", {"video_path.correlate", "correlate_label"} | encoder("video")),
        ("contrastive", {"contrast.audio", "contrast.video"} | encoder(*SIDES)),
        ("ladder/audio", {"ladder.audio"} | encoder(*SIDES)),
        ("ladder/video", {"ladder.video"} | encoder(*SIDES)),
        ("pseudo_label/audio_video", {"fusion_head"}),
        ("pseudo_label/audio", {"audio_path.head"} | encoder("audio")),
        ("pseudo_label/video", {"video_path.head"} | encoder("video")),
    ],
)
def test_each_part_moves_what_belongs_to_it_and_nothing_else(network, batches, gradients, part, expected):
    _, (parts,) = parts_of(network, [batches.of(batches.clips(MIXED), fillers=1)], CLASSES)
    parts[part].backward()
    assert moved(gradients(network)) == expected


@TASKS
@pytest.mark.parametrize("cuts", [(0, 6, 12), (0, 1, 1, 7, 12), tuple(range(13))])
def test_a_split_batch_is_the_whole_batch(network, batches, gradients, task, cuts):
    clips = clips_for(task, batches, MIXED)
    whole = total_of(network, [batches.of(clips)], task)
    whole.backward()
    expected = gradients(network)
    network.zero_grad()
    pieces = [
        replace(batches.of(clips[start:end], fillers=1), place=torch.arange(start, end + 1))
        for start, end in itertools.pairwise(cuts)
    ]
    total = total_of(network, pieces, task)
    total.backward()
    torch.testing.assert_close(total, whole)
    for name, value in gradients(network).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=3e-5, msg=name)


@TASKS
def test_sorted_by_partition_it_is_the_mixed_batch(network, batches, gradients, task):
    clips = clips_for(task, batches, MIXED)
    total_of(network, [batches.of(clips)], task).backward()
    expected = gradients(network)
    groups: dict[tuple[bool, ...], list[int]] = {}
    for place, clip in enumerate(clips):
        groups.setdefault((clip.audio is None, clip.video is None, clip.target is None), []).append(place)
    assert len(groups) == 6
    network.zero_grad()
    pieces = [
        replace(batches.of([clips[place] for place in places]), place=torch.tensor(places))
        for places in groups.values()
    ]
    total_of(network, pieces, task).backward()
    for name, value in gradients(network).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=3e-5, msg=name)


@TASKS
@pytest.mark.parametrize(("description", "there"), UNPAIRED_CASES)
def test_a_batch_of_one_modality_leaves_the_other_and_the_fusion_at_exactly_0(
    network, batches, gradients, task, description, there
):
    absent = "video" if there == "audio" else "audio"
    total_of(network, [batches.of(batches.clips(description, soft=True), fillers=2)], task).backward()
    found = gradients(network)
    for name, value in found.items():
        assert torch.isfinite(value).all(), name
        if name.startswith((f"{absent}_path", f"ladder.{absent}", "fusion_head", "contrast")):
            assert not value.any(), name
    expected = {f"{there}_path.{head}" for head in ("head", "reconstruct", "correlate")} | {"correlate_label"}
    assert moved(found) == expected | encoder(there) | {f"ladder.{there}"}


@TASKS
def test_no_trainable_tensor_is_unused(network, batches, gradients, task):
    total_of(network, [batches.of(clips_for(task, batches, MIXED), fillers=1)], task).backward()
    unused = [name for name, value in gradients(network).items() if not value.abs().max() > 0]
    assert not unused


@TASKS
@pytest.mark.parametrize("description", ["", "av", "a v", "av? a? v?", "a a? a", "v?"])
def test_sparse_batches_are_finite_and_run_the_whole_graph(network, batches, task, description):
    """A rank may get any of these: every tensor needs a gradient there, if only zeros."""
    loss = total_of(network, [batches.of(clips_for(task, batches, description), fillers=1)], task)
    assert torch.isfinite(loss)
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@TASKS
def test_padding_and_fillers_change_nothing(network, batches, gradients, task):
    clips = clips_for(task, batches, MIXED)
    total_of(network, [batches.of(clips)], task).backward()
    expected = gradients(network)
    network.zero_grad()
    crowded = batches.padded(batches.of(clips, fillers=3), 9, float("nan"))
    total_of(network, [crowded, batches.of([], fillers=2)], task).backward()
    for name, value in gradients(network).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=3e-5, msg=name)
