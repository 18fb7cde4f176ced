"""What a forked rank is given: requests to stop and a watchdog, as a worker of Ray has them."""

from __future__ import annotations

from vavl.training.context import LocalContext, Watchdog, stacks_directory
from vavl.training.settings import TrainingPlan
from vavl.training.stop import StopWatch


class WatchedContext(LocalContext):
    """Requests to stop and a watchdog, without Ray.

    Args:
        plan: of the run.
        rank: of this process.
        attempt: directory of its checkpoints below ``checkpoints/``; "" for none.
    """

    def __init__(self, plan: TrainingPlan, rank: int, attempt: str = "") -> None:
        super().__init__(StopWatch(plan.output_dir))
        self.attempt = attempt
        timeout = plan.training.faults.step_timeout_seconds
        self._watchdog = Watchdog(stacks_directory(plan.output_dir), rank, timeout)

    def beat(self, least_seconds: float | None = 0.0) -> None:
        """Restart the watchdog's time."""
        self._watchdog.beat(least_seconds)

    def close(self) -> None:
        """Watch no more."""
        self._watchdog.stop()
