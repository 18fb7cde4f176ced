"""Pseudo-labels: what the network says of unlabelled clips when it is sure (Sohn et al. 2020).

The label of a clip is the most probable class of the surest of the conditions it offers. No gradient
goes to the labels.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vavl.config.base import FrozenConfig
from vavl.data.batch import WeakView
from vavl.metrics.names import CONDITIONS
from vavl.models.vavl import VavlOutput
from vavl.objectives.moments import Moments
from vavl.objectives.predictions import predictions
from vavl.objectives.settings import PseudoLabelSettings


@dataclass(frozen=True)
class Guess:
    """What a teacher says of the clips of a micro-batch.

    Attributes:
        probabilities: (clips, classes), of the surest condition; zeros where there is nothing to guess.
        is_unlabelled: (clips,), float32: 1 where the clip is a candidate.
    """

    probabilities: Tensor
    is_unlabelled: Tensor


@dataclass(frozen=True)
class PseudoTarget:
    """Hard labels for a micro-batch.

    Attributes:
        target: (clips, classes), one-hot.
        is_sure: (clips,), float32: 1 where the label counts.
    """

    target: Tensor
    is_sure: Tensor


class ConfidenceState(FrozenConfig):
    """Running means behind the adaptive thresholds (FreeMatch, Wang et al., ICLR 2023, eq. 4 and 5)."""

    confidence: float
    by_class: tuple[float, ...]

    @classmethod
    def at_start(cls, classes: int) -> ConfidenceState:
        """Return the state of a network that knows nothing."""
        return cls(confidence=1 / classes, by_class=(1 / classes,) * classes)

    def after(self, moments: Moments, momentum: float) -> ConfidenceState:
        """Return the state after a step whose global moments are ``guess_moments``."""
        count = float(moments["count"])
        if count == 0:
            return self
        confidence = float(moments["confidence"]) / count
        by_class = (moments["by_class"] / count).tolist()
        return ConfidenceState(
            confidence=momentum * self.confidence + (1 - momentum) * confidence,
            by_class=tuple(
                momentum * old + (1 - momentum) * new
                for old, new in zip(self.by_class, by_class, strict=True)
            ),
        )

    def thresholds(self, settings: PseudoLabelSettings) -> tuple[float, ...]:
        """Return the least confidence per class (FreeMatch, eq. 6; FixMatch's constant when not adaptive)."""
        if not settings.adaptive:
            return (settings.threshold,) * len(self.by_class)
        most = max(self.by_class)
        return tuple(self.confidence * share / most for share in self.by_class)


def guess(output: VavlOutput, view: WeakView, clips: int, conditions: Collection[str] = CONDITIONS) -> Guess:
    """Take the surest condition of every unlabelled clip.

    Args:
        output: of the weak view.
        view: the weak view.
        clips: clips of the micro-batch.
        conditions: those whose heads labels train; another head's confidence means nothing.
    """
    probabilities = output.fusion_logits.new_zeros(clips, output.fusion_logits.shape[1], dtype=torch.float32)
    is_candidate = torch.zeros_like(probabilities[:, 0])
    offers = predictions(output, view.batch, labelled_only=False)
    for found in (offers[condition] for condition in sorted(conditions)):
        sure = torch.softmax(found.logits.detach().float(), dim=-1)
        offered = torch.where(found.weight > 0, 1.0, 0.0)
        place = view.clip[found.clip]
        rows = torch.zeros_like(probabilities).index_copy(0, place, sure * offered.unsqueeze(-1))
        is_surer = rows.amax(-1) > probabilities.amax(-1)
        probabilities = torch.where(is_surer.unsqueeze(-1), rows, probabilities)
        is_candidate = torch.maximum(
            is_candidate, torch.zeros_like(is_candidate).index_copy(0, place, offered)
        )
    return Guess(probabilities, is_candidate)


def guess_moments(guessed: Guess) -> dict[str, Tensor]:
    """Sum over the unlabelled clips: ``count`` (), ``confidence`` (), ``by_class`` (classes,); float64."""
    return {
        "count": guessed.is_unlabelled.double().sum(),
        "confidence": guessed.probabilities.amax(-1).double().sum(),
        "by_class": guessed.probabilities.double().sum(0),
    }


def pseudo_target(guessed: Guess, thresholds: tuple[float, ...]) -> PseudoTarget:
    """Keep the guesses that reach the threshold of their class."""
    label = guessed.probabilities.argmax(-1)
    least = torch.tensor(thresholds, device=label.device)[label]
    is_sure = (guessed.probabilities.amax(-1) >= least).float() * guessed.is_unlabelled
    return PseudoTarget(functional.one_hot(label, guessed.probabilities.shape[1]).float(), is_sure)
