"""Pseudo-labels: what the network says of unlabeled clips when it is sure (Sohn et al. 2020).

The label of a clip is the most probable class of the surest of the conditions it offers. No gradient
goes to the labels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
        votes: (clips, conditions), int64: class that each of CONDITIONS says; -1 where it says none.
    """

    probabilities: Tensor
    is_unlabelled: Tensor
    votes: Tensor


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

    @classmethod
    def of(cls, values: Sequence[float]) -> ConfidenceState:
        """Return the state from the numbers of a ``RunningConfidence``."""
        return cls(confidence=values[0], by_class=tuple(values[1:]))

    def on(self, device: torch.device) -> RunningConfidence:
        """Bring it to a device, without waiting for it as a copy from the host would."""
        numbers = [self.confidence, *self.by_class]
        filled = [torch.full((), number, dtype=torch.float64, device=device) for number in numbers]
        return RunningConfidence(torch.stack(filled))


@dataclass(frozen=True)
class RunningConfidence:
    """A ``ConfidenceState`` on the device of a step, which resumes without reading it.

    Attributes:
        values: (1 + classes,), float64: the confidence, then that by class.
    """

    values: Tensor

    def after(self, moments: Moments, momentum: float) -> RunningConfidence:
        """Return the state after a step whose global moments are ``guess_moments``; the same without any clip."""
        new = torch.cat((moments["confidence"].reshape(1), moments["by_class"])) / moments["count"]
        moved = momentum * self.values + (1 - momentum) * new
        return RunningConfidence(torch.where(moments["count"] > 0, moved, self.values))

    def thresholds(self, settings: PseudoLabelSettings) -> Tensor:
        """Return (classes,), float32: the least confidence (FreeMatch, eq. 6; FixMatch's constant if not adaptive)."""
        by_class = self.values[1:]
        if not settings.adaptive:
            return torch.full_like(by_class, settings.threshold).float()
        return (self.values[0] * by_class / by_class.max()).float()


def guess(output: VavlOutput, view: WeakView, clips: int, conditions: Collection[str] = CONDITIONS) -> Guess:
    """Take the surest condition of every unlabeled clip.

    Args:
        output: of the weak view.
        view: the weak view.
        clips: clips of the micro-batch.
        conditions: those whose heads labels train; another head's confidence means nothing.
    """
    probabilities = output.fusion_logits.new_zeros(clips, output.fusion_logits.shape[1], dtype=torch.float32)
    is_candidate = torch.zeros_like(probabilities[:, 0])
    votes = torch.full((clips, len(CONDITIONS)), -1, dtype=torch.int64, device=probabilities.device)
    offers = predictions(output, view.batch, labelled_only=False)
    for condition in sorted(conditions):
        found = offers[condition]
        sure = torch.softmax(found.logits.detach().float(), dim=-1)
        offered = torch.where(found.weight > 0, 1.0, 0.0)
        place = view.clip[found.clip]
        rows = torch.zeros_like(probabilities).index_copy(0, place, sure * offered.unsqueeze(-1))
        is_surer = rows.amax(-1) > probabilities.amax(-1)
        probabilities = torch.where(is_surer.unsqueeze(-1), rows, probabilities)
        is_candidate = torch.maximum(is_candidate, torch.zeros_like(is_candidate).index_copy(0, place, offered))
        votes[place, CONDITIONS.index(condition)] = torch.where(found.weight > 0, sure.argmax(-1), -1)
    return Guess(probabilities, is_candidate, votes)


def guess_moments(guessed: Guess) -> dict[str, Tensor]:
    """Sum over the unlabeled clips: ``count`` (), ``confidence`` (), ``by_class`` (classes,); float64."""
    return {
        "count": guessed.is_unlabelled.double().sum(),
        "confidence": guessed.probabilities.amax(-1).double().sum(),
        "by_class": guessed.probabilities.double().sum(0),
    }


def pseudo_target(guessed: Guess, thresholds: Tensor) -> PseudoTarget:
    """Keep the guesses that reach the threshold of their class; ``thresholds`` is (classes,), float32."""
    label = guessed.probabilities.argmax(-1)
    is_sure = (guessed.probabilities.amax(-1) >= thresholds[label]).float() * guessed.is_unlabelled
    # functional.one_hot reads the smallest label on a CPU.
    classes = torch.arange(guessed.probabilities.shape[1], device=label.device)
    return PseudoTarget((label.unsqueeze(-1) == classes).float(), is_sure)
