"""A decision about a champion with its evidence: as a dictionary, as a tag, as an MLflow run."""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from vavl.config.base import FrozenConfig
from vavl.metrics.paired import Interval
from vavl.promotion.contest import Difference, Verdict
from vavl.tracking.journal import Record
from vavl.tracking.mlflow_writer import MlflowWriter, Point, one_line
from vavl.tracking.run import DatasetNote, run_start, source_tags, user_name
from vavl.tracking.settings import TrackingSettings, tracking_place

What = Literal["promoting", "promoted", "refused", "compare_again", "already_champion", "rolled_back", "restored"]
# What every MLflow server takes in the tag of a version.
_TAG_LIMIT = 5000
_DIGITS = 5
CLIPS_TAG = "vavl.clips_hash"
DECISION_TAG = "vavl.decision"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparedClips:
    """What both models were measured on."""

    corpus: str  # corpus, protocol, fold, split: of the store; fold is None where all clips were taken
    protocol: str
    fold: int | None
    split: str
    store: str  # its address
    store_hash: str  # of its features
    clips_hash: str  # of the names and labels of the clips, in their order
    clips: int  # clips, speakers: measured
    speakers: int
    earlier_decisions: int = 0  # how often these very clips have decided about a champion before

    @property
    def words(self) -> str:
        """Name them in a line."""
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.corpus}, {self.split}{fold} ({self.protocol}): {self.clips} clips of {self.speakers} speakers"


@dataclass(frozen=True)
class Decision:
    """What was decided about the champion of a registered model."""

    what: What  # the decision
    model: str  # model, alias: what it is about
    alias: str
    version: str  # challenger; of a rollback the version that left
    compared_with: str | None  # version that was champion when they were compared; None: there was none
    champion: str | None  # champion, previous: versions that the aliases point to afterwards
    previous: str | None
    reasons: tuple[str, ...] = ()  # of a refusal, or why the scores did not count
    verdict: Verdict | None = None  # None where nothing was compared
    clips: ComparedClips | None = None  # that were measured
    rule: Mapping[str, Any] = field(default_factory=dict)  # as configured
    mlflow_run_id: str | None = None  # the run with the full evidence
    # by, time: user and machine; UTC, ISO 8601
    by: str = field(default_factory=lambda: f"{user_name()}@{socket.gethostname()}")
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``summary.json``; what could not be measured is None.

        Keys: ``decision`` (``promoted``, ``refused``, ``compare_again``, ``already_champion`` or ``rolled_back``),
        ``model``, ``alias``, ``version``, ``compared_with``, ``champion`` and ``previous`` (afterwards), ``reasons``,
        ``holds``, ``is_first``, ``conditions`` (one each: ``metric``, ``challenger``, ``other`` and ``difference`` as
        value, lower and upper end, ``against``, ``threshold``, ``holds``, ``reason``, ``clips``, ``speakers``,
        ``confidence``), ``differences`` (all measures), ``clips`` (``clips_hash``, ``store_hash``, ``split``, ...),
        ``rule``, ``by``, ``time``, ``mlflow_run_id``.
        """
        verdict = self.verdict
        plain = {name: value for name, value in vars(self).items() if name not in ("what", "verdict", "clips")}
        return {
            "decision": self.what,
            **plain,
            "reasons": list(self.reasons),
            "clips": vars(self.clips) if self.clips else None,
            "is_first": verdict.is_first if verdict else None,
            "holds": verdict.holds if verdict else None,
            "conditions": [
                {
                    **{name: value for name, value in vars(entry).items() if name != "measured"},
                    **(_difference_dict(entry.measured) if entry.measured else {}),
                }
                for entry in (verdict.conditions if verdict else ())
            ],
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


def _difference_dict(entry: Difference) -> dict[str, Any]:
    bounds = {name: _bounds(getattr(entry, name)) for name in ("challenger", "other", "difference")}
    return {"condition": entry.condition, "metric": entry.metric, "against": entry.opponent, **bounds}


def _bounds(interval: Interval) -> list[float | None]:
    """Return value, lower and upper end; None for what is not a number."""
    values = (interval.value, interval.low, interval.high)
    return [round(value, _DIGITS) if math.isfinite(value) else None for value in values]


@dataclass(frozen=True)
class PromotionRun:
    """One run; it goes to the server at once, without a journal: without a server nothing is promoted."""

    writer: MlflowWriter
    run_id: str  # in MLflow

    def log_verdict(self, decision: Decision, files: Iterable[Path]) -> None:
        """Write the evidence before anything moves.

        Raises:
            MlflowException: the store refused.
        """
        self.writer.log_points(self.run_id, list(_points(decision)))
        for file in files:
            self.writer.log_artifact(self.run_id, file, None)

    def close(self, decision: Decision, files: Iterable[Path]) -> bool:
        """Write what was decided; the alias has moved or not by now, so that a failure is only logged.

        Returns:
            Whether the run is complete.
        """
        from mlflow.exceptions import MlflowException

        try:
            self.writer.client.set_tag(self.run_id, DECISION_TAG, decision.what)
            for file in files:
                self.writer.log_artifact(self.run_id, file, None)
            self.writer.end_run(self.run_id, "FINISHED", time.time())
        except (MlflowException, OSError) as error:
            _log.error("the decision stands, but MLflow run %s lacks a part of it: %s", self.run_id, one_line(error))
            return False
        return True

    def fail(self) -> None:
        """Mark the run of a promotion that ended in an error."""
        from mlflow.exceptions import MlflowException

        try:
            self.writer.end_run(self.run_id, "FAILED", time.time())
        except MlflowException as error:
            _log.error("MLflow run %s stays open: %s", self.run_id, one_line(error))


def open_promotion_run(
    tracking: TrackingSettings, config: FrozenConfig, clips: ComparedClips, title: str
) -> PromotionRun:
    """Create the run of a comparison."""
    writer = MlflowWriter(tracking, tracking_place(tracking, os.environ))
    dataset = DatasetNote(
        clips.corpus, clips.store_hash, clips.store, "", {"clips": clips.clips, "speakers": clips.speakers}
    )
    tags = {**source_tags(), **dataset.tags, CLIPS_TAG: clips.clips_hash, "vavl.kind": "promotion"}
    named = tracking.model_copy(update={"run_name": tracking.run_name or title})
    payload = run_start(config, named, f"promotion-{secrets.token_hex(6)}", dataset, tags)
    return PromotionRun(writer, writer.open_run(Record(1, "run_start", time.time(), payload, 0), None))


def earlier_decisions(client: Any, experiment: str, clips_hash: str) -> int:
    """Count the decisions of an experiment that rest on these very clips."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return 0
    wanted = f"tags.`{CLIPS_TAG}` = '{clips_hash}' and tags.`{DECISION_TAG}` != ''"
    return len(client.search_runs([found.experiment_id], wanted, max_results=1000))


def _points(decision: Decision) -> Iterable[Point]:
    now = time.time()
    for entry in decision.verdict.differences if decision.verdict else ():
        prefix = f"{entry.condition}/{entry.metric}"
        for name, interval in (
            ("challenger", entry.challenger),
            (entry.opponent, entry.other),
            ("difference", entry.difference),
        ):
            for end in ("value", "low", "high"):
                value = getattr(interval, end)
                if math.isfinite(value):
                    yield f"{prefix}/{name}" + ("" if end == "value" else f"_{end}"), value, now, 0
