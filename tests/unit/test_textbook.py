"""The textbook side of the benchmarks: what it is compared by has to be right."""

from __future__ import annotations

import pytest
import torch
from textbook_blocks import TextbookBlock, relative_shift, relative_sinusoids
from textbook_training import TextbookTraining

from vavl.models.vavl import Vavl, parameter_count

FRAMES = 7
WIDTHS = (6, 5)


def real(*lengths: int) -> torch.Tensor:
    return torch.arange(FRAMES) < torch.tensor(lengths).unsqueeze(1)


@pytest.fixture
def training(tiny_settings):
    def make(**words) -> TextbookTraining:
        torch.manual_seed(0)
        return TextbookTraining(tiny_settings(), WIDTHS, 3, **words)

    return make


def test_the_shift_puts_each_distance_at_its_pair_of_frames():
    distances = torch.arange(FRAMES - 1, -FRAMES, -1.0).expand(1, 1, FRAMES, -1)
    frame = torch.arange(FRAMES)
    assert torch.equal(relative_shift(distances)[0, 0], (frame.unsqueeze(1) - frame).float())
    assert relative_sinusoids(FRAMES, 16, torch.device("cpu")).shape == (2 * FRAMES - 1, 16)


@torch.no_grad()
def test_a_block_in_evaluation_ignores_batch_mates_and_padding_and_sees_the_order(tiny_settings):
    torch.manual_seed(0)
    block = TextbookBlock(tiny_settings()).eval()
    frames, is_real = torch.randn(2, FRAMES, tiny_settings().width), real(7, 4)
    out = block(frames, is_real)
    alone = block(frames[1:].masked_fill(~is_real[1:].unsqueeze(-1), 100.0), is_real[1:])
    torch.testing.assert_close(alone[is_real[1:]], out[1][is_real[1]], atol=1e-5, rtol=1e-5)
    turned = block(frames[:1].flip(1), is_real[:1]).flip(1)
    assert (turned - out[:1]).abs().max() > 1e-3


@pytest.mark.parametrize("bf16", [False, True])
def test_steps_lower_all_three_losses(training, batches, bf16):
    batch, book = batches.of(batches.clips("av av av av av av av av")), training(bf16=bf16)
    first = book.step(batch)
    for _ in range(60):
        last = book.step(batch)
    assert set(first) == {"video", "audio", "fusion"}
    assert all(last[name] < first[name] for name in first), (first, last)


def test_the_backward_of_the_fusion_pass_reaches_the_encoders_unless_detached_and_trains_the_head_alone(
    training, batches
):
    batch = batches.of(batches.clips("av av av av"))
    weights = []
    for detached in (False, True):
        book = training(detached=detached)
        seen: list[int] = []
        book.audio.projection.weight.register_hook(lambda _, seen=seen: seen.append(1))
        torch.manual_seed(1)
        book.step(batch)
        assert len(seen) == 2 - detached
        weights.append([weight.clone() for module in book.modules() for weight in module.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))


def test_it_has_the_weights_of_the_platforms_network_but_for_norms_and_positions(training, tiny_settings):
    """The same products: next to them the attention has positions, and the platform has a bias-free f, g and h."""
    settings = tiny_settings()
    blocks = 2 * settings.modality_blocks + settings.shared_blocks
    positions = blocks * (settings.width**2 + 2 * settings.width)
    network = Vavl(settings, *WIDTHS, 3)
    functions = (2 * settings.width + 3) * settings.correlation_size
    assert training().parameter_count() - positions == parameter_count(network) - functions
