"""Scores of class predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    # Every training reads this file at its start, and scikit-learn takes longer to import than torch.
    from sklearn.metrics import f1_score, log_loss

    truth, predicted = target.argmax(axis=1), probabilities.argmax(axis=1)
    classes = np.arange(target.shape[1])
    confusion = confusion_counts(probabilities, target)
    occurring = confusion.sum(axis=1) > 0
    recall = np.diag(confusion)[occurring] / confusion.sum(axis=1)[occurring]
    return {
        "accuracy": float((truth == predicted).mean()),
        "f1_micro": float(f1_score(truth, predicted, labels=classes, average="micro", zero_division=0)),
        "f1_macro": float(f1_score(truth, predicted, labels=classes, average="macro", zero_division=0)),
        "uar": float(recall.mean()),
        "calibration_error": calibration_error(probabilities, truth),
        "loss": float(log_loss(truth, probabilities, labels=classes)),
    }


def confusion_counts(probabilities: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count clips by true class (row) and predicted class (column)."""
    from sklearn.metrics import confusion_matrix

    counts: NDArray[np.int64] = confusion_matrix(
        target.argmax(axis=1), probabilities.argmax(axis=1), labels=np.arange(target.shape[1])
    )
    return counts


@dataclass(frozen=True)
class ClassScore:
    """How one class is found.

    Attributes:
        precision: share of right clips among those predicted as the class; NaN if none was.
        recall: share of the class' clips that were found; NaN if it has none.
        f1: harmonic mean of both; 0 if it neither occurs nor is predicted.
        predicted: clips predicted as the class.
    """

    precision: float
    recall: float
    f1: float
    clips: int
    predicted: int


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


def brier_score(probabilities: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """Return the mean over clips of ``squared_distances`` (Brier 1950): 0 (certain, right) to 2 (certain, wrong)."""
    return float(squared_distances(probabilities, target).mean())


def squared_distances(probabilities: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (clips,), the squared distance to the truth, summed over classes; arguments as of ``class_scores``."""
    truth = np.eye(target.shape[1])[target.argmax(axis=1)]
    distances: NDArray[np.float64] = np.square(probabilities - truth).sum(axis=1)
    return distances


def calibration_error(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Return the expected calibration error over 15 equal bins of confidence (Guo et al., ICML 2017)."""
    return float(np.abs(confidence_gaps(probabilities, truth)).sum() / len(truth))


def confidence_gaps(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return per bin of confidence the sum of what is stated minus the clips that are right."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    stated = np.bincount(bins, weights=confidence, minlength=CALIBRATION_BINS)
    return np.asarray(stated - np.bincount(bins, weights=right, minlength=CALIBRATION_BINS), np.float64)
