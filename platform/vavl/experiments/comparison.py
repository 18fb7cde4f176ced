"""A comparison as the journals and the tracking server see it: one parent run with a child per training."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vavl.config.base import FrozenConfig
from vavl.config.files import read_json, write_json
from vavl.experiments.child_log import ChildLog
from vavl.experiments.comparison_grid import RUNS_FOLDER, Cell, Grid
from vavl.experiments.many import RunEnd
from vavl.experiments.parent_run import ParentRun
from vavl.tracking.settings import TrackingSettings
from vavl.training.training_result import dataset_note

COMPARISON_FILE = "comparison.json"


class TrackedComparison(ParentRun):
    """Records a comparison and its trainings; use as a context around the work.

    Args:
        folder: of the comparison.
        settings: where to track.
    """

    def __init__(self, folder: Path, settings: TrackingSettings) -> None:
        super().__init__(folder, RUNS_FOLDER, settings)
        self._tags: dict[str, dict[str, Any]] = {}

    def start(self, config: FrozenConfig, config_hash: str, grid: Grid) -> None:
        """Record what is compared; from here on the tracking server follows.

        Args:
            config: all settings of the job.
            config_hash: of them.
            grid: all runs.
        """
        self._tags = {run.name: _child_tags(run.cells[0]) for run in grid.runs}
        note = dataset_note(grid.runs[0].plan)
        self.start_parent(config, config_hash, _run_id(self.folder), note)

    def log_of(self, name: str) -> ChildLog:
        """Return the log of a run."""
        return self.child_logs.of(name, self._tags[name])

    def ended(self, end: RunEnd) -> None:
        """Bring the journal of a run that has ended to the tracking server."""
        if end.state != "kept":
            self.child_ended(end.name)

    def finish(self, metrics: Mapping[str, float], artifacts: Iterable[Path]) -> dict[str, Any]:
        """Record the results and wait for the tracking server; see ``finish_parent``."""
        return self.finish_parent(metrics, artifacts)


def _run_id(folder: Path) -> str:
    """Return the id of the folder's comparison, made once."""
    file = folder / COMPARISON_FILE
    if not file.exists():
        write_json(file, {"run_id": f"comparison-{secrets.token_hex(4)}"})
    return str(read_json(file)["run_id"])


def _child_tags(cell: Cell) -> dict[str, Any]:
    return {f"comparison.{name}": str(value) for name, value in asdict(cell).items()}
