"""What the report of a comparison states, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ScorePoint:
    """A score or a difference with its 95 % interval.

    Attributes:
        name: objective set.
        fraction: labelled share of the training clips.
        share: share of pairs that were taken apart.
        condition: how clips are predicted.
        value, low, high: in the unit of the measure; shares from 0 to 1.
        runs: that it rests on.
        against: set that was subtracted; "" for a score.
    """

    name: str
    fraction: float
    share: float
    condition: str
    value: float
    low: float
    high: float
    runs: int
    against: str = ""

    @property
    def excludes_zero(self) -> bool:
        """True when the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class ComparisonReport:
    """Everything that the report of a comparison shows.

    Attributes:
        title: of the page.
        corpus: name of the corpus.
        protocol: name of the split protocol.
        label_target: what the labels mean.
        speaker_normalisation: features were normalised by unlabelled clips of each speaker.
        split: that was measured.
        measure: title of the main measure.
        is_share: the measure is a share, shown in percent.
        reference: set that the others are compared with.
        sets: all objective sets, in the order of every table and legend.
        scores: of the main measure.
        differences: of the main measure, to the reference and between further pairs.
        left_out: places of the grid that cannot be trained -> reason.
        failed: runs that failed -> reason.
        facts: what else to state, in this order.
        waived_audit: checks of the store's audit that were waived; marked at the top of the page.
    """

    title: str
    corpus: str
    protocol: str
    label_target: str
    speaker_normalisation: bool
    split: str
    measure: str
    is_share: bool
    reference: str
    sets: Sequence[str]
    scores: Sequence[ScorePoint]
    differences: Sequence[ScorePoint]
    left_out: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    waived_audit: Sequence[str] = ()

    @property
    def fractions(self) -> list[float]:
        """Labelled fractions that have a score, ascending."""
        return sorted({point.fraction for point in self.scores})

    @property
    def shares(self) -> list[float]:
        """Unpaired shares that have a score, ascending."""
        return sorted({point.share for point in self.scores})

    @property
    def conditions(self) -> list[str]:
        """Conditions that have a score, in the order of every table."""
        return list(dict.fromkeys(point.condition for point in self.scores))

    def text(self, point: ScorePoint) -> tuple[str, str]:
        """Return value and interval of a point as text, differences with their sign."""
        scale, digits = (100, 1) if self.is_share else (1, 3)
        sign = "+" if point.against else ""
        value, low, high = (
            f"{scale * part:{sign}.{digits}f}" for part in (point.value, point.low, point.high)
        )
        return value, f"{low} to {high}"
