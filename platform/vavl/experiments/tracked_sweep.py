"""A sweep as the journals and the tracking server see it: one parent run with a child per trial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vavl.config.base import FrozenConfig
from vavl.experiments.child_log import ChildLog, ChildLogs
from vavl.experiments.parent_run import ParentRun
from vavl.experiments.sweep import Sweep, SweepResult
from vavl.experiments.trial import TrialEnd
from vavl.experiments.trial_plans import TRIALS_FOLDER, folder_of
from vavl.tracking.journal import Journal
from vavl.tracking.leftovers import JOURNAL_NAME
from vavl.tracking.replay import Replay
from vavl.tracking.settings import TrackingSettings
from vavl.training.loop import BEST_FOLDER
from vavl.training.training_result import dataset_note, version_tags
from vavl.training.worker import read_outcome


@dataclass(frozen=True)
class SweepLogs:
    """Gives the logs of the trials, in any process; picklable.

    Attributes:
        logs: of all children of the sweep.
        output_dir: of the sweep.
    """

    logs: ChildLogs
    output_dir: Path

    def of(self, number: int, point: Mapping[str, Any]) -> ChildLog:
        """Return the log of a trial with these values."""
        tags = {"sweep.trial": str(number), "sweep.point": json.dumps(dict(point))}
        return self.logs.of(folder_of(self.output_dir, number).name, tags)


class TrackedSweep(ParentRun):
    """Records a sweep and its trials; use as a context around the work.

    Args:
        folder: of the sweep.
        settings: where to track; ``model_name`` registers the best trial's checkpoint.
    """

    def __init__(self, folder: Path, settings: TrackingSettings) -> None:
        super().__init__(folder, TRIALS_FOLDER, settings)
        self._model_name = settings.model_name
        self._output_dir = folder

    def start(self, config: FrozenConfig, config_hash: str, sweep: Sweep) -> None:
        """Record what is searched, and take up the trials of earlier starts."""
        note = dataset_note(sweep.plans.plan_of(0, {}))
        self.start_parent(config, config_hash, sweep.run_id, note)
        sweep.resume(lambda number: self.logs.of(number, {}))

    @property
    def logs(self) -> SweepLogs:
        """Gives the logs of the trials."""
        return SweepLogs(self.child_logs, self._output_dir)

    def ended(self, end: TrialEnd) -> None:
        """Bring the journal of a trial that has ended to the tracking server."""
        log = self.logs.of(end.number, {})
        if not log.journal.path.exists():
            return  # its values did not go together, or its process died before anything was written
        ended = any(record.kind == "run_end" for record in log.journal.read())
        if end.state == "failed" and not ended:
            log.end("FAILED", {})  # its process died
        self.child_ended(log.journal.path.parent.name)

    def finish(self, result: SweepResult, artifacts: Sequence[Path]) -> dict[str, Any]:
        """Record the results, register the best trial's checkpoint, and wait for the tracking server.

        Returns:
            ``mlflow_run_id``, ``model_name``, ``model_version`` (None where the server does not hold them
            yet), ``tracking_complete``.
        """
        registered = self._register(result)
        kept = self.finish_parent(main_metrics(result), artifacts)
        version = registered.state.model_version if registered else None
        return {**kept, "model_name": self._model_name, "model_version": version}

    def _register(self, result: SweepResult) -> Replay | None:
        """Note the model in the journal of the best trial, where its settings and scores are."""
        if self._model_name is None or result.best is None:
            return None
        folder = folder_of(self.folder, result.best.number)
        journal = Journal(folder / JOURNAL_NAME)
        known = [record.payload for record in journal.read() if record.kind == "model"]
        if not any(note.get("name") == self._model_name for note in known):
            tags = {**version_tags(read_outcome(folder)), "sweep": result.run_id}
            journal.append("model", folder=BEST_FOLDER, name=self._model_name, tags=tags)
        return self.child_ended(folder.name)


def main_metrics(result: SweepResult) -> dict[str, float]:
    """Return what the parent run shows: the best trial's metrics, the gain, and the epochs."""
    run, full = result.epochs
    found: dict[str, float] = {
        "sweep/trials": len(result.ends), "sweep/epochs_run": run, "sweep/epochs_full": full,
        "sweep/epochs_saved_share": result.saved_share,
        **{f"sweep/{state}": result.count(state) for state in ("finished", "pruned", "failed")},
    }  # fmt: skip
    if result.best is not None:
        found |= {f"best/{name}": value for name, value in result.best.metrics.items()}
        for objective in result.plan.objectives if result.base else ():
            gain = result.best.metrics[objective.metric] - result.base.metrics[objective.metric]  # type: ignore[union-attr]
            found[f"gain/{objective.metric}"] = gain
    return found
