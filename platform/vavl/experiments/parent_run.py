"""The parent run of a comparison or a sweep, as the journals and the tracking server see it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from vavl.config.base import FrozenConfig
from vavl.config.files import make_folder
from vavl.experiments.trial import Trial, TrialEnd, TrialLogs
from vavl.serving.registry import register_model
from vavl.tracking.journal import Journal
from vavl.tracking.leftovers import JOURNAL_NAME, unfinished_journals
from vavl.tracking.replay import Replay
from vavl.tracking.replay_lock import Follower
from vavl.tracking.replay_queue import ReplayQueue
from vavl.tracking.run import DatasetNote, run_start, source_tags
from vavl.tracking.settings import TrackingSettings, tracking_place
from vavl.training.loop import BEST_FOLDER
from vavl.training.training_result import version_tags
from vavl.training.worker import read_outcome

_LAST_FLUSH_SECONDS = 600.0
_LAST_FLUSH_AFTER_AN_ERROR_SECONDS = 30.0


class ParentRun:
    """Records a parent and its trials; use as a context around the work.

    One directory is one MLflow run, however often it is started again. A failure of the tracking
    server never reaches the trials.

    Args:
        folder: of the parent.
        trials: the directories of the trials lie below it.
        settings: where to track; ``model_name`` registers the checkpoint of the best trial.
    """

    def __init__(self, folder: Path, trials: str, settings: TrackingSettings) -> None:
        self.folder = make_folder(folder.absolute())
        self.trials = self.folder / trials
        self._model_name = settings.model_name
        # One look at the machine is enough, and a trial is no candidate for the registry by itself.
        self._settings = settings.model_copy(update={"system_metrics": False, "model_name": None})
        self.journal = Journal(self.folder / JOURNAL_NAME)
        self._queue = ReplayQueue(self._settings, register_model)
        self._follower = Follower(self.journal.path)
        self._names: dict[str, str] = {}
        self._source: dict[str, str] = {}

    def start(self, config: FrozenConfig, config_hash: str, run_id: str, dataset: DatasetNote) -> None:
        """Record what is done; from here on the tracking server follows.

        Args:
            config: all settings of the job.
            config_hash: of them.
            run_id: of the parent; its first word names it where the settings do not.
            dataset: what is trained on.
        """
        name = self._settings.run_name or f"{run_id.partition('-')[0]} {run_id}"
        self._names, self._source = {"run_id": run_id, "run_name": name}, source_tags()
        tags = {**self._source, "vavl.config_hash": config_hash, **dataset.tags}
        settings = self._settings.model_copy(update={"run_name": name})
        self.journal.append("run_start", **run_start(config, settings, run_id, dataset, tags))
        for journal in (self.journal.path, *unfinished_journals(self.trials, self._settings)):
            self._queue.add(journal)
        self._follower.take()
        self._queue.start()

    @property
    def logs(self) -> TrialLogs:
        """Gives the logs of the trials, in any process."""
        return TrialLogs(self.trials, self._settings, self._source, self._names)

    def trial_ended(self, trial: Trial, end: TrialEnd) -> None:
        """Bring the journal of a trial that has ended to the tracking server."""
        log = self.logs.of(trial.name, {})
        if not log.journal.path.exists():
            return  # its process died before anything was written
        if end.state == "failed" and not log.has_ended:
            log.end("failed", {})  # its process died
        self._queue.add(log.journal.path)

    def _register(self, name: str, tags: Mapping[str, str]) -> Replay | None:
        """Note the model in the journal of the best trial, where its settings and scores are; None without a name."""
        if self._model_name is None:
            return None
        folder = self.trials / name
        journal = Journal(folder / JOURNAL_NAME)
        known = [record.payload for record in journal.read() if record.kind == "model"]
        if not any(note.get("name") == self._model_name for note in known):
            tags = {**version_tags(read_outcome(folder)), **tags}
            journal.append("model", folder=BEST_FOLDER, name=self._model_name, tags=tags)
        return self._queue.add(journal.path)

    def finish(self, metrics: Mapping[str, float], artifacts: Iterable[Path]) -> dict[str, Any]:
        """Record the results and wait for the tracking server.

        Returns:
            ``mlflow_run_id`` (None where the server does not hold it yet) and ``tracking_complete``.
        """
        for path in artifacts:
            inside = path.absolute().relative_to(self.folder)
            self.journal.append("artifact", path=inside, artifact_path=None)
        return self._finish("FINISHED", metrics, _LAST_FLUSH_SECONDS)

    def finish_with_best(
        self,
        metrics: Mapping[str, float],
        artifacts: Iterable[Path],
        best: str | None,
        tags: Mapping[str, str],
    ) -> dict[str, Any]:
        """Do what ``finish`` does, and register the checkpoint of the trial named ``best``, if there is one.

        Returns:
            Also ``model_name`` and ``model_version``, None where the server does not hold it yet.
        """
        registered = None if best is None else self._register(best, tags)
        kept = self.finish(metrics, artifacts)
        version = registered.state.model_version if registered else None
        return {**kept, "model_name": self._model_name, "model_version": version}

    def _finish(self, status: str, metrics: Mapping[str, float], patience: float) -> dict[str, Any]:
        self.journal.append("run_end", status=status, metrics=metrics)
        parent = self._queue.add(self.journal.path)
        is_complete = self._queue.finish(patience)
        self._follower.release()
        return {"mlflow_run_id": parent.state.mlflow_run_id, "tracking_complete": is_complete}

    @property
    def show_command(self) -> str:
        """What a person types to look at the runs."""
        return tracking_place(self._settings, os.environ).show_command

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and self._names:
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            self._finish(status, {}, _LAST_FLUSH_AFTER_AN_ERROR_SECONDS)
