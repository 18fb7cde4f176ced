"""Pseudo-labels: what a teacher predicts of clips without label, as targets for the network.

``soft`` averages the predictions of the conditions that a clip has (1/2 audio and video, 1/4 audio, 1/4 video, made to
sum to 1). Probabilities are then moved such that their running mean has the class shares of the labeled clips
(distribution alignment, Berthelot et al., ICLR 2020) and sharpened; every clip counts. Attributes count the less, the
more the conditions differ. ``hard`` takes the most probable class of the most confident condition, where that is
confident enough (FixMatch, Sohn et al. 2020). No gradient goes to the teacher.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vavl.data.batch import WeakView
from vavl.metrics.names import AUDIO, AUDIO_VIDEO, CONDITIONS, VIDEO
from vavl.models.settings import ClassTask, Task
from vavl.models.vavl import VavlOutput
from vavl.objectives.moments import Moments
from vavl.objectives.predictions import conditions_there, predictions
from vavl.objectives.settings import PseudoLabelSettings

CONDITION_SHARES = {AUDIO_VIDEO: 0.5, AUDIO: 0.25, VIDEO: 0.25}
_TINY = 1e-12


@dataclass(frozen=True)
class TeacherPrediction:
    """What a teacher predicts of the clips of a micro-batch.

    Attributes:
        values: (clips, outputs), float32: class probabilities or attributes; zeros where it predicts nothing.
        is_taught: (clips,), float32: 1 where it predicts something.
        variance: (clips, outputs), float32: between the conditions; 0 where there is one.
        votes: (clips, conditions), int64: class that each of CONDITIONS predicts; -1 where it predicts none.
    """

    values: Tensor
    is_taught: Tensor
    variance: Tensor
    votes: Tensor


@dataclass(frozen=True)
class PseudoTarget:
    """Pseudo-labels of a micro-batch.

    Attributes:
        target: (clips, outputs), float32: class probabilities or attributes.
        weight: (clips,), float32, from 0 to 1: how much each counts.
        variance: (outputs,), float32, of the labels: the unit of the squared error of attributes.
    """

    target: Tensor
    weight: Tensor
    variance: Tensor


@dataclass(frozen=True)
class LabelStatistics:
    """What pseudo-labels need to know of the labeled training clips.

    Attributes:
        mean: (outputs,), float64: shares of the classes, or means of the attributes.
        variance: (outputs,), float64.
    """

    mean: Tensor
    variance: Tensor

    def to(self, device: torch.device) -> LabelStatistics:
        """Copy to ``device``."""
        return LabelStatistics(self.mean.to(device), self.variance.to(device))


def combine_conditions(
    output: VavlOutput,
    view: WeakView,
    clips: int,
    task: Task,
    settings: PseudoLabelSettings,
    conditions: Collection[str] = CONDITIONS,
) -> TeacherPrediction:
    """Make one prediction of those of the conditions that each unlabeled clip has.

    Args:
        output: of the weak view.
        view: the weak view.
        clips: clips of the micro-batch.
        task: classes or attributes.
        settings: soft or hard.
        conditions: those whose heads labels train; another head's prediction means nothing.
    """
    values = predictions(output, view.batch).detach().float()  # (conditions, rows, outputs)
    offered = torch.stack(
        [
            there if condition in conditions else torch.zeros_like(there)
            for condition, there in zip(CONDITIONS, conditions_there(view.batch), strict=True)
        ]
    )
    votes = torch.full((len(CONDITIONS), clips), -1, dtype=torch.int64, device=values.device)
    if isinstance(task, ClassTask):
        values = torch.softmax(values, dim=-1)
        votes = votes.index_copy(1, view.clip, torch.where(offered > 0, values.argmax(-1), -1))
    found = values.masked_fill(offered.unsqueeze(-1) <= 0, 0)
    every = values.new_zeros(len(CONDITIONS), clips, values.shape[-1]).index_copy(1, view.clip, found)
    is_there = values.new_zeros(len(CONDITIONS), clips).index_copy(1, view.clip, offered)
    if settings.kind == "hard":
        best = every.amax(-1).argmax(0, keepdim=True)
        weight = torch.zeros_like(is_there).scatter(0, best, 1.0) * is_there
    else:
        shares = zip(CONDITIONS, is_there, strict=True)
        weight = torch.stack([CONDITION_SHARES[condition] * there for condition, there in shares])
        weight = weight / weight.sum(0).clamp_min(_TINY)
    mean = (weight.unsqueeze(-1) * every).sum(0)
    variance = (weight.unsqueeze(-1) * (every - mean).square()).sum(0)
    return TeacherPrediction(mean, is_there.amax(0), variance, votes.T)


def teacher_moments(predicted: TeacherPrediction) -> dict[str, Tensor]:
    """Sum over the taught clips: ``count`` () and ``values`` (outputs,); float64."""
    return {"count": predicted.is_taught.double().sum(), "values": predicted.values.double().sum(0)}


def running_mean(mean: Tensor, moments: Moments, momentum: float) -> Tensor:
    """Return the mean prediction (outputs,), float64, after a step; the same without any clip.

    Args:
        mean: before it.
        moments: of ``teacher_moments``, over the global batch.
        momentum: share of the mean before.
    """
    moved = momentum * mean + (1 - momentum) * moments["values"] / moments["count"]
    return torch.where(moments["count"] > 0, moved, mean)


def pseudo_target(
    predicted: TeacherPrediction, task: Task, settings: PseudoLabelSettings, labels: LabelStatistics, mean: Tensor
) -> PseudoTarget:
    """Turn a teacher's predictions into targets.

    Args:
        predicted: of the clips of a micro-batch.
        task: classes or attributes.
        settings: soft or hard.
        labels: of the labeled training clips.
        mean: of ``running_mean``, after this step.
    """
    values, is_taught, variance = predicted.values, predicted.is_taught, labels.variance.float().clamp_min(_TINY)
    if not isinstance(task, ClassTask):
        disagreement = (predicted.variance / variance).mean(-1)
        return PseudoTarget(values, is_taught / (1 + disagreement), variance)
    if settings.kind == "hard":
        label = values.argmax(-1)
        # functional.one_hot reads the smallest label on a CPU.
        classes = torch.arange(values.shape[1], device=values.device)
        confident = (values.amax(-1) >= settings.least_confidence).float()
        return PseudoTarget((label.unsqueeze(-1) == classes).float(), confident * is_taught, variance)
    if settings.align:
        values = values * (labels.mean / mean.clamp_min(_TINY)).float()
    # Divided by the largest first: powers of small numbers would vanish.
    sharp = (values / values.amax(-1, keepdim=True).clamp_min(_TINY)) ** (1 / settings.temperature)
    return PseudoTarget(sharp / sharp.sum(-1, keepdim=True).clamp_min(_TINY), is_taught, variance)


def on_device(numbers: Sequence[float], device: torch.device) -> Tensor:
    """Bring numbers (float64) to a device, without waiting for it as a copy from the host would."""
    return torch.stack([torch.full((), number, dtype=torch.float64, device=device) for number in numbers])
