"""What the report of an evaluation states, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vavl.metrics.classes import ClassScore
from vavl.metrics.paired import Interval
from vavl.reports.pictures import ReliabilityBins
from vavl.training.training_content import YardstickNote


@dataclass(frozen=True)
class DegradedScore:
    """The main measure of one condition under one degradation.

    Attributes:
        kind: what was done, e.g. "noise in the sound"; one panel of the picture each.
        level: how much, e.g. "10 dB".
        condition: that was measured.
        score: of the degraded inputs.
        difference: from whole inputs, paired over speakers.
        clips: that were measured.
    """

    kind: str
    level: str
    condition: str
    score: Interval
    difference: Interval
    clips: int


@dataclass(frozen=True)
class EvaluationReport:
    """Everything that the report of an evaluation shows.

    Attributes:
        model: name and version, or folder.
        corpus: of the clips.
        split: that was measured.
        protocol: of the splits, with the fold.
        label_target: what the labels mean.
        measure: name of the main metric; ``is_share`` if it is shown in percent.
        scores: by condition, then by metric; bounds are NaN where there is no interval.
        outputs: classes or attributes, by name.
        confusion: counts (true class, predicted class) by condition; empty for attributes.
        reliability: by condition.
        bins: of the calibration error and of ``reliability``.
        classes: scores of each class by condition.
        speakers: the main measure of each speaker's clips, by condition.
        speaker_clips: clips of each speaker.
        values: (clips, attributes) predicted and true, by condition; empty for classes.
        degraded: in order.
        not_measured: why, by what was asked for.
        yardsticks: that the scores are held against.
        warnings: what makes the scores too high or hard to compare; marked at the top.
        notes: sentences for the end.
        origin: what was measured on what, in this order.
        facts: further facts, in this order.
        speaker_normalisation: features were normalised by unlabelled clips of each speaker.
    """

    model: str
    corpus: str
    split: str
    protocol: str
    label_target: str
    measure: str
    is_share: bool
    scores: Mapping[str, Mapping[str, Interval]]
    outputs: Sequence[str]
    confusion: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    reliability: Mapping[str, ReliabilityBins] = field(default_factory=dict)
    bins: int = 15
    classes: Mapping[str, Sequence[ClassScore]] = field(default_factory=dict)
    speakers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    speaker_clips: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)
    degraded: Sequence[DegradedScore] = ()
    not_measured: Mapping[str, str] = field(default_factory=dict)
    yardsticks: Sequence[YardstickNote] = ()
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    speaker_normalisation: bool = False

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions that were measured, in the order of every table."""
        return tuple(self.scores)

    @property
    def measure_title(self) -> str:
        """The main measure for people."""
        return "mean CCC" if self.measure == "ccc_mean" else self.measure

    def main(self, condition: str) -> Interval:
        """Return the main measure of whole inputs."""
        return self.scores[condition][self.measure]
