"""The mean over the real frames of a clip; dropout by keyed bytes: its rate, and what an element's fate depends on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vavl.models.draws import DrawKey, keys_of_rows, random_bytes
from vavl.models.layers import Dropout, SequentialWithDropout, masked_mean, number_streams


@pytest.fixture
def frames():
    return torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))


IS_REAL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)


def test_it_is_the_mean_of_the_real_frames(frames):
    expected = torch.stack([frames[0].mean(0), frames[1, :2].mean(0), frames[2, 0]])
    torch.testing.assert_close(masked_mean(frames, IS_REAL), expected)


@pytest.mark.parametrize("garbage", [1e30, math.inf, math.nan])
def test_the_content_of_padding_leaves_no_trace(frames, garbage):
    filled = frames.masked_fill(~IS_REAL.unsqueeze(-1), garbage)
    assert torch.equal(masked_mean(filled, IS_REAL), masked_mean(frames, IS_REAL))


def test_padding_gets_no_gradient(frames):
    filled = frames.masked_fill(~IS_REAL.unsqueeze(-1), math.nan).requires_grad_()
    masked_mean(filled, IS_REAL).sum().backward()
    expected = IS_REAL / IS_REAL.sum(1, keepdim=True)
    torch.testing.assert_close(filled.grad, expected.unsqueeze(-1).expand(-1, -1, 4))


def test_a_clip_of_padding_alone_is_zero(frames):
    assert torch.equal(masked_mean(frames, torch.zeros(3, 5, dtype=torch.bool)), torch.zeros(3, 4))


def test_gradient_is_that_of_finite_differences(frames):
    double = frames.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: masked_mean(x, IS_REAL), double)


KEY = DrawKey(seed=3, step=5)


def rows_for(count: int, key: DrawKey = KEY, group: int = 0) -> torch.Tensor:
    return keys_of_rows(key, torch.arange(count), group)


def dropped(shape: tuple[int, ...], probability: float = 0.25, stream: int = 0, **key) -> torch.Tensor:
    """Return 1 where an element of ones was dropped."""
    module = Dropout(probability)
    module.stream = stream
    return (module(torch.ones(shape), rows_for(shape[0], **key)) == 0).float()


def test_share_and_mean_are_right_and_neighbours_are_independent() -> None:
    shape = (1000, 1003)
    values = Dropout(0.25)(torch.ones(shape), rows_for(1000))
    assert (values == 0).float().mean().item() == pytest.approx(0.25, abs=0.002)
    assert values.mean().item() == pytest.approx(1, abs=0.003)
    # Eight neighbors share one 64-bit draw: none of its bytes may follow another, nor be biased.
    flat = (values == 0).float()[:, :1000].reshape(-1, 8)
    assert flat.mean(dim=0).sub(0.25).abs().max().item() < 0.005
    assert torch.corrcoef(flat.T).sub(torch.eye(8)).abs().max().item() < 0.02


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.2, 0.5, 0.9])
def test_the_expectation_is_exact_at_the_rounded_probability(probability: float) -> None:
    levels = round(256 * probability)
    values = Dropout(probability)(torch.ones(2000, 1000), rows_for(2000))
    assert values.unique().tolist() == pytest.approx([0, 256 / (256 - levels)])
    share = levels / 256
    assert (values == 0).double().mean().item() == pytest.approx(share, abs=5 * (share * (1 - share) / 2e6) ** 0.5)


@pytest.mark.parametrize(
    "change",
    [{"key": DrawKey(4, 5)}, {"key": DrawKey(3, 6)}, {"group": 1}, {"stream": 1}],
    ids=["seed", "step", "modality", "stream"],
)
def test_other_seeds_steps_modalities_and_streams_drop_independently(change) -> None:
    shape = (400, 50, 20)
    pair = torch.stack((dropped(shape).flatten(), dropped(shape, **change).flatten()))
    assert abs(torch.corrcoef(pair)[0, 1].item()) < 0.01


def test_rows_frames_and_channels_drop_independently() -> None:
    zero = dropped((300, 60, 24))
    for one, other in (
        (zero[1:], zero[:-1]),
        (zero[:, 1:], zero[:, :-1]),
        (zero[..., 1:], zero[..., :-1]),
        (zero[..., 8:], zero[..., :-8]),
    ):
        assert abs(torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1].item()) < 0.01
    for axes in ((1, 2), (0, 2), (0, 1)):
        assert zero.mean(dim=axes).sub(0.25).abs().max().item() < 0.06


@pytest.mark.parametrize("width", [16, 5])
def test_neither_padding_nor_batch_mates_change_what_a_row_loses(width: int) -> None:
    whole = dropped((6, 11, width))
    assert torch.equal(dropped((6, 29, width))[:, :11], whole)
    alone = Dropout(0.25)(torch.ones(2, 11, width), rows_for(6)[[4, 1]])
    assert torch.equal((alone == 0).float(), whole[[4, 1]])


def test_nothing_is_dropped_in_evaluation_at_probability_zero_and_without_keys() -> None:
    values = torch.randn(7, 5)
    assert Dropout(0.5).eval()(values, rows_for(7)) is values
    assert Dropout(0.0)(values, rows_for(7)) is values
    assert Dropout(0.5)(values, None) is values


def test_gradient_is_zero_where_a_value_was_dropped_and_the_keys_decide() -> None:
    values = torch.randn(64, 33, requires_grad=True)
    first = Dropout(0.5)(values, rows_for(64))
    first.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad == 0, first == 0)
    torch.rand(5)
    assert torch.equal(Dropout(0.5)(values, rows_for(64)), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.75])
def test_it_is_the_product_with_the_plain_comparison_of_bytes_to_the_last_bit(probability, dtype) -> None:
    """In value and gradient, also where rows have no multiple of eight elements."""
    dropout, rows = Dropout(probability), rows_for(9)
    found, plain = (torch.randn(9, 7, 5, generator=torch.Generator().manual_seed(0)).to(dtype) for _ in range(2))
    is_kept = (random_bytes(rows, dropout.stream, 35) >= round(256 * probability)).view(9, 7, 5)
    above = torch.randn(9, 7, 5).to(dtype)
    scale = 256 / (256 - round(256 * probability))
    outputs = (dropout(found.requires_grad_(), rows), plain.requires_grad_() * is_kept.to(dtype) * scale)
    for output in outputs:
        output.backward(above)
    assert torch.equal(*outputs)
    assert torch.equal(found.grad, plain.grad)


def test_a_byte_per_element_is_kept_for_the_backward() -> None:
    kept: list[torch.Tensor] = []
    values = torch.randn(4, 30, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        Dropout(0.25)(values, rows_for(4))
    assert sum(one.nbytes for one in kept) == values.numel()


def test_every_dropout_of_a_network_gets_a_stream_of_its_own() -> None:
    network = nn.Sequential(Dropout(0.1), nn.Sequential(nn.Linear(2, 2), Dropout(0.1)), Dropout(0.1))
    number_streams(network)
    assert [module.stream for module in network.modules() if isinstance(module, Dropout)] == [0, 1, 2]


def test_a_chain_hands_its_keys_to_every_dropout() -> None:
    chain = SequentialWithDropout(Dropout(0.5), nn.Identity(), Dropout(0.5))
    number_streams(chain)
    values = torch.ones(50, 40)
    found = chain(values, rows_for(50))
    assert torch.equal(found, chain[2](chain[0](values, rows_for(50)), rows_for(50)))
    assert (found == 0).float().mean().item() == pytest.approx(0.75, abs=0.05)
    assert torch.equal(chain(values), values)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_drops_the_same(dtype: torch.dtype) -> None:
    values = torch.randn(16, 125, 33, dtype=dtype)
    on_gpu = Dropout(0.3)(values.cuda(), rows_for(16).cuda())
    assert torch.equal(on_gpu.cpu(), Dropout(0.3)(values, rows_for(16)))
