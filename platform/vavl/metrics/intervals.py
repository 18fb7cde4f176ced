"""Intervals over speakers: clips of one speaker are not independent values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_DRAWS = 10_000


def speaker_interval(
    values: NDArray[np.float64], speakers: Sequence[str], generator: np.random.Generator, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean over clips (Efron & Tibshirani 1993).

    Speakers are drawn with replacement, each with all of their clips.

    Args:
        values: (clips,), e.g. 1 for a right prediction.
        speakers: of each clip.
        generator: of the draws.
        level: of the interval.

    Returns:
        Lower and upper bound; both the mean itself when there is one speaker only.
    """
    names, codes = np.unique(np.asarray(speakers), return_inverse=True)
    total, count = np.bincount(codes, weights=values), np.bincount(codes)
    drawn = generator.integers(len(names), size=(_DRAWS, len(names)))
    means = total[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    lower, upper = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)
