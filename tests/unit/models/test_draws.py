"""Bytes by counter: SplitMix64 to the bit, and independent along every axis of their key."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from vavl.models import ladder as ladder_module
from vavl.models.conformer import number_streams
from vavl.models.draws import (
    DrawKey,
    Dropout,
    SequentialWithDropout,
    keys_of_rows,
    mixed,
    random_bytes,
    random_choices,
    where_kept,
)
from vavl.models.ladder import layer_noise

KEY = DrawKey(seed=3, step=5)
PLACES = torch.arange(40)
CHANNELS = 38


def bytes_of(key=KEY, place=PLACES, group=0, stream=0, count=4096) -> torch.Tensor:
    return random_bytes(keys_of_rows(key, place, group), stream, count)


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack((one.flatten(), other.flatten())).double())[0, 1])


def test_the_generator_is_splitmix64():
    """Against the published first outputs of seed 1234567 (Vigna's splitmix64.c)."""
    increment = 0x9E3779B97F4A7C15 - 2**64
    drawn = random_bytes(torch.tensor([1234567 + increment]), 0, 24).contiguous().view(torch.int64)[0]
    assert [int(one) % 2**64 for one in drawn] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 4095])
def test_the_first_bytes_of_a_row_do_not_depend_on_how_many_are_drawn(count):
    found = bytes_of(count=count)
    assert found.shape == (len(PLACES), count)
    assert torch.equal(found, bytes_of()[:, :count])


@pytest.mark.parametrize("level", [1, 2, 26, 127, 128, 129, 200, 255])
def test_choices_are_the_comparison_of_the_bytes(level):
    """Byte by byte in the reference, eight at a time in the quick form."""
    rows = keys_of_rows(DrawKey(3, 1), torch.arange(40), 0)
    expected = random_bytes(rows, 5, 1001) >= level
    assert torch.equal(random_choices(rows, 5, 1001, level), -expected.to(torch.int8))


def test_a_row_has_its_bytes_in_any_company():
    whole = bytes_of()
    for order in (torch.tensor([7]), torch.tensor([30, 2, 39]), PLACES.flip(0)):
        assert torch.equal(bytes_of(place=order), whole[order])


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**64 - 1, 2**70])
def test_any_seed_and_step_are_taken(seed):
    assert not torch.equal(bytes_of(DrawKey(seed, 0)), bytes_of(DrawKey(seed, 10**6)))


def test_every_byte_is_uniform():
    drawn = bytes_of(count=32_768).flatten()
    counts = torch.bincount(drawn.int(), minlength=256)
    expected = len(drawn) / 256
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert 150 < chi_square < 380  # 255 degrees of freedom: 7 deviations to either modality


def test_rows_steps_seeds_groups_and_streams_are_independent():
    """Changes of one in any part of the key, and of two parts at once in opposite directions."""
    known = {
        (seed, step, group, stream): bytes_of(DrawKey(seed, step), PLACES, group, stream)
        for seed, step, group, stream in itertools.product((3, 4), (5, 6), (0, 1), (0, 1))
    }
    limit = 6 / (len(PLACES) * 4096) ** 0.5
    for one, other in itertools.combinations(known.values(), 2):
        assert abs(correlation(one, other)) < limit
        assert abs(correlation(one[:-1], other[1:])) < limit  # the next place


def test_rows_of_one_draw_are_independent_of_each_other():
    found = torch.corrcoef(bytes_of(count=8192).double()) - torch.eye(len(PLACES))
    assert float(found.abs().max()) < 6 / 8192**0.5
    shifted = [correlation(bytes_of()[:, lag:], bytes_of()[:, :-lag]) for lag in (1, 2, 7, 8, 16, 64, 512)]
    assert max(map(abs, shifted)) < 6 / (len(PLACES) * 3584) ** 0.5


def test_single_bits_are_independent_of_bits_beside_them_and_in_the_next_draw():
    drawn = bytes_of(count=8000).contiguous().view(torch.int64)
    bits = torch.stack([(drawn >> bit) & 1 for bit in range(64)]).double()
    limit = 6 / drawn.numel() ** 0.5
    assert float((bits.mean(dim=(1, 2)) - 0.5).abs().max()) < limit / 2
    within = torch.corrcoef(bits.flatten(1)) - torch.eye(64)
    assert float(within.abs().max()) < limit
    both = torch.cat((bits[:, :, :-1].flatten(1), bits[:, :, 1:].flatten(1)))
    assert float((torch.corrcoef(both) - torch.eye(128)).abs().max()) < limit


def test_the_draws_neither_use_nor_change_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = bytes_of()
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(bytes_of(), first)


def test_mixed_numbers_keep_their_order_apart():
    found = {mixed(*numbers) for numbers in itertools.permutations((1, 2, 3))}
    assert len(found) == 6
    assert all(0 <= one < 2**64 for one in found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_draws_the_same():
    on_gpu = random_bytes(keys_of_rows(KEY, PLACES.cuda(), 1), 7, 4099)
    assert torch.equal(on_gpu.cpu(), bytes_of(group=1, stream=7, count=4099))


def noise_of(side, place, key=KEY, stream=0) -> dict[int, torch.Tensor]:
    """Return the noise of the real frames of each clip, all layers side by side, by place."""
    drawn = layer_noise(key, stream, side, place, CHANNELS)
    numbers = place[side.clip].tolist()
    return {number: drawn[row, side.is_real[row]] for row, number in enumerate(numbers)}


class TestNoise:
    """Noise of a clip: a function of seed, step, place and stream, and of nothing else."""

    @pytest.fixture(params=["generators", "counter"], autouse=True)
    def _way(self, request, monkeypatch):
        """Draw as on a CPU, then as on a GPU."""
        if request.param == "counter":
            monkeypatch.setattr(ladder_module, "_draws_by_generators", lambda _: False)

    @pytest.fixture
    def batch(self, batches):
        return batches.of(batches.clips("av a av v a av"))

    def test_the_same_key_gives_the_same_noise_whatever_happens_in_between(self, batch):
        first = noise_of(batch.audio, batch.place)
        torch.randn(7)
        again = noise_of(batch.audio, batch.place)
        assert first.keys() == again.keys() == {0, 1, 2, 4, 5}
        assert all(torch.equal(first[place], again[place]) for place in first)

    def test_the_draws_leave_the_global_generator_alone(self, batch):
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        noise_of(batch.audio, batch.place)
        assert torch.equal(torch.rand(3), expected)

    @pytest.mark.parametrize(
        "change", [{"key": DrawKey(4, 5)}, {"key": DrawKey(3, 6)}, {"stream": 1}], ids=["seed", "step", "stream"]
    )
    def test_another_seed_step_or_stream_gives_other_noise(self, batch, change):
        first, other = noise_of(batch.audio, batch.place), noise_of(batch.audio, batch.place, **change)
        for place in first:
            assert (first[place] - other[place]).abs().min() > 0

    def test_clips_layers_and_frames_are_independent(self, batch):
        drawn = noise_of(batch.audio, batch.place)
        numbers = torch.cat([value.flatten() for value in drawn.values()])
        assert len(numbers.unique()) == len(numbers)

    def test_padding_and_what_it_holds_change_nothing(self, batches, batch):
        padded = batches.padded(batch, 9, float("nan"))
        first, other = noise_of(batch.audio, batch.place), noise_of(padded.audio, padded.place)
        assert all(torch.equal(first[place], other[place]) for place in first)
        assert not layer_noise(KEY, 0, padded.audio, padded.place, CHANNELS)[~padded.audio.is_real].any()

    def test_micro_batches_and_ranks_change_nothing(self, batches):
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

    def test_it_is_standard_normal(self, batches):
        batch = batches.of(batches.clips(" ".join(["a"] * 200)))
        numbers = torch.cat([value.flatten() for value in noise_of(batch.audio, batch.place).values()])
        assert len(numbers) > 30_000
        assert float(numbers.mean()) == pytest.approx(0, abs=0.02)
        assert float(numbers.std()) == pytest.approx(1, abs=0.02)
        assert float(numbers.pow(4).mean()) == pytest.approx(3, abs=0.2)


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


def test_nothing_but_the_keys_is_kept_for_the_backward() -> None:
    kept: list[torch.Tensor] = []
    values = torch.randn(4, 30, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        Dropout(0.25)(values, rows_for(4))
    assert sum(one.nbytes for one in kept) == rows_for(4).nbytes


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


DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_kept_is_itself_and_nothing_survives_elsewhere(dtype):
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, -1.0, 2.5], dtype=dtype)
    assert where_kept(values, torch.tensor([0, 0, 0, 0, -1], dtype=torch.int8)).tolist() == [0, 0, 0, 0, 2.5]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_drops_the_same(dtype: torch.dtype) -> None:
    values = torch.randn(16, 125, 33, dtype=dtype)
    on_gpu = Dropout(0.3)(values.cuda(), rows_for(16).cuda())
    assert torch.equal(on_gpu.cpu(), Dropout(0.3)(values, rows_for(16)))
