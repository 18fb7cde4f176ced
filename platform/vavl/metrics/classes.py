"""Scores of class predictions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, log_loss

_CALIBRATION_BINS = 15


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
    counts: NDArray[np.int64] = confusion_matrix(
        target.argmax(axis=1), probabilities.argmax(axis=1), labels=np.arange(target.shape[1])
    )
    return counts


def calibration_error(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Return the expected calibration error over 15 equal bins of confidence (Guo et al., ICML 2017)."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    count = np.bincount(bins, minlength=_CALIBRATION_BINS)
    gap = np.abs(
        np.bincount(bins, weights=confidence, minlength=_CALIBRATION_BINS)
        - np.bincount(bins, weights=right, minlength=_CALIBRATION_BINS)
    )
    return float(gap.sum() / count.sum())
