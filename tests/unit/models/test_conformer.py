"""The Conformer block: the time axis, padding, and relative positions."""

from __future__ import annotations

import math

import pytest
import torch

from vavl.models.conformer import (
    ConformerBlock,
    ConformerBlocks,
    FeedForward,
    RotaryAttention,
    TimeConvolution,
    masked_mean,
    rotary_angles,
    rotate,
    split_heads,
)
from vavl.models.draws import DrawKey, keys_of_rows

FRAMES, WIDTH = 9, 16


@pytest.fixture
def block(tiny_settings):
    torch.manual_seed(0)
    return ConformerBlock(tiny_settings()).eval()


@pytest.fixture
def frames():
    return torch.randn(3, FRAMES, WIDTH, generator=torch.Generator().manual_seed(1))


def real(*lengths: int, frames: int = FRAMES) -> torch.Tensor:
    return torch.arange(frames) < torch.tensor(lengths).unsqueeze(1)


def test_a_block_keeps_the_shape(block, frames):
    assert block(frames, real(9, 4, 1)).shape == frames.shape


@torch.no_grad()
def test_a_block_is_half_feed_forward_attention_convolution_half_feed_forward_norm(block, frames):
    is_real = real(9, 4, 6)
    x = block.first_feed_forward(frames, weight=0.5)
    x = block.convolution(block.attention(x, is_real), is_real)
    x = block.second_feed_forward(x, weight=0.5)
    torch.testing.assert_close(block(frames, is_real)[is_real], block.norm(x)[is_real])


def test_a_clip_is_independent_of_its_batch_mates(block, frames):
    is_real = real(9, 4, 6)
    together = block(frames, is_real)
    alone = torch.cat([block(frames[row : row + 1], is_real[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(together[is_real], alone[is_real], atol=1e-5, rtol=1e-5)


def test_padding_does_not_reach_real_frames(block, frames):
    is_real = real(9, 4, 1)
    other = frames.masked_fill(~is_real.unsqueeze(-1), 1e4)
    torch.testing.assert_close(block(frames, is_real)[is_real], block(other, is_real)[is_real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", [RotaryAttention, TimeConvolution])
def test_attention_and_convolution_mix_frames_of_one_clip_only(tiny_settings, frames, part):
    """The gradient says who sees whom: every real frame of the own clip, nothing else."""
    torch.manual_seed(0)
    layer = part(tiny_settings(convolution_kernel=31)).eval()
    is_real = real(9, 4, 6)
    frames.requires_grad_()
    layer(frames, is_real)[1, 2].sum().backward()
    sees = frames.grad.abs().sum(dim=-1) > 0
    assert sees[1].tolist() == is_real[1].tolist()
    assert not sees[0].any()
    assert not sees[2].any()


def test_the_feed_forward_mixes_no_frames(tiny_settings, frames):
    layer = FeedForward(tiny_settings()).eval()
    frames.requires_grad_()
    layer(frames)[1, 2].sum().backward()
    assert (frames.grad.abs().sum(dim=-1) > 0).nonzero().tolist() == [[1, 2]]


def test_the_convolution_reaches_half_its_kernel_to_both_sides(tiny_settings, frames):
    layer = TimeConvolution(tiny_settings(convolution_kernel=5)).eval()
    frames.requires_grad_()
    layer(frames, real(9, 9, 9))[0, 4].sum().backward()
    assert (frames.grad[0].abs().sum(dim=-1) > 0).nonzero().flatten().tolist() == [2, 3, 4, 5, 6]


def test_no_layer_keeps_statistics_of_batches(block):
    assert not any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in block.modules())
    assert not list(block.buffers())


def test_training_and_evaluation_agree_without_dropout(block, frames):
    is_real = real(9, 4, 1)
    evaluated = block.eval()(frames, is_real)
    assert torch.equal(evaluated, block.train()(frames, is_real))


def test_every_source_of_dropout_is_off_in_evaluation_and_without_keys_and_on_in_training(tiny_settings, frames):
    first, other = (keys_of_rows(DrawKey(0, step), torch.arange(3), 0) for step in (1, 2))
    for part in (FeedForward, RotaryAttention, TimeConvolution):
        torch.manual_seed(0)
        layer = part(tiny_settings(dropout=0.5))
        arguments = (frames,) if part is FeedForward else (frames, real(9, 4, 1))
        plain = layer.eval()(*arguments)
        assert torch.equal(layer(*arguments, first), plain)
        dropped = layer.train()(*arguments, first)
        assert torch.equal(layer(*arguments), plain)
        assert torch.equal(layer(*arguments, first), dropped)
        assert (layer(*arguments, other) - dropped).abs().max() > 0.01, part
        assert (dropped - plain).abs().max() > 0.01, part


def test_attention_does_not_change_when_the_clip_starts_later(tiny_settings, frames):
    torch.manual_seed(0)
    attention = RotaryAttention(tiny_settings()).eval()
    plain = attention(frames, real(9, 9, 9))
    shift = 7
    later = torch.cat((torch.randn(3, shift, WIDTH), frames), dim=1)
    is_real = torch.arange(FRAMES + shift).expand(3, -1) >= shift
    torch.testing.assert_close(attention(later, is_real)[:, shift:], plain, atol=1e-5, rtol=1e-5)


def test_attention_knows_the_order_of_frames(tiny_settings, frames):
    torch.manual_seed(0)
    attention = RotaryAttention(tiny_settings()).eval()
    is_real = real(9, 9, 9)
    back = attention(frames.flip(1), is_real).flip(1)
    assert (attention(frames, is_real) - back).abs().max() > 1e-3


@torch.no_grad()
def test_attention_is_the_softmax_of_rotated_products(tiny_settings, frames):
    """Written out, without torch's fused kernel: softmax(query key' / sqrt(D)) value over the real frames."""
    torch.manual_seed(0)
    attention, is_real = RotaryAttention(tiny_settings()).eval(), real(9, 4, 1)
    qkv = attention.query_key_value(attention.norm(frames))
    query, key, value = split_heads(qkv, attention.heads)
    angles = rotary_angles(FRAMES, query.shape[-1], frames.device)
    score = rotate(query, *angles) @ rotate(key, *angles).transpose(-1, -2) * query.shape[-1] ** -0.5
    weight = score.masked_fill(~is_real[:, None, None, :], -torch.inf).softmax(dim=-1)
    gathered = attention.output((weight @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(frames, is_real), frames + gathered)


@torch.no_grad()
def test_the_convolution_is_conv1d_of_what_the_gate_lets_through(tiny_settings, frames):
    torch.manual_seed(0)
    layer, is_real = TimeConvolution(tiny_settings(convolution_kernel=5)).eval(), real(9, 4, 1)
    left, right = layer.expand(layer.norm(frames)).chunk(2, dim=-1)
    gated = (left * right.sigmoid() * is_real.unsqueeze(-1)).transpose(1, 2)
    kernel, bias = layer.depthwise.weight.squeeze(2), layer.depthwise.bias
    convolved = torch.nn.functional.conv1d(gated, kernel, bias, padding="same", groups=WIDTH).transpose(1, 2)
    mixed = layer.project(torch.nn.functional.silu(layer.depthwise_norm(convolved)))
    torch.testing.assert_close(layer(frames, is_real), frames + mixed)


def test_products_of_rotated_vectors_depend_on_their_distance_only():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8, generator=generator, dtype=torch.float64)
    cosine, sine = (angle.double() for angle in rotary_angles(40, 8, torch.device("cpu")))

    def product(at_query: int, at_key: int) -> float:
        turned = rotate(query, cosine[at_query], sine[at_query])
        return float((turned * rotate(key, cosine[at_key], sine[at_key])).sum())

    assert product(3, 7) == pytest.approx(product(30, 34), abs=1e-5)
    assert product(3, 7) != pytest.approx(product(3, 8), abs=1e-3)


def test_a_rotation_keeps_lengths():
    x = torch.randn(2, 3, 12, 8, generator=torch.Generator().manual_seed(0))
    cosine, sine = rotary_angles(12, 8, x.device)
    torch.testing.assert_close(rotate(x, cosine, sine).norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(rotate(x, cosine, sine)[:, :, 0], x[:, :, 0])


class TestActivationCheckpointing:
    BLOCKS = 3

    def run(self, tiny_settings, frames, checkpointing: bool) -> tuple[list[torch.Tensor], ConformerBlocks]:
        torch.manual_seed(0)
        blocks = ConformerBlocks(self.BLOCKS, tiny_settings(dropout=0.3), checkpointing)
        rows = keys_of_rows(DrawKey(0, 1), torch.arange(3), 0)
        noise = [None, 0.1 * frames.detach(), None]
        return blocks(frames, real(9, 4, 1), rows, noise), blocks

    def test_outputs_and_gradients_are_the_same_to_the_last_bit(self, tiny_settings, frames):
        found = []
        for checkpointing in (False, True):
            given = frames.clone().requires_grad_()
            layers, blocks = self.run(tiny_settings, given, checkpointing)
            torch.rand(7)  # nothing depends on a random state between forward and backward
            sum(layer.square().sum() for layer in layers).backward()
            found.append([*layers, given.grad, *(parameter.grad for parameter in blocks.parameters())])
        assert len(found[0]) > 10
        for plain, checkpointed in zip(*found, strict=True):
            assert torch.equal(plain, checkpointed)

    def test_a_block_keeps_no_more_than_its_input(self, tiny_settings, frames):
        """Counted where autograd saves; torch keeps the inputs of a checkpointed block beside that."""
        saved = []
        for checkpointing in (False, True):
            kept: dict[int, int] = {}

            def pack(tensor, kept=kept):
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            given = frames.clone().requires_grad_()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                self.run(tiny_settings, given, checkpointing)
            saved.append(sum(kept.values()) + self.BLOCKS * frames.nbytes * checkpointing)
        assert saved[1] < saved[0] / 2

    def test_without_gradient_every_block_runs_once(self, tiny_settings, frames):
        calls = []
        layers, blocks = self.run(tiny_settings, frames, checkpointing=True)
        blocks[0].register_forward_hook(lambda *_: calls.append(1))
        with torch.no_grad():
            again = blocks(frames, real(9, 4, 1), None, [None] * self.BLOCKS)
        assert calls == [1]
        assert not again[-1].requires_grad
        assert layers[-1].requires_grad


class TestMaskedMean:
    @pytest.fixture
    def frames(self):
        return torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))

    IS_REAL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)

    def test_it_is_the_mean_of_the_real_frames(self, frames):
        expected = torch.stack([frames[0].mean(0), frames[1, :2].mean(0), frames[2, 0]])
        torch.testing.assert_close(masked_mean(frames, self.IS_REAL), expected)

    @pytest.mark.parametrize("garbage", [1e30, math.inf, math.nan])
    def test_the_content_of_padding_leaves_no_trace(self, frames, garbage):
        filled = frames.masked_fill(~self.IS_REAL.unsqueeze(-1), garbage)
        assert torch.equal(masked_mean(filled, self.IS_REAL), masked_mean(frames, self.IS_REAL))

    def test_padding_gets_no_gradient(self, frames):
        filled = frames.masked_fill(~self.IS_REAL.unsqueeze(-1), math.nan).requires_grad_()
        masked_mean(filled, self.IS_REAL).sum().backward()
        expected = self.IS_REAL / self.IS_REAL.sum(1, keepdim=True)
        torch.testing.assert_close(filled.grad, expected.unsqueeze(-1).expand(-1, -1, 4))

    def test_a_clip_of_padding_alone_is_zero(self, frames):
        assert torch.equal(masked_mean(frames, torch.zeros(3, 5, dtype=torch.bool)), torch.zeros(3, 4))

    def test_gradient_is_that_of_finite_differences(self, frames):
        double = frames.double().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: masked_mean(x, self.IS_REAL), double)
