"""Scores as functions of sums over speakers, as ``metrics/paired.py`` draws them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vavl.metrics.classes import confidence_gaps, squared_distances
from vavl.metrics.paired import Statistic

Sums = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class SummedScore:
    """A score that sums over speakers decide.

    Attributes:
        sums: (clips, outputs) predicted and (clips, outputs) target of one speaker -> (sums,).
        statistic: (..., sums) -> (...).
    """

    sums: Sums
    statistic: Statistic


def class_measures() -> Mapping[str, SummedScore]:
    """Return accuracy, macro F1 and UAR of class predictions.

    ``accuracy`` is the mean over speakers of each speaker's share of right clips: no speaker counts
    more for having more clips. F1 and UAR are of the clips of all speakers of a run together: a
    speaker alone has too few clips of a class.
    """
    return {
        "accuracy": SummedScore(_right_share, _mean_of_sums),
        "f1_macro": SummedScore(_confusion, _f1_macro),
        "uar": SummedScore(_confusion, _uar),
    }


def attribute_measures(names: Sequence[str]) -> Mapping[str, SummedScore]:
    """Return ``ccc_mean`` and ``ccc_<name>`` of attribute predictions, over the clips of all speakers of a run."""
    each = {
        f"ccc_{name}": SummedScore(_moments, lambda sums, place=place: _ccc(sums)[..., place])  # type: ignore[misc]
        for place, name in enumerate(names)
    }
    return {"ccc_mean": SummedScore(_moments, lambda sums: _ccc(sums).mean(axis=-1)), **each}


def class_measures_over_clips() -> Mapping[str, SummedScore]:
    """Return the scores of ``class_scores`` and ``brier_score``, with all clips of all speakers together.

    Here ``accuracy`` is the share of right clips, so a speaker with more clips counts more.
    """
    return {
        "accuracy": SummedScore(_mean_of(lambda p, y: p.argmax(axis=1) == y.argmax(axis=1)), _mean_of_sums),
        "uar": SummedScore(_confusion, _uar),
        "f1_macro": SummedScore(_confusion, _f1_macro),
        "calibration_error": SummedScore(
            _calibration, lambda sums: _ratio(np.abs(sums[..., :-1]).sum(axis=-1), sums[..., -1])
        ),
        "brier": SummedScore(_mean_of(squared_distances), _mean_of_sums),
        "loss": SummedScore(_mean_of(_cross_entropy), _mean_of_sums),
    }


def attribute_measures_over_clips(names: Sequence[str]) -> Mapping[str, SummedScore]:
    """Return ``ccc_mean``, and ``ccc_``, ``rmse_`` and ``mae_<name>`` of each attribute, over all clips together."""
    found = dict(attribute_measures(names))
    for place, name in enumerate(names):
        squares = _mean_of(lambda p, y, place=place: np.square(p[:, place] - y[:, place]))  # type: ignore[misc]
        sizes = _mean_of(lambda p, y, place=place: np.abs(p[:, place] - y[:, place]))  # type: ignore[misc]
        found[f"rmse_{name}"] = SummedScore(squares, lambda sums: np.sqrt(_mean_of_sums(sums)))
        found[f"mae_{name}"] = SummedScore(sizes, _mean_of_sums)
    return found


def _mean_of(values: Sums) -> Sums:
    """Return sums that ``_mean_of_sums`` turns into the mean over clips of ``values``, (clips,)."""

    def sums(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([values(predicted, target).sum(), len(target)], dtype=np.float64)

    return sums


def _cross_entropy(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    stated = np.take_along_axis(predicted, target.argmax(axis=1)[:, None], axis=1)[:, 0]
    entropy: NDArray[np.float64] = -np.log(np.clip(stated, np.finfo(np.float64).eps, 1))
    return entropy


def _calibration(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.append(confidence_gaps(predicted, target.argmax(axis=1)), float(len(target)))


def sums_of_speakers(
    score: SummedScore, predicted: NDArray[np.float64], target: NDArray[np.float64], speakers: NDArray[np.str_]
) -> dict[str, NDArray[np.float64]]:
    """Return what each speaker adds to a score, as ``gather`` of ``metrics/paired.py`` takes it.

    ``predicted`` and ``target`` are (clips, outputs), ``speakers`` (clips,) names.
    """
    return {
        str(name): score.sums(predicted[speakers == name], target[speakers == name]) for name in np.unique(speakers)
    }


def _right_share(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([(predicted.argmax(axis=1) == target.argmax(axis=1)).mean(), 1.0])


def _mean_of_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return _ratio(sums[..., 0], sums[..., 1])


def _confusion(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    classes = target.shape[1]
    pairs = target.argmax(axis=1) * classes + predicted.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).astype(np.float64)


def _square(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    classes = round(sums.shape[-1] ** 0.5)
    return sums.reshape(*sums.shape[:-1], classes, classes)


def _f1_macro(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean F1 over all classes; 0 for a class that neither occurs nor is predicted (as scikit-learn's)."""
    counts = _square(sums)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    both = counts.sum(axis=-1) + counts.sum(axis=-2)
    f1 = np.divide(2 * right, both, out=np.zeros_like(both), where=both > 0).mean(axis=-1)
    return np.where(counts.sum(axis=(-2, -1)) > 0, f1, np.nan)


def _uar(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean recall over the classes that occur."""
    counts = _square(sums)
    clips = counts.sum(axis=-1)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    recall = np.divide(right, clips, out=np.zeros_like(clips), where=clips > 0)
    return _ratio(recall.sum(axis=-1), (clips > 0).sum(axis=-1).astype(np.float64))


def _moments(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    each = (np.ones_like(target), predicted, target, predicted**2, target**2, predicted * target)
    return np.stack([values.sum(axis=0) for values in each]).ravel()


def _ccc(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., attributes) Lin's concordance correlation from (..., 6 x attributes) moments."""
    count, p, y, pp, yy, py = np.moveaxis(sums.reshape(*sums.shape[:-1], 6, -1), -2, 0)
    safe = np.where(count > 0, count, 1.0)
    p, y, pp, yy, py = (value / safe for value in (p, y, pp, yy, py))
    spread = (pp - p**2) + (yy - y**2) + (p - y) ** 2
    ccc = np.divide(2 * (py - p * y), spread, out=np.zeros_like(spread), where=spread > 0)
    return np.where(count > 0, ccc, np.nan)


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
