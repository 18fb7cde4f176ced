"""What a report of a promotion may have to show: a score of each kind, and one that could not be measured."""

from __future__ import annotations

from vavl.promotion.promotion_content import PromotionReport, PromotionRow

ROWS = (
    PromotionRow(
        "audio_video", "uar", (0.8, 0.7, 0.9), (0.7, 0.6, 0.8), (0.1, 0.04, 0.16),
        threshold=0.0, holds=True, reason="lower end +0.040 is > +0.000", clips=90, speakers=4,
    ),
    PromotionRow(
        "audio", "ccc_mean", (0.3, 0.2, 0.4), (0.1, 0.0, 0.2), (0.2, 0.1, 0.3), "constant",
        threshold=0.05, holds=True, clips=90, speakers=4,
    ),
    PromotionRow("video", "uar", None, None, None, threshold=-0.05, holds=False, reason="no clip has <video>"),
)  # fmt: skip


def promotion_content() -> PromotionReport:
    """Return a refused promotion."""
    return PromotionReport(
        title="demo version 3 for champion", subtitle="on demo", decision="Refused", is_promoted=False,
        reasons=["video: no clip has <video>"], challenger="version 3", champion="version 2",
        rows=ROWS, differences=ROWS[:1], facts={"hash of clips": "abcd"}, marks={"Look": "at this"},
    )  # fmt: skip
