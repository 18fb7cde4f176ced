"""A decision about a champion with its evidence: as a dictionary, as a tag, as rows for people."""

from __future__ import annotations

import getpass
import json
import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from vavl.metrics.paired import Interval
from vavl.promotion.contest import ConditionVerdict, Difference, Verdict

What = Literal[
    "promoting", "promoted", "refused", "compare_again", "already_champion", "rolled_back", "restored"
]
# What every MLflow server takes in the tag of a version.
_TAG_LIMIT = 5000
_DIGITS = 5


@dataclass(frozen=True)
class ComparedClips:
    """What both models were measured on.

    Attributes:
        corpus, protocol, fold, split: of the store; fold is None where all clips were taken.
        store: its address.
        store_hash: of its features.
        clips_hash: of the names and labels of the clips, in their order.
        clips, speakers: measured.
        earlier_decisions: how often these very clips have decided about a champion before.
    """

    corpus: str
    protocol: str
    fold: int | None
    split: str
    store: str
    store_hash: str
    clips_hash: str
    clips: int
    speakers: int
    earlier_decisions: int = 0

    @property
    def words(self) -> str:
        """Name them in a line."""
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.corpus}, {self.split}{fold} ({self.protocol}): {self.clips} clips of {self.speakers} speakers"


@dataclass(frozen=True)
class Decision:
    """What was decided about the champion of a registered model.

    Attributes:
        what: the decision.
        model, alias: what it is about.
        version: challenger; of a rollback the version that left.
        compared_with: version that was champion when they were compared; None: there was none.
        champion, previous: versions that the aliases point to afterwards.
        reasons: of a refusal, or why the scores did not count.
        verdict: None where nothing was compared.
        clips: that were measured.
        rule: as configured.
        mlflow_run_id: the run with the full evidence.
        by, time: user and machine; UTC, ISO 8601.
    """

    what: What
    model: str
    alias: str
    version: str
    compared_with: str | None
    champion: str | None
    previous: str | None
    reasons: tuple[str, ...] = ()
    verdict: Verdict | None = None
    clips: ComparedClips | None = None
    rule: Mapping[str, Any] = field(default_factory=dict)
    mlflow_run_id: str | None = None
    by: str = field(default_factory=lambda: f"{user_name()}@{socket.gethostname()}")
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values; what could not be measured is None."""
        verdict = self.verdict
        plain = {
            name: value for name, value in vars(self).items() if name not in ("what", "verdict", "clips")
        }
        return {
            "decision": self.what,
            **plain,
            "reasons": list(self.reasons),
            "clips": vars(self.clips) if self.clips else None,
            "is_first": verdict.is_first if verdict else None,
            "holds": verdict.holds if verdict else None,
            "conditions": [_verdict_dict(entry) for entry in verdict.conditions] if verdict else [],
            "differences": [_difference_dict(entry) for entry in verdict.differences] if verdict else [],
        }

    def as_tag(self) -> str:
        """Return the decision as JSON that fits into the tag of a version; its run holds what is left out."""
        content, left_out = self.as_dict(), list[str]()
        for name in ("differences", "rule", "conditions", "reasons", ""):
            text = json.dumps({**content, "left_out": left_out}, ensure_ascii=False, allow_nan=False)
            if len(text.encode()) <= _TAG_LIMIT or not name:
                break
            del content[name]
            left_out.append(name)
        return text


def user_name() -> str:
    """Return the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that no user has
        return "unknown"


def _verdict_dict(entry: ConditionVerdict) -> dict[str, Any]:
    measured = entry.measured
    return {
        **{name: value for name, value in vars(entry).items() if name != "measured"},
        **(_difference_dict(measured) if measured else {}),
    }


def _difference_dict(entry: Difference) -> dict[str, Any]:
    return {
        "condition": entry.condition,
        "metric": entry.metric,
        "against": entry.opponent,
        "challenger": _bounds(entry.challenger),
        "other": _bounds(entry.other),
        "difference": _bounds(entry.difference),
    }


def _bounds(interval: Interval) -> list[float | None]:
    """Return value, lower and upper end; None for what is not a number."""
    values = (interval.value, interval.low, interval.high)
    return [round(value, _DIGITS) if math.isfinite(value) else None for value in values]
