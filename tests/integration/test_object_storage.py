"""Training with store and output_dir in object storage: killed workers, killed drivers, machines that share nothing."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from copied_store import copy_store
from ray.cluster_utils import Cluster
from s3_server import BUCKET, content, keys

from vavl.store.store_versions import push_store
from vavl.training.pseudo_labels import PSEUDO_LABELS_FILE
from vavl.training.run_directory import RESULTS

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("clusters")]

ROOT = Path(__file__).parents[2]
STEPS, EVERY = 160, 10


ALONE = ("training.launcher=in_process", "training.workers=1", "training.engine=torch", "training.zero_stage=0")


class Job:
    """jobs/train_model.py in a process of its own, on two workers unless told else, seen through what it publishes.

    Args:
        folder: of configuration, log and MLflow; the run itself is at the address.
        endpoint: of the S3 server.
        address: of the run.
        store: address of the feature store.
    """

    def __init__(self, folder: Path, endpoint: str, address: str, store: str) -> None:
        self._folder, self._endpoint = folder, endpoint
        self._prefix = f"{address.removeprefix(f's3://{BUCKET}/')}/"
        self.database = folder / "mlflow.db"
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "train.yaml").write_text(
            yaml.safe_dump(
                {
                    "output_dir": address,
                    "data": {"store": store, "composition": {"batch_size": 16}},
                    "model": {"preset": "small", "width": 16, "modality_blocks": 1, "attention_heads": 2},
                    "training": {
                        "workers": 2, "zero_stage": 1, "max_epochs": 100_000,
                        "max_steps": STEPS, "checkpoint_every_steps": EVERY, "checkpoint_every_epochs": 50,
                        "report_every_steps": 1,
                        "optimizer": {"learning_rate": 1e-3},
                    },
                    "tracking": {
                        "uri": f"sqlite:///{self.database}", "artifact_location": str(folder / "artifacts"),
                        "model_name": "vavl-s3", "system_metrics": False,
                    },
                }
            )
        )  # fmt: skip

    def start(self, machine: str, *overrides: str, **environment: str) -> None:
        """Start it on a machine whose caches are empty the first time."""
        own = machine_of(self._folder, machine) | environment
        with (self._folder / f"{machine}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, ROOT / "jobs/train_model.py", self._folder / "train.yaml", *overrides],
                cwd=self._folder, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT / "platform"), **own},
            )  # fmt: skip
        self._log = self._folder / f"{machine}.log"

    @property
    def said(self) -> str:
        """What it has logged and printed."""
        return self._log.read_text()

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

    def wait_for(self, is_so: Callable[[], bool], seconds: float = 900.0) -> None:
        """Wait for a state of the run, which may not end before."""
        deadline = time.monotonic() + seconds
        while not is_so():
            assert self.process is not None
            assert self.process.poll() is None, self.said[-3000:]
            assert time.monotonic() < deadline, self.said[-3000:]
            time.sleep(0.2)

    def kill(self) -> None:
        """End the driver and all that it started at once, as a machine ends."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            victims = [*psutil.Process(self.process.pid).children(recursive=True), self.process]
            for one in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.send_signal(signal.SIGKILL)
            self.process.wait()

    def check_end(self) -> None:
        """Hold the finished run to what its address, its journal and the registry have to hold."""
        assert self.process is not None
        assert self.process.wait(900) == 0, self.said[-3000:]
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
        assert f"s3://{BUCKET}/{self._prefix.rstrip('/')}: trained on small" in self.said
        with contextlib.closing(sqlite3.connect(self.database)) as tables:
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
    shutil.copy(tracking_database, tmp_path / "project/mlflow.db")
    job = Job(tmp_path / "project", s3_endpoint, f"{s3}/run", pushed.place)
    yield job
    job.kill()


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
    job.wait_for(lambda: len(job.checkpoints(ranks=1)) > 0)
    job.kill()
    assert not job.keys("summary.json")
    assert json.loads(job.read("run.json"))["state"] == "running"
    before = max(job.checkpoints(ranks=1))

    job.start("second")
    job.wait_for(lambda: max(job.checkpoints(), default=0) > before)
    assert job.process is not None
    workers = training_workers(psutil.Process(job.process.pid))
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    job.check_end()
    assert "resuming run" in job.said
    assert "restarted at step" in job.said
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
    job.wait_for(lambda: len(job.checkpoints()) > 0)
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
