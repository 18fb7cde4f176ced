"""A run on several nodes that grows, is preempted, loses a node and hangs, on a cluster of real raylets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from ray.cluster_utils import Cluster

from vavl.config.files import read_json
from vavl.training.run_folder import claim_run_folder
from vavl.training.settings import TrainingPlan
from vavl.training.worker import train_on_worker

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# Long enough for all that happens to the run, short enough that rounding stays below the tolerance.
STEPS = 800

Make = Callable[..., TrainingPlan]
DRIVER = Path(__file__).parents[1] / "support" / "ray_driver.py"
RAY = Path(sys.executable).with_name("ray")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Return a cluster whose head has no place for workers, and one node with place for one."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def plan(
    small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path: Path
) -> Callable[..., TrainingPlan]:
    def make(name: str, **training: Any) -> TrainingPlan:
        return TrainingPlan.model_validate(
            {
                "output_dir": tmp_path / name,
                "data": {"store": small_store(small_corpus(clips_per_speaker=60)), "composition": {"batch_size": 16}},
                "model": {"preset": "small", "width": 16, "attention_heads": 2, "dropout": 0.2, "head_dropout": 0.2},
                "training": {
                    "max_epochs": 100_000, "max_steps": STEPS, "checkpoint_every_epochs": 50,
                    "checkpoint_every_steps": 50,
                    "report_every_steps": 1, "gradient_norms_every_steps": None, "threads_per_worker": 1,
                    "optimizer": {"learning_rate": 2e-4}, **training,
                },
            }
        )  # fmt: skip

    return make


class Driver:
    """A training in a process of its own, seen through its records."""

    def __init__(self, plan: TrainingPlan, address: str) -> None:
        self.plan, self._records = plan, plan.output_dir.with_suffix(".jsonl")
        self._log, plan_file = plan.output_dir.with_suffix(".log"), plan.output_dir.with_suffix(".json")
        plan_file.write_text(plan.model_dump_json())
        environment = {**os.environ, "RAY_ADDRESS": address, "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}
        environment["PYTHONPATH"] = "platform"
        self.process = subprocess.Popen(
            [sys.executable, DRIVER, plan_file, self._records], env=environment, stderr=self._log.open("w")
        )

    @property
    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text()[-3000:]

    def records(self, kind: str) -> list[dict[str, Any]]:
        if not self._records.exists():
            return []
        lines = self._records.read_text().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record for record in found if record["kind"] == kind]

    def wait_for(self, what: str, seconds: float = 180.0) -> dict[str, Any]:
        """Wait for an event and for a step after it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for event in self.records("event"):
                if event["what"] == what and self.records("step")[-1]["arrived"] > event["arrived"]:
                    return event
            assert self.process.poll() is None, self.said
            time.sleep(0.2)
        raise AssertionError(f"no {what} within {seconds} s; events: {self.records('event')}")

    def wait_for_step(self, step: int, seconds: float = 180.0) -> None:
        deadline = time.monotonic() + seconds
        while not any(record["step"] >= step for record in self.records("step")):
            assert time.monotonic() < deadline, f"step {step} not reached"
            assert self.process.poll() is None, self.said
            time.sleep(0.2)

    def wait_for_new_step(self) -> None:
        """Wait for a step that was not done before."""
        self.wait_for_step(max(record["step"] for record in self.records("step")) + 1)


def train_workers(cluster_node: Any) -> list[psutil.Process]:
    """Return the training workers of a node."""
    raylet = psutil.Process(cluster_node.all_processes["raylet"][0].process.pid)
    return [one for one in raylet.children(recursive=True) if "RayTrainWorker" in " ".join(one.cmdline())]


def test_a_run_grows_is_preempted_hangs_and_loses_a_node_and_ends_the_same(cluster, plan):
    faults = {"grow_after_seconds": 1, "step_timeout_seconds": 8}
    driver = Driver(plan("elastic", workers=[1, 2], zero_stage=1, faults=faults), cluster.address)
    driver.wait_for_step(20)

    second = cluster.add_node(num_cpus=1)
    driver.wait_for("resize")
    resumed = driver.records("event")[-1]
    assert resumed["what"] == "resumed"
    assert "1 worker(s), ZeRO 1 -> 2 worker(s), ZeRO 1" in resumed["message"]
    # What a checkpoint holds is told again; a worker that is stopped before its first step has more time.
    driver.wait_for_new_step()
    # Growing costs no step: the workers left with a checkpoint.
    assert count_repeated(driver) == 0

    # The stopped process cannot leave its stack, the one that waits for it can.
    (worker,) = train_workers(second)
    worker.send_signal(signal.SIGSTOP)
    hung = driver.wait_for("restarted")
    assert "a step did not end within 8 s" in hung["message"]
    assert "left no stack" in hung["message"]
    assert "in train_step" in hung["message"]
    assert not worker.is_running()

    driver.wait_for_new_step()
    repeated = count_repeated(driver)
    subprocess.run(
        [RAY, "drain-node", "--address", cluster.address, "--node-id", second.node_id, "--reason",
         "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "20"],
        check=True, capture_output=True,
    )  # fmt: skip
    driver.wait_for("preemption")
    assert "2 worker(s), ZeRO 1 -> 1 worker(s)" in driver.records("event")[-1]["message"]
    assert count_repeated(driver) == repeated

    cluster.remove_node(second, allow_graceful=False)  # what the notice announced
    assert driver.process.wait(300) == 0, driver.said
    alone = plan("alone", launcher="in_process", engine="torch")
    seen: list[dict[str, Any]] = []
    claim_run_folder(alone)
    train_on_worker(alone, seen.extend)
    expected = {
        record["step"]: record["metrics"]["train/loss/total"] for record in seen if record["kind"] == "step"
    }
    found = {record["step"]: record["metrics"]["train/loss/total"] for record in driver.records("step")}
    assert sorted(found) == list(range(STEPS))
    np.testing.assert_allclose([found[step] for step in sorted(found)], list(expected.values()), rtol=1e-4)
    scores = [read_json(one.output_dir / "outcome.json")["metrics"] for one in (driver.plan, alone)]
    assert scores[0].keys() == scores[1].keys()


def count_repeated(driver: Driver) -> int:
    """Count the steps that were trained twice; what a checkpoint brought back was trained once."""
    trained = {(record["step"], record["time"]) for record in driver.records("step")}
    return len(trained) - len({step for step, _ in trained})
