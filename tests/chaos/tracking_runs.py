"""A run of ``jobs/train_model.py`` whose tracking server, a real one, is killed and comes back."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from disturbed import Disturbed
from faults import Fault
from injections import Injection, full
from mlflow_server import MlflowServer
from plans import plan_of
from process_run import ProcessRun
from reading import RunReading
from scenario import Planned, Scenario
from schedule import Runs
from selection import PlannedRun

from vavl.config.files import write_json
from vavl.training.settings import TrainingPlan

_MODEL = "chaos"
_LOAD = f"import mlflow; mlflow.pyfunc.load_model('models:/{_MODEL}/1')"
_METRIC = "train/loss/total"
_STEPS = 2000
_AWAY_STEPS = 60
_FLUSH_SECONDS = 0.5


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
            "uri": self.server.address, "experiment": "chaos", "flush_seconds": _FLUSH_SECONDS,
            "model_name": _MODEL, "system_metrics": False,
            "request_timeout_seconds": 15, "request_retries": 0,
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
        code = self._run(["jobs/sync_tracking.py", str(self.plan.output_dir)]).wait(600)
        if code != 0:
            raise AssertionError(f"sync_tracking ended with {code}: {self.error_message()}")

    def loads_model(self) -> bool:
        """Load the registered version as a user does, in a process of its own; the log has what it says."""
        environment = {**os.environ, "MLFLOW_TRACKING_URI": self.server.address}
        return self._run(["-c", _LOAD], environment).wait(600) == 0

    def points(self) -> list[tuple[int, float]]:
        """Return step and loss of every point that MLflow holds, in the order of their arrival."""
        with contextlib.closing(sqlite3.connect(self.server.database)) as connection:
            ids = [row[0] for row in connection.execute("SELECT run_uuid FROM runs")]
        if len(ids) > 1:
            raise AssertionError(f"MLflow holds {len(ids)} runs instead of one")
        return self.server.points(ids[0], _METRIC) if ids else []


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


def take_artifacts_away(run: Disturbed) -> str:
    """Let the place of the artifacts be no directory while the run has one to send, as an unmounted share."""
    place = _job(run).server.artifacts
    place.mkdir(exist_ok=True)
    kept = place.rename(place.with_name("artifacts_kept"))
    place.touch()
    try:
        return f"no directory; {_wait_without_artifacts(run)}"
    finally:
        place.unlink()
        kept.rename(place)


def fill_artifacts(disk: Path) -> Injection:
    """Return an injection that fills the file system of the artifacts for a while."""

    def fill(run: Disturbed) -> str:
        with full(disk):
            return f"tmpfs full; {_wait_without_artifacts(run)}"

    return fill


def _wait_without_artifacts(run: Disturbed) -> str:
    """Kill the driver: the list of events, an artifact, has to be sent anew. Nothing may be passed over for it."""
    job = _job(run)
    job.kill()
    run.ensure_started()
    run.reading.refresh()
    run.wait_for_step(min(run.reading.done() + _AWAY_STEPS, run.steps))
    time.sleep(3 * _FLUSH_SECONDS)
    reached = max((step for step, _ in job.points()), default=-1)
    run.reading.refresh()
    if reached >= run.reading.done() - 1:
        raise AssertionError(f"step {reached} arrived ahead of an artifact that could not be written")
    return "records wait behind the artifact"


def delete_database(run: Disturbed) -> str:
    """Kill the server and delete its database; the run begins anew in another one, from the journal."""
    job = _job(run)
    job.server.kill()
    for file in job.server.tables():
        file.unlink()
    job.server.start()
    return "deleted; rebuilt from the journal"


def set_database_back(run: Disturbed) -> str:
    """Put an old copy of the database in its place: sync_tracking compares with what is there, not with its notes."""
    job = _job(run)
    job.server.kill()
    copies = {file: file.read_bytes() for file in job.server.tables()}
    job.server.start()
    run.reading.refresh()
    arrived_by(run, min(run.reading.done() + _AWAY_STEPS, run.steps - 1))
    job.server.kill()
    job.kill()
    for file in job.server.tables():
        file.unlink()
    for file, content in copies.items():
        file.write_bytes(content)
    job.server.start()
    job.synchronise()
    _check_points(job, at_end=False)
    return "an old copy; sync_tracking.py brought what it lacked"


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


def tracking_scenario(runs: Runs, disk: Path | None) -> PlannedRun:
    """Return the run with a tracking server; ``disk`` is a file system for its artifacts that may be filled."""

    def make(name: str, faults: Sequence[Planned]) -> Scenario:
        server = MlflowServer(runs.folder / "mlflow")
        if disk is not None:
            (disk / "artifacts").mkdir()
            server.artifacts.symlink_to(disk / "artifacts")
        plan = plan_of(
            runs.folder / name, runs.store, _STEPS, launcher="in_process", engine="torch", checkpoint_every_steps=40
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
            Planned("tracking database deleted", delete_database, arrived),
            Planned("artifact store away", take_artifacts_away, arrived),
            *([Planned("artifact store full", fill_artifacts(disk), arrived)] if disk else []),
            Planned("tracking database set back", set_database_back),
            Planned("tracking server killed", kill_server, arrived),
            Planned("artifact store away", take_artifacts_away, arrived),
            Planned("tracking database deleted", delete_database, arrived),
            Planned("tracking server killed", kill_server_to_the_end, arrived),
            Planned("registered model tampered with", tamper_with_model, loaded_again),
        ],
        make,
    )


def tamper_with_model(run: Disturbed) -> str:
    """Turn the order of the classes round in the files of the version that the finished run has registered."""
    job = _job(run)
    files = list(job.server.artifacts.resolve().rglob("model.json"))
    if not files:
        raise AssertionError("no model was registered")
    whole = {file: file.read_text() for file in files}
    for file, text in whole.items():
        content = json.loads(text)
        content["task"]["classes"].reverse()
        file.write_text(json.dumps(content))
    try:
        if job.loads_model():
            raise AssertionError("a model whose classes were turned round was loaded")
        if "is not what was registered" not in job.error_message():
            raise AssertionError(f"it was refused for another reason: {job.error_message()}")
    finally:
        for file, text in whole.items():
            file.write_text(text)
    return "classes turned round; refused, loaded again once its files were back"


def loaded_again(run: Disturbed, fault: Fault, moment: float) -> None:
    """Load the version with the files that were registered."""
    if not _job(run).loads_model():
        raise AssertionError(f"the restored model is not loaded: {_job(run).error_message()}")
    fault.recovery_seconds, fault.steps_repeated = time.time() - moment, 0


def arrived(run: Disturbed, fault: Fault, moment: float) -> None:
    """Wait until MLflow holds a step that was done after the fault; nothing is computed again."""
    arrived_by(run, fault.at_step)
    fault.recovery_seconds, fault.steps_repeated = time.time() - moment, 0


def arrived_by(run: Disturbed, step: int) -> None:
    """Wait until MLflow holds a step."""
    job = _job(run)
    run.wait_until(lambda: max((one for one, _ in job.points()), default=-1) >= step, "no point arrived", pause=0.2)


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
