"""A run on the cluster: its driver is a process of its own, its workers are Ray's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from ray_nodes import RayNodes

from vavl.training.settings import TrainingPlan

_PROGRAM = Path(__file__).with_name("ray_driver.py")


class RayRun:
    """Starts the driver of a run on a cluster, again after every fault that ends it.

    Args:
        plan: of the run.
        cluster: that it trains on.
        errors: folder for plan, log and what the driver says when it fails.
    """

    recovery_limit_seconds = 240.0

    def __init__(self, plan: TrainingPlan, cluster: RayNodes, errors: Path) -> None:
        self.plan, self.cluster = plan, cluster
        self._stem = errors / plan.output_dir.name
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the command, anew or again."""
        plan_file = self._stem.with_suffix(".plan.json")
        plan_file.write_text(self.plan.model_dump_json())
        with self._stem.with_suffix(".driver.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", str(_PROGRAM), str(plan_file)],
                stdout=log, stderr=log, env=self.cluster.environment, start_new_session=True,
            )  # fmt: skip

    def exit_code(self) -> int | None:
        """Return how the driver ended, None while it lives."""
        assert self._process is not None
        return self._process.poll()

    @property
    def driver(self) -> int:
        """Return the process id of the driver."""
        assert self._process is not None
        return self._process.pid

    def workers(self) -> list[int]:
        """Return the process ids of the training workers."""
        return self.cluster.find("TrainWorker")

    def kill(self) -> None:
        """Kill the driver; Ray ends its workers."""
        assert self._process is not None
        os.kill(self.driver, signal.SIGKILL)
        self._process.wait()

    def error_message(self) -> str:
        """Return the end of the driver's log."""
        return self._stem.with_suffix(".driver.log").read_text()[-2000:]

    def close(self) -> None:
        """End what is left."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
