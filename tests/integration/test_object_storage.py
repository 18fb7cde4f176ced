"""Training with store and output_dir in object storage: killed workers, killed drivers, machines that share nothing."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from copied_store import copy_store
from own_process import OwnProcess, start_job
from ray.cluster_utils import Cluster
from s3_server import BUCKET, content, keys
from tiny_plans import own_tracking, write_small_training

from vavl.store.store_versions import push_store
from vavl.training.pseudo_labels import PSEUDO_LABELS_FILE
from vavl.training.run_directory import RESULTS

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("clusters")]

STEPS, EVERY = 160, 20


ALONE = ("training.launcher=in_process", "training.workers=1", "training.engine=torch", "training.zero_stage=0")


class Job:
    """jobs/train_model.py in a process of its own, on two workers unless told else, seen through what it publishes.

    Args:
        folder: of configuration, log and MLflow; the run itself is at the address.
        endpoint: of the S3 server.
        address: of the run.
        store: address of the feature store.
        tracking: settings, with the database in ``folder``.
    """

    def __init__(self, folder: Path, endpoint: str, address: str, store: str, tracking: dict[str, Any]) -> None:
        self._folder, self._endpoint = folder, endpoint
        self._prefix = f"{address.removeprefix(f's3://{BUCKET}/')}/"
        training = {
            "workers": 2, "zero_stage": 1, "max_epochs": 100_000, "max_steps": STEPS, "report_every_steps": 1,
            "checkpoint_every_steps": EVERY, "checkpoint_every_epochs": 50, "optimizer": {"learning_rate": 1e-3},
        }  # fmt: skip
        write_small_training(folder / "train.yaml", store, output_dir=address, training=training, tracking=tracking)
        self._started: OwnProcess | None = None

    @property
    def own(self) -> OwnProcess:
        """The process that was started last."""
        assert self._started is not None
        return self._started

    def start(self, machine: str, *overrides: str, **environment: str) -> None:
        """Start it on a machine whose caches are empty the first time."""
        self._started = start_job(
            "train_model", self._folder / "train.yaml", *overrides, log=self._folder / f"{machine}.log",
            cwd=self._folder, **machine_of(self._folder, machine), **environment,
        )  # fmt: skip

    def keys(self, below: str = "") -> list[str]:
        """Return what the server has of the run."""
        return keys(self._endpoint, self._prefix + below)

    def read(self, name: str) -> bytes:
        """Return a file of the run as the server has it."""
        return content(self._endpoint, self._prefix + name)

    def journal(self, kind: str) -> list[dict[str, Any]]:
        """Return the published records of one kind."""
        if "journal.jsonl" not in self.keys():
            return []
        lines = self.read("journal.jsonl").decode().splitlines(keepends=True)
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record for record in records if record["kind"] == kind]

    def checkpoints(self, ranks: int = 2) -> set[int]:
        """Return the steps of the checkpoints that all of so many ranks have finished."""
        last = f"rank-{ranks - 1:03d}.json"
        found = [name.split("/") for name in self.keys("checkpoints/") if name.endswith(last)]
        return {int(parts[-2].removeprefix("step-")) for parts in found}

    def check_end(self) -> None:
        """Hold the finished run to what its address, its journal and the registry have to hold."""
        assert self.own.end(900) == 0, self.own.said[-3000:]
        summary = json.loads(self.read("summary.json"))
        assert summary["steps"] == STEPS
        assert summary["workers"] == 2
        assert summary["zero_stage"] == 1
        assert summary["model_version"] == "1"
        assert summary["tracking_complete"]
        assert json.loads(self.read("run.json"))["state"] == "finished"
        names = {name.partition("/")[0] for name in self.keys()}
        assert names >= {"config.yaml", "checkpoints", "plots", "report.html", *RESULTS} - {PSEUDO_LABELS_FILE}
        assert not [name for name in self.keys() if ".probe" in name or ".partial" in name]
        assert f"s3://{BUCKET}/{self._prefix.rstrip('/')}: trained on small" in self.own.said
        with contextlib.closing(sqlite3.connect(self._folder / "mlflow.db")) as tables:
            versions = tables.execute("SELECT name, version, run_id FROM model_versions").fetchall()
            (runs,) = tables.execute("SELECT COUNT(*) FROM runs").fetchone()
        assert versions == [("vavl-s3", 1, summary["mlflow_run_id"])]
        assert runs == 1
        # Nothing was written where an address reads like a path.
        assert not list(self._folder.glob("s3:*"))


def machine_of(folder: Path, name: str) -> dict[str, str]:
    """Return the environment of a machine with files of its own."""
    places = {"HOME": "home", "VAVL_CACHE": "cache", "TMPDIR": "tmp"}
    for place in places.values():
        (folder / name / place).mkdir(parents=True, exist_ok=True)
    # The names of Ray's sockets may have 107 bytes.
    ray = {"RAY_TMPDIR": tempfile.gettempdir(), "RAY_worker_niceness": "0"}
    return ray | {variable: str(folder / name / place) for variable, place in places.items()}


@pytest.fixture
def job(
    s3: str,
    s3_endpoint: str,
    small_store: Callable[..., Path],
    small_corpus: Callable[..., Any],
    tracking_database: Path,
    tmp_path: Path,
) -> Iterator[Job]:
    store = copy_store(small_store(small_corpus(clips_per_speaker=60)), tmp_path / "store")
    pushed = push_store(store, f"{s3}/stores", dt.datetime(2026, 3, 1, tzinfo=dt.UTC))
    (tmp_path / "project").mkdir()
    tracking = own_tracking(tmp_path / "project", tracking_database, model_name="vavl-s3", system_metrics=False)
    job = Job(tmp_path / "project", s3_endpoint, f"{s3}/run", pushed.place, tracking)
    yield job
    job.own.kill()


def training_workers(above: psutil.Process) -> list[psutil.Process]:
    """Return the training workers below a process."""
    found = []
    for one in above.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(one.cmdline()):
                found.append(one)
    return found


def test_a_run_at_an_address_survives_a_lost_machine_and_a_killed_worker(job: Job) -> None:
    """It begins in one process; another machine resumes it with two workers of Ray, one of which is killed."""
    job.start("first", *ALONE)
    job.own.wait_until(lambda: job.checkpoints(ranks=1), 900, pause=0.2)
    job.own.kill()
    assert not job.keys("summary.json")
    assert json.loads(job.read("run.json"))["state"] == "running"
    before = max(job.checkpoints(ranks=1))

    job.start("second")
    job.own.wait_until(lambda: max(job.checkpoints(), default=0) > before, 900, pause=0.2)
    workers = training_workers(psutil.Process(job.own.process.pid))
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    job.check_end()
    assert "resuming run" in job.own.said
    assert "restarted at step" in job.own.said
    resumed = [record["step"] for record in job.journal("event") if record["what"] == "resumed"]
    assert len(resumed) == 2
    assert before <= resumed[0] < resumed[1]
    # A checkpoint brings the records of the steps since the one before it; the journal had the others.
    assert {record["step"] for record in job.journal("step")} >= set(range(resumed[0] - EVERY, STEPS))


@pytest.fixture
def cluster(s3: str, tmp_path: Path) -> Iterator[Cluster]:
    """Return a head without place for workers, and two nodes with place for one, each with files of its own."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for name in ("node1", "node2"):
        cluster.add_node(num_cpus=1, env_vars=machine_of(tmp_path, name))
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_machines_that_share_no_directory_train_together(job: Job, cluster: Cluster, tmp_path: Path) -> None:
    job.start("head", RAY_ADDRESS=cluster.address)
    job.own.wait_until(job.checkpoints, 900, pause=0.2)
    raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in cluster.worker_nodes]
    workers = [training_workers(raylet) for raylet in raylets]
    assert [len(there) for there in workers] == [1, 1]
    workers[1][0].send_signal(signal.SIGKILL)
    job.check_end()
    assert json.loads(job.read("summary.json"))["events"] == {"restarted": 1, "resumed": 1}
    assert {record["step"] for record in job.journal("step")} == set(range(STEPS))
    for name in ("node1", "node2"):
        assert list((tmp_path / name / "cache").glob("*/audio/data-00000.arrow")), name
        assert not list((tmp_path / name / "cache").rglob("step-*"))
    # The driver has the results and none of the checkpoints.
    (copy,) = (tmp_path / "project/head/cache/runs").iterdir()
    assert (copy / "report.html").exists()
    assert (copy / "best").is_dir()
    assert not list(copy.rglob("step-*"))
