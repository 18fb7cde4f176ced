"""Intervals over speakers, folds and seeds, and paired differences between two ways of training.

A run is one fold and one seed: it measures all speakers of its fold. Values of clips, of speakers of
one run, and of one speaker under several seeds are not independent. The intervals are percentile
bootstraps (Efron & Tibshirani 1993) that draw speakers with replacement, each with all of their clips,
and within every fold as many seeds as there are, also with replacement. Two ways of training are
compared under the same draws, so that what a speaker or a fold makes hard for both cancels out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""(..., sums) of some speakers -> (...) score; NaN where the sums hold no clip."""


def speaker_interval(
    values: NDArray[np.float64], speakers: Sequence[str], generator: np.random.Generator, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean over clips (Efron & Tibshirani 1993).

    Speakers are drawn with replacement, each with all of their clips. ``values`` and ``speakers`` are (clips,).

    Returns:
        Lower and upper bound; both the mean itself when there is one speaker only.
    """
    names, codes = np.unique(np.asarray(speakers), return_inverse=True)
    total, count = np.bincount(codes, weights=values), np.bincount(codes)
    drawn = generator.integers(len(names), size=(DRAWS, len(names)))
    means = total[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    lower, upper = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)


@dataclass(frozen=True)
class SpeakerSums:
    """What every speaker adds to the score of a run."""

    folds: NDArray[np.int64]  # (units,), fold of each unit; a unit is a speaker within a fold
    speakers: Sequence[str]  # (units,), name
    seeds: tuple[int, ...]
    sums: NDArray[np.float64]  # (units, seeds, sums), additive over speakers; NaN where the run is missing

    @property
    def runs(self) -> int:
        """Runs that are there: pairs of fold and seed."""
        there = self.present()
        return sum(int(there[self.folds == fold].any(axis=0).sum()) for fold in np.unique(self.folds))

    def present(self) -> NDArray[np.bool_]:
        """(units, seeds): the run is there."""
        return ~np.asarray(np.isnan(self.sums).any(axis=-1))

    def only(self, present: NDArray[np.bool_]) -> SpeakerSums:
        """Return the same with every other entry missing."""
        sums = np.where(present[..., None], self.sums, np.nan)
        return SpeakerSums(self.folds, self.speakers, self.seeds, sums)


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval; all NaN where nothing was measured."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True when the whole interval lies on one modality of zero."""
        return self.low > 0 or self.high < 0


def gather(runs: Mapping[tuple[int, int], Mapping[str, NDArray[np.float64]]]) -> SpeakerSums:
    """Put the sums of runs together.

    ``runs`` holds by (fold, seed) the sums of each speaker, all of one length.
    """
    units = sorted({(fold, speaker) for (fold, _), sums in runs.items() for speaker in sums})
    seeds = tuple(sorted({seed for _, seed in runs}))
    width = len(next(iter(next(iter(runs.values())).values())))
    sums = np.full((len(units), len(seeds), width), np.nan)
    for place, (fold, speaker) in enumerate(units):
        for column, seed in enumerate(seeds):
            found = runs.get((fold, seed), {}).get(speaker)
            if found is not None:
                sums[place, column] = found
    folds = np.array([fold for fold, _ in units], dtype=np.int64)
    return SpeakerSums(folds, tuple(speaker for _, speaker in units), seeds, sums)


def fold_scores(table: SpeakerSums, statistic: Statistic) -> dict[int, float]:
    """Return the score of each fold: of each run over all its speakers, then the mean over seeds."""
    ones = np.ones((1, len(table.speakers)))
    return {
        int(fold): float(_fold_score(table, fold, statistic, ones, np.ones((1, len(table.seeds))))[0])
        for fold in np.unique(table.folds)
    }


def score_interval(
    table: SpeakerSums, statistic: Statistic, seed: int = 0, level: float = 0.95, draws: int = DRAWS
) -> Interval:
    """Return the mean over folds of the mean over seeds of a score, with its interval."""
    value = _mean(np.array([list(fold_scores(table, statistic).values())]))[0]
    drawn = _replicates(table, statistic, seed, draws)
    return _interval(float(value), drawn, level)


def difference_interval(
    first: SpeakerSums,
    second: SpeakerSums,
    statistic: Statistic,
    seed: int = 0,
    level: float = 0.95,
    draws: int = DRAWS,
) -> Interval:
    """Return score of ``first`` minus that of ``second`` on the runs that both have, under the same draws."""
    first, second = _aligned(first, second)
    scores = [np.array([list(fold_scores(table, statistic).values())]) for table in (first, second)]
    value = _mean(scores[0] - scores[1])[0]
    drawn = _replicates(first, statistic, seed, draws) - _replicates(second, statistic, seed, draws)
    return _interval(float(value), drawn, level)


def _aligned(first: SpeakerSums, second: SpeakerSums) -> tuple[SpeakerSums, SpeakerSums]:
    """Restrict both to the units and seeds of both, and to the runs that are there in both."""
    units = sorted(set(_units(first)) & set(_units(second)))
    seeds = tuple(sorted(set(first.seeds) & set(second.seeds)))
    tables = [_at(table, units, seeds) for table in (first, second)]
    both = tables[0].present() & tables[1].present()
    return tables[0].only(both), tables[1].only(both)


def _units(table: SpeakerSums) -> list[tuple[int, str]]:
    return list(zip(table.folds.tolist(), table.speakers, strict=True))


def _at(table: SpeakerSums, units: Sequence[tuple[int, str]], seeds: tuple[int, ...]) -> SpeakerSums:
    places = {unit: place for place, unit in enumerate(_units(table))}
    rows, columns = [places[unit] for unit in units], [table.seeds.index(seed) for seed in seeds]
    folds = np.array([fold for fold, _ in units], dtype=np.int64)
    sums = table.sums[rows][:, columns]
    return SpeakerSums(folds, tuple(name for _, name in units), seeds, sums)


def _replicates(table: SpeakerSums, statistic: Statistic, seed: int, draws: int) -> NDArray[np.float64]:
    """(draws,) scores under drawn speakers and seeds; the draws depend on names, seeds and ``seed`` alone."""
    generator = np.random.default_rng(seed)
    names, code = np.unique(np.asarray(table.speakers), return_inverse=True)
    speakers = _counts(generator, len(names), draws)
    scores = []
    for fold in np.unique(table.folds):
        seeds = _counts(generator, len(table.seeds), draws)
        # A speaker that several folds measure is drawn for all of them or for none.
        scores.append(_fold_score(table, int(fold), statistic, speakers[:, code], seeds))
    return _mean(np.stack(scores, axis=1)) if scores else np.full(draws, np.nan)


def _counts(generator: np.random.Generator, things: int, draws: int) -> NDArray[np.float64]:
    """(draws, things): how often each is drawn, as often as there are things."""
    shares = np.full(things, 1 / things)
    return generator.multinomial(things, shares, size=draws).astype(np.float64)


def _fold_score(
    table: SpeakerSums, fold: int, statistic: Statistic, speakers: NDArray[np.float64], seeds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(draws,) score of one fold; NaN where no speaker or no finished run of it was drawn.

    ``speakers`` (draws, units) and ``seeds`` (draws, seeds) say how often each is drawn.
    """
    here = table.folds == fold
    sums, weight = table.sums[here], speakers[:, here]
    there = ~np.isnan(sums).any(axis=-1)
    total = np.einsum("du,usk->dsk", weight, np.where(there[..., None], sums, 0.0), optimize=True)
    scores = statistic(total)
    usable = seeds * ~np.isnan(scores)
    return _weighted_mean(scores, usable)


def _mean(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(draws, folds) -> (draws,): mean over the folds that have a score."""
    return _weighted_mean(scores, (~np.isnan(scores)).astype(np.float64))


def _weighted_mean(scores: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    count = weight.sum(axis=1)
    total = (weight * np.nan_to_num(scores)).sum(axis=1)
    mean: NDArray[np.float64] = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return mean


def _interval(value: float, drawn: NDArray[np.float64], level: float) -> Interval:
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
