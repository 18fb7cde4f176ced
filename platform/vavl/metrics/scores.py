"""Scores of class and attribute predictions, and as functions of sums over speakers, as ``paired.py`` draws them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vavl.metrics.paired import Statistic

CALIBRATION_BINS = 15


def class_scores(probabilities: NDArray[np.float64], target: NDArray[np.float64]) -> dict[str, float]:
    """Score predicted class probabilities.

    Args:
        probabilities: (clips, classes), rows sum to 1.
        target: (clips, classes); the class with most votes is the truth (the first on a tie).

    Returns:
        ``accuracy``, ``f1_micro`` (equal to it), ``f1_macro``, ``uar`` (unweighted average recall over
        the classes that occur), ``calibration_error`` and ``loss`` (cross-entropy, nats); empty for
        no clips.
    """
    if len(target) == 0:
        return {}
    names = ("accuracy", "f1_macro", "uar", "calibration_error", "loss")
    scores = scores_over_clips(class_measures_over_clips(), probabilities, target)
    return {"accuracy": scores["accuracy"], "f1_micro": scores["accuracy"], **{name: scores[name] for name in names}}


def confusion_counts(probabilities: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count clips by true class (row) and predicted class (column)."""
    return _square(_confusion(probabilities, target)).astype(np.int64)


@dataclass(frozen=True)
class ClassScore:
    """How one class is found."""

    precision: float  # share of right clips among those predicted as the class; NaN if none was
    recall: float  # share of the class' clips that were found; NaN if it has none
    f1: float  # harmonic mean of both; 0 if it neither occurs nor is predicted
    clips: int
    predicted: int  # clips predicted as the class


def scores_of_classes(counts: NDArray[np.int64]) -> list[ClassScore]:
    """Return the scores of each class from counts (true class, predicted class)."""
    rows = zip(np.diag(counts), counts.sum(axis=1), counts.sum(axis=0), strict=True)
    return [
        ClassScore(
            precision=float(right / predicted) if predicted else float("nan"),
            recall=float(right / clips) if clips else float("nan"),
            f1=float(2 * right / (clips + predicted)) if clips + predicted else 0.0,
            clips=int(clips),
            predicted=int(predicted),
        )
        for right, clips, predicted in rows
    ]


def attribute_scores(
    predicted: NDArray[np.float64], target: NDArray[np.float64], names: Sequence[str]
) -> dict[str, float]:
    """Score predicted attributes.

    ``predicted`` and ``target`` are (clips, attributes).

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


def concordance_of(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Lin's concordance correlation per column; 0 where both are constant and equal.

    ``predicted`` and ``target`` are (clips, attributes).
    """
    centered_p, centered_y = predicted - predicted.mean(axis=0), target - target.mean(axis=0)
    covariance = (centered_p * centered_y).mean(axis=0)
    shift = np.square(predicted.mean(axis=0) - target.mean(axis=0))
    spread = np.square(centered_p).mean(axis=0) + np.square(centered_y).mean(axis=0) + shift
    ccc: NDArray[np.float64] = np.divide(2 * covariance, spread, out=np.zeros_like(spread), where=spread > 0)
    return ccc


Sums = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class SummedScore:
    """A score that sums over speakers decide."""

    sums: Sums  # (clips, outputs) predicted and (clips, outputs) target of one speaker -> (sums,)
    statistic: Statistic  # (..., sums) -> (...)


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
    """Return the scores of classes with all clips of all speakers together.

    Here ``accuracy`` is the share of right clips, so a speaker with more clips counts more. ``calibration_error`` is
    the expected one over 15 equal bins of confidence (Guo et al., ICML 2017); ``brier`` the squared distance to the
    truth, summed over classes (Brier 1950), from 0 (certain, right) to 2 (certain, wrong).
    """
    return {
        "accuracy": SummedScore(_mean_of(lambda p, y: p.argmax(axis=1) == y.argmax(axis=1)), _mean_of_sums),
        "uar": SummedScore(_confusion, _uar),
        "f1_macro": SummedScore(_confusion, _f1_macro),
        "calibration_error": SummedScore(
            _calibration, lambda sums: _ratio(np.abs(sums[..., :-1]).sum(axis=-1), sums[..., -1])
        ),
        "brier": SummedScore(_mean_of(_squared_distances), _mean_of_sums),
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


def scores_over_clips(
    measures: Mapping[str, SummedScore], predicted: NDArray[np.float64], target: NDArray[np.float64]
) -> dict[str, float]:
    """Return each score of (clips, outputs) ``predicted`` and ``target``."""
    return {name: float(one.statistic(one.sums(predicted, target))) for name, one in measures.items()}


def _mean_of(values: Sums) -> Sums:
    """Return sums that ``_mean_of_sums`` turns into the mean over clips of ``values``, (clips,)."""

    def sums(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([values(predicted, target).sum(), len(target)], dtype=np.float64)

    return sums


def _cross_entropy(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    stated = np.take_along_axis(predicted, target.argmax(axis=1)[:, None], axis=1)[:, 0]
    least = np.finfo(np.float64).eps  # as scikit-learn's log_loss
    entropy: NDArray[np.float64] = -np.log(np.clip(stated, least, 1 - least))
    return entropy


def _squared_distances(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    truth = np.eye(target.shape[1])[target.argmax(axis=1)]
    distances: NDArray[np.float64] = np.square(predicted - truth).sum(axis=1)
    return distances


def _calibration(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Per bin of confidence the sum of what is stated minus the clips that are right; then the clips."""
    confidence, right = predicted.max(axis=1), predicted.argmax(axis=1) == target.argmax(axis=1)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    stated, found = (np.bincount(bins, values, CALIBRATION_BINS) for values in (confidence, right))
    return np.append(stated - found, float(len(target)))


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
