"""Soft-HGR against theory: symmetries, closed forms, bounds, and parts that add up to the whole."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import pytest
import torch
from torch import Tensor

from vavl.objectives.hgr import correlation_moments, soft_hgr, soft_hgr_loss
from vavl.objectives.moments import add_moments, linked


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normal numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(first: Tensor, second: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return soft-HGR of one batch."""
    return soft_hgr(correlation_moments(first, second, torch.ones(len(first)) if weight is None else weight))


def by_definition(f: Tensor, g: Tensor) -> Tensor:
    """SCIENCE in one line: tr(F'G)/n - 1/2 <F'F/n, G'G/n> of centred F and G."""
    f, g, n = f - f.mean(0), g - g.mean(0), len(f) - 1
    return (f.T @ g).trace() / n - 0.5 * ((f.T @ f / n) * (g.T @ g / n)).sum()


def highest(functions, *shapes: tuple[int, ...], seed: int = 0) -> float:
    """Climb from a random start to the top of soft-HGR of ``functions(*parameters)``."""
    knobs = [(0.3 * drawn(*shape, seed=seed + place)).requires_grad_() for place, shape in enumerate(shapes)]
    ascent = torch.optim.LBFGS(knobs, max_iter=300, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        ascent.zero_grad()
        found = -value(*functions(*knobs))
        found.backward()
        return found

    ascent.step(loss)
    return -float(loss().detach())


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """Return F and G (20, 4) that depend on each other and are not centred."""
    f, noise = drawn(20, 4), drawn(20, 4, seed=1)
    return f + 1.5, 0.6 * f + 0.8 * noise - 0.7


def test_moments_give_the_value_of_the_definition(pair):
    torch.testing.assert_close(value(*pair), by_definition(*pair))
    assert value(*pair).abs() > 0.1


def test_it_is_symmetric(pair):
    f, g = pair
    torch.testing.assert_close(value(g, f), value(f, g))


def test_shifts_change_nothing(pair):
    f, g = pair
    torch.testing.assert_close(value(f + 100 * drawn(4, seed=2), g - 50 * drawn(4, seed=3)), value(f, g))


def test_the_order_of_the_clips_changes_nothing_but_their_pairing_does(pair):
    f, g = pair
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(value(f[order], g[order]), value(f, g))
    assert (value(f[order], g) - value(f, g)).abs() > 0.1


def test_a_map_and_its_inverse_transpose_change_nothing(pair):
    f, g = pair
    turn = drawn(4, 4, seed=5)
    torch.testing.assert_close(value(f @ turn, g @ torch.linalg.inv(turn).T), value(f, g))
    channels = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(value(f[:, channels], g[:, channels]), value(f, g))
    assert (value(f @ turn, g @ turn) - value(f, g)).abs() > 0.1


def test_gradients_are_those_of_finite_differences(pair):
    knobs = [side[:7].clone().requires_grad_() for side in pair]
    assert torch.autograd.gradcheck(lambda f, g: -value(f, g), knobs)


@pytest.mark.parametrize("cuts", [(7,), (3, 4), (1, 0, 4, 2)])
def test_gradients_of_linked_parts_are_those_of_finite_differences_of_the_whole(pair, cuts):
    """Each part has the whole's value, so its share of it counts; gradients add up in full."""

    def shared(f: Tensor, g: Tensor) -> Tensor:
        known = moments_of_parts(f, g, cuts)
        whole = reduce(add_moments, known)
        found = [-soft_hgr({name: linked(whole[name], part[name]) for name in part}) for part in known]
        return sum(one.detach() / len(cuts) + one - one.detach() for one in found)

    assert torch.autograd.gradcheck(shared, [side[:7].clone().requires_grad_() for side in pair])


def moments_of_parts(
    f: Tensor, g: Tensor, sizes: Sequence[int], weight: Tensor | None = None
) -> list[dict[str, Tensor]]:
    """Return the moments of each part of a batch that is cut into ``sizes``."""
    weight = torch.ones(len(f)) if weight is None else weight
    split = zip(*(torch.split(whole, list(sizes)) for whole in (f, g, weight)), strict=True)
    return [correlation_moments(*part) for part in split]


@pytest.mark.parametrize("sizes", [(20,), (10, 10), (13, 1, 0, 6), (1,) * 20])
@pytest.mark.parametrize("missing", [(), (0, 3, 19), range(1, 20)])
def test_parts_have_the_value_and_add_up_to_the_gradient_of_the_pooled_batch(pair, sizes, missing):
    weight = torch.ones(20)
    weight[list(missing)] = 0
    pooled = [side.clone().requires_grad_() for side in pair]
    expected = -value(*pooled, weight)
    expected.backward()
    knobs = [side.clone().requires_grad_() for side in pair]
    whole = {
        name: moment.detach() for name, moment in reduce(add_moments, moments_of_parts(*knobs, sizes, weight)).items()
    }
    for part in moments_of_parts(*knobs, sizes, weight):
        loss = soft_hgr_loss(whole, part)
        torch.testing.assert_close(loss, expected.detach().float())
        loss.backward()  # gradients of the parts add up, as an engine adds them
    for knob, one in zip(knobs, pooled, strict=True):
        torch.testing.assert_close(knob.grad, one.grad)


def test_a_mean_over_parts_would_be_another_loss(pair):
    halves = [value(side[:10], other[:10]) for side, other in (pair, [one.flip(0) for one in pair])]
    assert (torch.stack(halves).mean() - value(*pair)).abs() > 0.05


@pytest.mark.parametrize(("ranks", "cosine"), [(2, 0.93), (4, 0.76), (8, 0.48)])
def test_the_gradient_of_a_mean_over_ranks_points_elsewhere(ranks, cosine):
    """Global batch 64, K = 8, correlation .5: the more ranks, the further from the pooled gradient."""
    found = []
    for seed in range(30):
        f = drawn(64, 8, seed=seed)
        g = 0.5 * f + 0.75**0.5 * drawn(64, 8, seed=1000 + seed)
        sides = [side.requires_grad_() for side in (f, g)]
        apart = sum(value(f[rank::ranks], g[rank::ranks]) for rank in range(ranks)) / ranks
        flat = [torch.cat([one.flatten() for one in torch.autograd.grad(loss, sides)]) for loss in (value(f, g), apart)]
        found.append(torch.cosine_similarity(*flat, dim=0))
    assert float(torch.stack(found).mean()) == pytest.approx(cosine, abs=0.08)


class TestClosedForms:
    def test_gaussian_pairs_under_linear_maps_reach_half_of_rho_squared(self):
        rho = 0.7
        x, noise = drawn(100_000, 1), drawn(100_000, 1, seed=1)
        y = rho * x + (1 - rho**2) ** 0.5 * noise
        top = highest(lambda a, b: (x @ a, y @ b), (1, 1), (1, 1))
        assert top == pytest.approx(rho**2 / 2, abs=0.005)
        sample = float(torch.corrcoef(torch.cat((x, y), 1).T)[0, 1])
        assert top == pytest.approx(sample**2 / 2, abs=1e-9)

    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    def test_linear_maps_reach_half_the_squared_canonical_correlations(self, size):
        """Of the sample; with K below their number the largest K count."""
        x, y = drawn(300, 3), drawn(300, 4, seed=1)
        y[:, :3] += x @ drawn(3, 3, seed=2)
        x, y = x - x.mean(0), y - y.mean(0)
        bases = [torch.linalg.svd(side, full_matrices=False).U for side in (x, y)]
        canonical = torch.linalg.svdvals(bases[0].T @ bases[1])
        expected = 0.5 * float(canonical[:size].square().sum())
        assert highest(lambda a, b: (x @ a, y @ b), (3, size), (4, size)) == pytest.approx(expected, abs=1e-7)

    @pytest.mark.parametrize("size", [1, 2, 3, 6])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_tables_reach_half_the_squared_singular_values(self, size, seed):
        """Over all functions of two discrete variables, without the trivial constant pair."""
        counts = np.random.default_rng(seed).integers(1, 12, size=(4, 5))
        left, right = (torch.from_numpy(np.repeat(side, counts.ravel())) for side in np.indices((4, 5)).reshape(2, -1))
        joint = torch.from_numpy(counts / counts.sum())
        scale = torch.outer(joint.sum(1), joint.sum(0)).sqrt()
        dependence = joint / scale - scale
        u, s, v = torch.linalg.svd(dependence)
        expected = 0.5 * float(s[: min(size, 3)].square().sum())
        assert s[3] < 1e-12  # the trivial pair is gone, so a 4 x 5 table has three
        assert highest(lambda a, b: (a[left], b[right]), (4, size), (5, size)) == pytest.approx(expected, abs=1e-7)
        # The functions that theory names: singular vectors over the root of the marginal.
        kept, unbiased = min(size, 3), 1 - 1 / counts.sum()
        f = (unbiased * s[:kept]).sqrt() * u[:, :kept] / joint.sum(1).sqrt()[:, None]
        g = (unbiased * s[:kept]).sqrt() * v.T[:, :kept] / joint.sum(0).sqrt()[:, None]
        assert float(value(f[left], g[right])) == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize(("rows", "reads"), [(8, 0.80), (16, 1.43), (64, 1.86)])
    def test_small_batches_read_less_than_the_population_value(self, rows, reads):
        """K = 16, rho = .5: 2.0 in the population; in expectation 2 - K (K + 1) rho^4 / 2n."""
        size, rho, batches = 16, 0.5, 4000
        x, noise = drawn(batches, rows, size), drawn(batches, rows, size, seed=1)
        f, g = rho**0.5 * x, rho**0.5 * (rho * x + (1 - rho**2) ** 0.5 * noise)
        mean = float(torch.vmap(value)(f, g).mean())
        assert mean == pytest.approx(reads, abs=0.04)
        assert mean == pytest.approx(2 - size * (size + 1) * rho**4 / (2 * (rows - 1)), abs=0.03)


class TestBound:
    @pytest.mark.parametrize(("rows", "size"), [(2, 1), (2, 6), (5, 3), (5, 4), (5, 9), (12, 4)])
    def test_memorised_independent_data_reach_it(self, rows, size):
        bound = min(size, rows - 1) / 2
        assert highest(lambda f, g: (f, g), (rows, size), (rows, size)) == pytest.approx(bound, abs=1e-7)
        centred = torch.linalg.svd(torch.eye(rows, dtype=torch.float64) - 1 / rows).U[:, : rows - 1]
        same = (rows - 1) ** 0.5 * centred[:, :size]
        assert float(value(same, same)) == pytest.approx(bound, abs=1e-12)

    def test_nothing_exceeds_it(self):
        generator = np.random.default_rng(0)
        nearest = 1.0
        for trial in range(300):
            rows, size = int(generator.integers(2, 12)), int(generator.integers(1, 9))
            f = drawn(rows, size, seed=trial) * float(generator.uniform(0.1, 2))
            g = f * float(generator.uniform(0.5, 2)) + float(generator.choice([0, 0.1, 1])) * drawn(
                rows, size, seed=-trial
            )
            bound = min(size, rows - 1) / 2
            assert value(f, g) <= bound + 1e-9
            nearest = min(nearest, float(1 - value(f, g) / bound))
        assert nearest < 0.1  # the draws come close enough to mean something


class TestMissingSides:
    @pytest.mark.parametrize("garbage", [1e3, 1e30, float("inf"), float("nan")])
    def test_rows_without_a_side_change_nothing(self, pair, garbage):
        plain = [side.clone().requires_grad_() for side in pair]
        value(*plain).backward()
        knobs = [torch.cat((side, torch.full((3, 4), garbage))).requires_grad_() for side in pair]
        found = value(*knobs, torch.cat((torch.ones(20), torch.zeros(3))))
        torch.testing.assert_close(found, value(*pair))
        found.backward()
        for knob, one in zip(knobs, plain, strict=True):
            torch.testing.assert_close(knob.grad[:20], one.grad)
            assert torch.equal(knob.grad[20:], torch.zeros(3, 4, dtype=torch.float64))

    @pytest.mark.parametrize("rows", [0, 1])
    @pytest.mark.parametrize("more", [0, 2])
    def test_fewer_than_two_rows_give_0_and_no_gradient(self, rows, more):
        knobs = [drawn(rows + more, 4, seed=seed).requires_grad_() for seed in (0, 1)]
        moments = correlation_moments(*knobs, torch.cat((torch.ones(rows), torch.zeros(more))))
        loss = soft_hgr_loss({name: moment.detach() for name, moment in moments.items()}, moments)
        assert loss == 0
        loss.backward()
        assert all(torch.equal(knob.grad, torch.zeros_like(knob)) for knob in knobs)

    def test_a_part_with_a_single_row_counts_where_the_whole_has_two(self):
        f, g = (drawn(2, 3, seed=seed).requires_grad_() for seed in (0, 1))
        known = moments_of_parts(f, g, (1, 1))
        soft_hgr_loss(reduce(add_moments, known), known[0]).backward()
        assert f.grad[0].abs().max() > 0
        assert not f.grad[1].any()

    def test_a_batch_of_one_class_gives_0_and_no_gradient(self):
        """h(y) is the same for every clip: there is nothing to correlate with."""
        f = drawn(10, 4).requires_grad_()
        label_map = drawn(3, 4, seed=1).requires_grad_()
        one_class = torch.eye(3, dtype=torch.float64)[torch.ones(10, dtype=torch.int64)]
        found = value(f, one_class @ label_map)
        found.backward()
        for tensor in (found, f.grad, label_map.grad):
            torch.testing.assert_close(tensor, torch.zeros_like(tensor), atol=1e-12, rtol=0)


class TestPrecision:
    def test_autocast_and_float32_keep_their_digits(self, pair):
        """bf16 products would be off by a percent; a common shift of 100 costs float32 sums four digits."""
        f, g = (side.float() + 100 for side in pair)
        expected = by_definition(f.double(), g.double())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            moments = correlation_moments(f, g, torch.ones(20))
            found = soft_hgr_loss(moments, moments)
        assert {moment.dtype for moment in moments.values()} == {torch.float64}
        torch.testing.assert_close(found, -expected.float(), rtol=1e-6, atol=0)
