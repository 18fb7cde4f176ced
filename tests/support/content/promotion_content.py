"""What a report of a promotion may have to show: a score of each kind, and one that could not be measured."""

from __future__ import annotations

from vavl.metrics.paired import Interval
from vavl.promotion.contest import ConditionVerdict, Difference
from vavl.promotion.report import PromotionReport

MEASURED = (
    Difference(
        "audio_video", "uar", "champion", Interval(0.8, 0.7, 0.9), Interval(0.7, 0.6, 0.8), Interval(0.1, 0.04, 0.16)
    ),
    Difference(
        "audio", "ccc_mean", "constant", Interval(0.3, 0.2, 0.4), Interval(0.1, 0.0, 0.2), Interval(0.2, 0.1, 0.3)
    ),
)
ROWS = (
    ConditionVerdict("audio_video", "uar", 90, 4, 0.95, MEASURED[0], 0.0, True, "lower end +0.040 is > +0.000"),
    ConditionVerdict("audio", "ccc_mean", 90, 4, 0.95, MEASURED[1], 0.05, True, ""),
    ConditionVerdict("video", "uar", 0, 0, 0.95, None, -0.05, False, "no clip has <video>"),
)


def promotion_content() -> PromotionReport:
    """Return a refused promotion."""
    return PromotionReport(
        title="demo version 3 for champion", subtitle="on demo", decision="Refused", is_promoted=False,
        reasons=["video: no clip has <video>"], challenger="version 3", champion="version 2",
        rows=ROWS, differences=MEASURED[:1], facts={"hash of clips": "abcd"}, marks={"Look": "at this"},
    )  # fmt: skip
