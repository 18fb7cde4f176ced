"""Scores of attribute predictions (arousal, valence, dominance)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def attribute_scores(
    predicted: NDArray[np.float64], target: NDArray[np.float64], names: Sequence[str]
) -> dict[str, float]:
    """Score predicted attributes.

    Args:
        predicted: (clips, attributes).
        target: (clips, attributes).
        names: of the attributes.

    Returns:
        ``ccc_<name>`` and ``rmse_<name>`` per attribute, ``ccc_mean`` over them, and ``loss`` (sum of
        1 - CCC); empty for no clips.
    """
    if len(target) == 0:
        return {}
    ccc = concordance_of(predicted, target)
    error = np.sqrt(np.square(predicted - target).mean(axis=0))
    return {
        **{f"ccc_{name}": float(value) for name, value in zip(names, ccc, strict=True)},
        **{f"rmse_{name}": float(value) for name, value in zip(names, error, strict=True)},
        "ccc_mean": float(ccc.mean()),
        "loss": float((1 - ccc).sum()),
    }


def absolute_errors(
    predicted: NDArray[np.float64], target: NDArray[np.float64], names: Sequence[str]
) -> dict[str, float]:
    """Return ``mae_<name>``, the mean absolute error, per attribute; arguments as of ``attribute_scores``."""
    if len(target) == 0:
        return {}
    error = np.abs(predicted - target).mean(axis=0)
    return {f"mae_{name}": float(value) for name, value in zip(names, error, strict=True)}


def concordance_of(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Lin's concordance correlation per column; 0 where both are constant and equal.

    Args:
        predicted: (clips, attributes).
        target: (clips, attributes).
    """
    centered_p, centered_y = predicted - predicted.mean(axis=0), target - target.mean(axis=0)
    covariance = (centered_p * centered_y).mean(axis=0)
    shift = np.square(predicted.mean(axis=0) - target.mean(axis=0))
    spread = np.square(centered_p).mean(axis=0) + np.square(centered_y).mean(axis=0) + shift
    ccc: NDArray[np.float64] = np.divide(2 * covariance, spread, out=np.zeros_like(spread), where=spread > 0)
    return ccc
