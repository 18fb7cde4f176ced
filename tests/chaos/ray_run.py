"""A run on the cluster: its driver is a process of its own, its workers are Ray's."""

from __future__ import annotations

from pathlib import Path

from process_run import ProcessRun
from ray_nodes import RayNodes

from vavl.training.settings import TrainingPlan

_PROGRAM = Path(__file__).with_name("ray_driver.py")


class RayRun(ProcessRun):
    """Starts the driver of a run on a cluster, again after every fault that ends it.

    Args:
        plan: of the run.
        cluster: that it trains on.
        errors: directory for plan, log and what the driver says when it fails.
    """

    recovery_limit_seconds = 240.0

    def __init__(self, plan: TrainingPlan, cluster: RayNodes, errors: Path) -> None:
        super().__init__(errors / f"{plan.output_dir.name}.driver.log")
        self.plan, self.cluster = plan, cluster
        self._plan_file = errors / f"{plan.output_dir.name}.plan.json"

    def start(self) -> None:
        """Start the command, anew or again."""
        self._plan_file.write_text(self.plan.model_dump_json())
        self._begin([str(_PROGRAM), str(self._plan_file)], self.cluster.environment)

    def workers(self) -> list[int]:
        """Return the process ids of the training workers."""
        return self.cluster.find("TrainWorker")
