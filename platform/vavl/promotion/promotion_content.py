"""What the report of a promotion states, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Bounds = tuple[float, float, float]
"""Value, lower and upper end of its interval."""


@dataclass(frozen=True)
class PromotionRow:
    """A score of both models under one condition.

    Attributes:
        condition: how clips are predicted.
        metric: e.g. ``uar``.
        challenger: its score; None where nothing was measured.
        other: score of the champion, or of one constant answer.
        difference: challenger minus other, paired.
        against: ``champion`` or ``constant``.
        threshold: what the lower end of the difference must exceed; None where nothing is asked.
        holds: None where nothing is asked.
        reason: one line.
        clips, speakers: measured.
    """

    condition: str
    metric: str
    challenger: Bounds | None
    other: Bounds | None
    difference: Bounds | None
    against: str = "champion"
    threshold: float | None = None
    holds: bool | None = None
    reason: str = ""
    clips: int = 0
    speakers: int = 0

    @property
    def is_share(self) -> bool:
        """True for a metric that is shown in percent, and its differences in points."""
        return not self.metric.startswith("ccc")

    def score_text(self, bounds: Bounds | None) -> tuple[str, str]:
        """Return a score and its interval as text."""
        return self._text(bounds, "")

    def difference_text(self) -> tuple[str, str]:
        """Return the difference and its interval as text, with signs."""
        return self._text(self.difference, "+")

    def threshold_text(self) -> str:
        """Return what was asked as text."""
        if self.threshold is None:
            return "not asked"
        unit = " points" if self.is_share else ""
        scaled = self.threshold * self._scale
        return f"above {scaled:+.{self._digits}f}{unit}" if scaled else "above 0"

    @property
    def _scale(self) -> int:
        return 100 if self.is_share else 1

    @property
    def _digits(self) -> int:
        return 1 if self.is_share else 3

    def _text(self, bounds: Bounds | None, sign: str) -> tuple[str, str]:
        if bounds is None:
            return "-", ""
        value, low, high = (f"{part * self._scale:{sign}.{self._digits}f}" for part in bounds)
        return value, f"{low} to {high}"


@dataclass(frozen=True)
class PromotionReport:
    """Everything that the report of a promotion shows.

    Attributes:
        title: of the page.
        subtitle: what was measured on what.
        decision: in words, e.g. "Refused".
        is_promoted: the challenger is champion now.
        reasons: of the decision.
        challenger, champion: names of both, as legends say them.
        rows: conditions of the rule, in the order of every table.
        differences: all measures.
        facts: rule, clips, versions, who and when.
        marks: titles and texts of boxes that cannot be overlooked.
    """

    title: str
    subtitle: str
    decision: str
    is_promoted: bool
    reasons: Sequence[str]
    challenger: str
    champion: str
    rows: Sequence[PromotionRow]
    differences: Sequence[PromotionRow] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)
