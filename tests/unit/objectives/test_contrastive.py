"""Contrast: the definition, parts that add up to the whole, and clips that lack a side."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vavl.objectives.contrastive import contrastive_loss, contrastive_moments
from vavl.objectives.moments import add_moments

ROWS, SIZE, TAU = 9, 4, 0.3


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(audio: Tensor, video: Tensor) -> Tensor:
    """Cross-entropy of naming the own clip among all, averaged over both directions."""
    alike = functional.normalize(audio, dim=-1) @ functional.normalize(video, dim=-1).T / TAU
    own = torch.arange(len(audio))
    return (functional.cross_entropy(alike, own) + functional.cross_entropy(alike.T, own)) / 2


def loss_of(audio, video, parts):
    """Add the gradients of the parts of a batch of clips that all have their row of ``audio`` and ``video``."""
    local = [contrastive_moments(audio[one.audio_rows], video[one.video_rows], one.batch, ROWS) for one in parts]
    together = {name: value.detach() for name, value in reduce(add_moments, local).items()}
    losses = [contrastive_loss(together, one, TAU) for one in local]
    sum(losses).backward()
    return losses


@pytest.fixture
def cut(batches):
    """Return a function that cuts a described batch into parts, each with the rows of the whole that it holds."""

    class Part:
        def __init__(self, clips, start):
            places = torch.arange(start, start + len(clips) + 1)
            self.batch = replace(batches.of(clips, fillers=1), place=places % ROWS)
            # A part without the modality has a row that only fills up.
            self.audio_rows = self.batch.place[self.batch.audio.clip]
            self.video_rows = self.batch.place[self.batch.video.clip]

    def make(description, sizes):
        clips, start, parts = batches.clips(description), 0, []
        for size in sizes:
            parts.append(Part(clips[start : start + size], start))
            start += size
        return parts

    return make


PAIRED = " ".join(["av", "av?"] * 4 + ["av"])


def test_it_is_the_definition(cut):
    audio, video = drawn(ROWS, SIZE).requires_grad_(), drawn(ROWS, SIZE, seed=1).requires_grad_()
    (found,) = loss_of(audio, video, cut(PAIRED, [ROWS]))
    torch.testing.assert_close(found, by_definition(audio, video).float())


@pytest.mark.parametrize("sizes", [(9,), (5, 4), (1, 0, 6, 2), (1,) * 9])
@pytest.mark.parametrize("description", [PAIRED, "av a av? v av a? av v? av"])
def test_parts_have_the_value_and_add_up_to_the_gradient_of_the_pooled_batch(cut, sizes, description):
    pairs = [place for place, word in enumerate(description.split()) if word.startswith("av")]
    whole = [drawn(ROWS, SIZE, seed=seed).requires_grad_() for seed in (0, 1)]
    expected = by_definition(whole[0][pairs], whole[1][pairs])
    expected.backward()
    knobs = [one.detach().clone().requires_grad_() for one in whole]
    for found in loss_of(*knobs, cut(description, sizes)):
        torch.testing.assert_close(found, expected.float())
    for knob, one in zip(knobs, whole, strict=True):
        torch.testing.assert_close(knob.grad, one.grad)
    assert whole[0].grad.abs().max() > 0.01


def test_losses_of_the_parts_alone_would_be_another_loss(cut):
    """Each compares with fewer clips: the mean is lower."""
    sides = drawn(ROWS, SIZE), drawn(ROWS, SIZE, seed=1)
    apart = [by_definition(*(side[rows] for side in sides)) for rows in (slice(0, 5), slice(5, 9))]
    assert (apart[0] * 5 + apart[1] * 4) / 9 < by_definition(*sides) - 0.1


@pytest.mark.parametrize("garbage", [1e30, float("inf"), float("nan")])
def test_clips_without_a_side_leave_no_trace(cut, garbage):
    (part,) = cut("av a av v av - av a? av", [ROWS])
    audio, video = drawn(ROWS, SIZE), drawn(ROWS, SIZE, seed=1)
    for side, alone in ((audio, [1, 5, 7]), (video, [3, 5])):
        side[alone] = garbage
    audio.requires_grad_(), video.requires_grad_()
    (found,) = loss_of(audio, video, [part])
    pairs = [0, 2, 4, 6, 8]
    torch.testing.assert_close(found, by_definition(audio[pairs], video[pairs]).float())
    assert not audio.grad[[1, 3, 5, 7]].any()
    assert not video.grad[[1, 3, 5, 7]].any()


@pytest.mark.parametrize("description", ["av a v - a v a v a", "a v - a v a v a -"], ids=["one pair", "no pair"])
def test_fewer_than_two_pairs_give_0_and_no_gradient(cut, description):
    audio, video = drawn(ROWS, SIZE).requires_grad_(), drawn(ROWS, SIZE, seed=1).requires_grad_()
    assert loss_of(audio, video, cut(description, [4, 5])) == [0, 0]
    assert not audio.grad.any()
    assert not video.grad.any()


def test_length_does_not_count_and_autocast_keeps_the_digits(cut):
    audio, video = drawn(ROWS, SIZE).float().requires_grad_(), drawn(ROWS, SIZE, seed=1).float().requires_grad_()
    parts = cut(PAIRED, [ROWS])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = loss_of(audio * 100, video / 3, parts)
    torch.testing.assert_close(found, by_definition(audio.double(), video.double()).float(), rtol=1e-6, atol=0)
