"""What stays of a decision: plain values, and a tag that every server takes."""

from __future__ import annotations

import json
from dataclasses import replace

from vavl.metrics.paired import Interval
from vavl.promotion.contest import ConditionVerdict, Difference, Verdict
from vavl.promotion.decision import ComparedClips, Decision

NOTHING = float("nan")
MEASURED = Difference(
    "audio", "uar", "champion", Interval(0.7, 0.6, 0.8), Interval(0.6, 0.5, 0.7), Interval(0.1, NOTHING, NOTHING)
)
ENTRY = ConditionVerdict("audio", "uar", 90, 4, 0.95, MEASURED, 0.0, False, "lower end nan is not > 0")
DECISION = Decision(
    "refused", "demo", "champion", "3", "2", "2", "1", ("audio: no",),
    Verdict(False, False, ("audio: no",), (ENTRY,), (MEASURED,)),
    ComparedClips("demo", "one fold", 0, "test", "/stores/demo", "ab" * 8, "cd" * 8, 90, 4, 2),
    {"metric": "uar"}, "run",
)  # fmt: skip


def test_a_decision_is_plain_values():
    found = json.loads(json.dumps(DECISION.as_dict(), allow_nan=False))
    assert found["decision"] == "refused"
    assert found["clips"]["clips_hash"] == "cd" * 8
    (condition,) = found["conditions"]
    assert condition["difference"] == [0.1, None, None]
    assert (condition["against"], condition["holds"], condition["threshold"]) == ("champion", False, 0.0)
    assert found["by"].count("@") == 1
    assert found["time"].endswith("+00:00")


def test_a_tag_holds_what_fits_and_says_what_does_not():
    small = json.loads(DECISION.as_tag())
    assert small["left_out"] == []
    assert small["conditions"] == json.loads(json.dumps(DECISION.as_dict()))["conditions"]
    many = replace(DECISION.verdict, differences=(MEASURED,) * 40)
    large = json.loads(replace(DECISION, verdict=many).as_tag())
    assert large["left_out"] == ["differences"]
    assert large["conditions"]
    wordy = replace(DECISION, verdict=many, reasons=("why " * 2000,))
    assert len(wordy.as_tag().encode()) <= 5000
    assert json.loads(wordy.as_tag())["left_out"] == ["differences", "rule", "conditions", "reasons"]
