"""What a report of a promotion may have to show: a score of each kind, and one that could not be measured."""

from __future__ import annotations

from vavl.metrics.paired import Interval
from vavl.promotion.contest import ConditionVerdict, Difference, Verdict
from vavl.promotion.decision import ComparedClips, Decision

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


CLIPS = ComparedClips("demo", "one fold", 0, "test", "/stores/demo", "0123", "abcd", 90, 4, 2)


def promotion_content() -> Decision:
    """Return a refused promotion."""
    verdict = Verdict(False, False, ("video: no clip has <video>",), ROWS, MEASURED[:1])
    return Decision(
        "refused", "demo", "champion", "3", "2", "2", None, verdict.reasons, verdict, CLIPS, {"metric": "uar"}, "f00"
    )
