"""Noise of a clip: a function of seed, step, place and stream, and of nothing else."""

from __future__ import annotations

import pytest
import torch

from vavl.models.kernels import noise as noise_module
from vavl.models.kernels.draws import DrawKey
from vavl.models.kernels.noise import layer_noise

KEY, WIDTHS = DrawKey(seed=3, step=5), (6, 16, 16)


@pytest.fixture(params=["generators", "counter"], autouse=True)
def _way(request, monkeypatch):
    """Draw as on a CPU, then as on a GPU."""
    if request.param == "counter":
        monkeypatch.setattr(noise_module, "_by_generators", noise_module._by_counter)


@pytest.fixture
def batch(batches):
    return batches.of(batches.clips("av a av v a av"))


def noise_of(side, place, key=KEY, stream=0) -> dict[int, torch.Tensor]:
    """Return the noise of the real frames of each clip, all layers side by side, by place."""
    drawn = torch.cat(layer_noise(key, stream, side, place, WIDTHS), dim=-1)
    numbers = place[side.clip].tolist()
    return {number: drawn[row, side.is_real[row]] for row, number in enumerate(numbers)}


def test_the_same_key_gives_the_same_noise_whatever_happens_in_between(batch):
    first = noise_of(batch.audio, batch.place)
    torch.randn(7)
    again = noise_of(batch.audio, batch.place)
    assert first.keys() == again.keys() == {0, 1, 2, 4, 5}
    assert all(torch.equal(first[place], again[place]) for place in first)


def test_the_draws_leave_the_global_generator_alone(batch):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    noise_of(batch.audio, batch.place)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "change",
    [{"key": DrawKey(4, 5)}, {"key": DrawKey(3, 6)}, {"stream": 1}],
    ids=["seed", "step", "stream"],
)
def test_another_seed_step_or_stream_gives_other_noise(batch, change):
    first, other = noise_of(batch.audio, batch.place), noise_of(batch.audio, batch.place, **change)
    for place in first:
        assert (first[place] - other[place]).abs().min() > 0


def test_clips_layers_and_frames_are_independent(batch):
    drawn = noise_of(batch.audio, batch.place)
    numbers = torch.cat([value.flatten() for value in drawn.values()])
    assert len(numbers.unique()) == len(numbers)


def test_padding_and_what_it_holds_change_nothing(batches, batch):
    padded = batches.padded(batch, 9, float("nan"))
    first, other = noise_of(batch.audio, batch.place), noise_of(padded.audio, padded.place)
    assert all(torch.equal(first[place], other[place]) for place in first)
    for layer in layer_noise(KEY, 0, padded.audio, padded.place, WIDTHS):
        assert not layer[~padded.audio.is_real].any()


def test_micro_batches_and_ranks_change_nothing(batches):
    """Clips dealt in turn to three slots keep the noise of their place in the global batch."""
    clips = batches.clips("av a av v a av a")
    whole = batches.of(clips)
    expected = noise_of(whole.audio, whole.place)
    found = {}
    for slot in range(3):
        part = batches.of(clips[slot::3])
        found |= noise_of(part.audio, slot + 3 * torch.arange(part.clips))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[place], expected[place]) for place in expected)


def test_it_is_standard_normal(batches):
    batch = batches.of(batches.clips(" ".join(["a"] * 200)))
    numbers = torch.cat([value.flatten() for value in noise_of(batch.audio, batch.place).values()])
    assert len(numbers) > 30_000
    assert float(numbers.mean()) == pytest.approx(0, abs=0.02)
    assert float(numbers.std()) == pytest.approx(1, abs=0.02)
    assert float(numbers.pow(4).mean()) == pytest.approx(3, abs=0.2)


def test_layers_have_the_shapes_that_were_asked_for(batch):
    rows, frames = batch.audio.is_real.shape
    shapes = [tuple(layer.shape) for layer in layer_noise(KEY, 0, batch.audio, batch.place, WIDTHS)]
    assert shapes == [(rows, frames, width) for width in WIDTHS]
