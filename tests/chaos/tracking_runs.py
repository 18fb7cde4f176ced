"""A run of ``jobs/train_model.py`` whose tracking server, a real one, is killed and comes back."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from disturbed import Disturbed
from faults import Fault
from mlflow_server import MlflowServer
from plans import plan_of
from process_run import ProcessRun
from reading import RunReading
from scenario import Planned, Scenario
from schedule import Runs
from selection import PlannedRun

from vavl.config.files import write_json
from vavl.training.settings import TrainingPlan

_METRIC = "train/loss/total"
_STEPS = 1200
_AWAY_STEPS = 60


class JobRun(ProcessRun):
    """Starts ``jobs/train_model.py`` with a tracking server, again after every fault that ends it.

    Args:
        plan: of the run.
        server: that it is tracked on.
        folder: of the configuration and the log.
    """

    recovery_limit_seconds = 180.0

    def __init__(self, plan: TrainingPlan, server: MlflowServer, folder: Path) -> None:
        super().__init__(folder / f"{plan.output_dir.name}.log")
        self.plan, self.server = plan, server
        self._config = folder / f"{plan.output_dir.name}.yaml"

    def start(self) -> None:
        """Start the command, anew or again."""
        tracking = {
            "uri": self.server.address, "experiment": "chaos", "flush_seconds": 0.5, "system_metrics": False,
            "request_timeout_seconds": 3, "request_retries": 0,
        }  # fmt: skip
        write_json(self._config, {**self.plan.model_dump(mode="json"), "tracking": tracking})
        self._begin(["jobs/train_model.py", str(self._config)])

    def workers(self) -> list[int]:
        """Return the job: it trains itself."""
        return [self.driver]

    def close(self) -> None:
        """End what is left, the server too."""
        super().close()
        self.server.kill()

    def synchronise(self) -> None:
        """Run ``jobs/sync_tracking.py`` on the directory of the run."""
        code = self._run(["jobs/sync_tracking.py", str(self.plan.output_dir)]).wait(120)
        if code != 0:
            raise AssertionError(f"sync_tracking ended with {code}: {self.error_message()}")

    def points(self) -> list[tuple[int, float]]:
        """Return step and loss of every point that MLflow holds, in the order of their arrival."""
        with contextlib.closing(sqlite3.connect(self.server.database)) as connection:
            ids = [row[0] for row in connection.execute("SELECT run_uuid FROM runs")]
        if len(ids) != 1:
            raise AssertionError(f"MLflow holds {len(ids)} runs instead of one")
        return self.server.points(ids[0], _METRIC)


def _job(run: Disturbed) -> JobRun:
    assert isinstance(run.command, JobRun)
    return run.command


def kill_server(run: Disturbed) -> str:
    """Kill the server; it comes back some steps later."""
    job = _job(run)
    job.server.kill()
    run.reading.refresh()
    run.wait_for_step(min(run.reading.done() + _AWAY_STEPS, run.steps))
    job.server.start()
    return "SIGKILL, started again while the run went on"


def kill_server_and_driver(run: Disturbed) -> str:
    """Kill the server, then the job; synchronise, then the same command again."""
    job = _job(run)
    job.server.kill()
    run.reading.refresh()
    run.wait_for_step(min(run.reading.done() + _AWAY_STEPS, run.steps))
    job.kill()
    job.server.start()
    job.synchronise()
    _check_points(job, at_end=False)
    return "SIGKILL of both; sync_tracking.py brought every step once"


def kill_server_to_the_end(run: Disturbed) -> str:
    """Kill the server; the run ends without it; synchronise."""
    job = _job(run)
    job.server.kill()
    run.wait_for_exit(run.FINISHED)
    job.server.start()
    job.synchronise()
    return "SIGKILL, away at the end; sync_tracking.py brought the rest"


def tracking_scenario(runs: Runs) -> PlannedRun:
    """Return the run with a tracking server."""

    def make(name: str, faults: Sequence[Planned]) -> Scenario:
        server = MlflowServer(runs.folder / "mlflow")
        plan = plan_of(
            runs.folder / name,
            runs.store,
            _STEPS,
            launcher="in_process",
            engine="torch",
            checkpoint_every_steps=40,
        )

        def command(plan: TrainingPlan) -> JobRun:
            server.start()
            return JobRun(plan, server, runs.folder)

        return Scenario(name, command, plan, runs.undisturbed, faults, check=check_at_end)

    return PlannedRun(
        "tracked",
        [
            Planned("tracking server killed", kill_server, arrived),
            Planned("tracking server and driver killed", kill_server_and_driver),
            Planned("tracking server killed", kill_server, arrived),
            Planned("tracking server killed", kill_server_to_the_end, arrived),
        ],
        make,
    )


def arrived(run: Disturbed, fault: Fault, moment: float) -> None:
    """Wait until MLflow holds a step that was done after the fault; nothing is computed again."""
    job = _job(run)
    run.wait_until(
        lambda: max((step for step, _ in job.points()), default=-1) >= fault.at_step,
        "no point arrived",
        pause=0.2,
    )
    fault.recovery_seconds, fault.steps_repeated = time.time() - moment, 0


def check_at_end(run: Disturbed) -> None:
    """Hold MLflow to the journal: every step once."""
    _check_points(_job(run), at_end=True)


def _check_points(job: JobRun, *, at_end: bool) -> None:
    reading = RunReading(job.plan.output_dir)
    reading.refresh()
    first: dict[int, float | None] = {}
    for (step, _), loss in reading.losses.items():
        first.setdefault(step, loss)
    points = job.points()
    steps = [step for step, _ in points]
    if len(set(steps)) != len(steps):
        raise AssertionError(f"{len(steps) - len(set(steps))} points are there twice")
    if dict(points) != first:
        raise AssertionError(f"MLflow holds {len(points)} steps, the journal {len(first)}, or other losses")
    if at_end and sorted(steps) != list(range(job.plan.training.max_steps or 0)):
        raise AssertionError(f"steps are missing in MLflow: {len(steps)} are there")
