"""The MLflow run that holds the evidence of a decision about a champion."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vavl.config.base import FrozenConfig
from vavl.promotion.promotion_record import ComparedClips, Decision
from vavl.tracking.journal import Record
from vavl.tracking.mlflow_writer import MlflowWriter, Point
from vavl.tracking.run import DatasetNote, run_start, source_tags
from vavl.tracking.settings import TrackingPlace, TrackingSettings

CLIPS_TAG = "vavl.clips_hash"
DECISION_TAG = "vavl.decision"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromotionRun:
    """One run; it goes to the server at once, without a journal: without a server nothing is promoted.

    Attributes:
        client: an ``MlflowClient``.
        writer: to the same store.
        run_id: in MLflow.
    """

    client: Any
    writer: MlflowWriter
    run_id: str

    def log_verdict(self, decision: Decision, files: Iterable[Path]) -> None:
        """Write the evidence before anything moves.

        Raises:
            MlflowException: the store refused.
        """
        self.writer.log_points(self.run_id, list(_points(decision)))
        for file in files:
            self.writer.log_artifact(self.run_id, file, None)

    def close(self, decision: Decision, files: Iterable[Path]) -> bool:
        """Write what was decided; the alias has moved or not by now, so that a failure is only told.

        Returns:
            Whether the run is complete.
        """
        from mlflow.exceptions import MlflowException

        try:
            self.client.set_tag(self.run_id, DECISION_TAG, decision.what)
            for file in files:
                self.writer.log_artifact(self.run_id, file, None)
            self.writer.end_run(self.run_id, "FINISHED", time.time())
        except (MlflowException, OSError) as fault:
            _log.error("the decision stands, but MLflow run %s lacks a part of it: %s", self.run_id, fault)
            return False
        return True

    def fail(self) -> None:
        """Mark the run of a promotion that ended in an error."""
        from mlflow.exceptions import MlflowException

        try:
            self.writer.end_run(self.run_id, "FAILED", time.time())
        except MlflowException as fault:
            _log.error("MLflow run %s stays open: %s", self.run_id, fault)


def open_promotion_run(
    client: Any,
    place: TrackingPlace,
    tracking: TrackingSettings,
    config: FrozenConfig,
    clips: ComparedClips,
    title: str,
) -> PromotionRun:
    """Create the run of a comparison.

    Args:
        client: an ``MlflowClient``.
        place: the store.
        tracking: experiment and name.
        config: all settings of the job.
        clips: that were measured.
        title: name of the run, unless the settings name it.
    """
    writer = MlflowWriter(tracking, place)
    dataset = DatasetNote(
        clips.corpus, clips.store_hash, clips.store, "", {"clips": clips.clips, "speakers": clips.speakers}
    )
    tags = {**source_tags(), **dataset.tags, CLIPS_TAG: clips.clips_hash, "vavl.kind": "promotion"}
    named = tracking.model_copy(update={"run_name": tracking.run_name or title})
    payload = run_start(config, named, f"promotion-{secrets.token_hex(6)}", dataset, tags)
    return PromotionRun(
        client, writer, writer.open_run(Record(1, "run_start", time.time(), payload, 0), None)
    )


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
