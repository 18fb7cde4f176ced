"""Runs that grow, wait for nobody, are preempted, lose a node and hang, on real raylets."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import ray_driver
from own_process import OwnProcess, wait_until
from ray.cluster_utils import Cluster
from tiny_plans import tiny_plan

from vavl.config.files import read_json
from vavl.errors import TrainingStopped
from vavl.training.launch import launch_training
from vavl.training.run_directory import claim_run_directory
from vavl.training.settings import TrainingPlan
from vavl.training.stop import ask_to_stop
from vavl.training.worker import train_on_worker

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# Long enough for all that happens to the run, short enough that rounding stays below the tolerance.
STEPS = 500

Make = Callable[..., TrainingPlan]
RAY = Path(sys.executable).with_name("ray")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Return a cluster whose head has no resources for workers, and one node with those for one."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def plan(
    small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path: Path
) -> Callable[..., TrainingPlan]:
    def make(name: str, **training: Any) -> TrainingPlan:
        usual = {
            "launcher": "ray", "engine": "deepspeed", "max_epochs": 100_000, "max_steps": STEPS,
            "checkpoint_every_epochs": 50, "checkpoint_every_steps": 50, "report_every_steps": 1,
            "optimizer": {"learning_rate": 2e-4},
        }  # fmt: skip
        return tiny_plan(
            tmp_path / name,
            small_store(small_corpus(clips_per_speaker=60)),
            data={"composition": {"batch_size": 16}},
            model={"preset": "small", "width": 16, "dropout": 0.2, "head_dropout": 0.2},
            training=usual | training,
        )

    return make


class Driver:
    """A training run in a process of its own, seen through its records."""

    def __init__(self, plan: TrainingPlan, address: str) -> None:
        self.plan, self._records = plan, plan.output_dir.with_suffix(".jsonl")
        plan_file = plan.output_dir.with_suffix(".json")
        plan_file.write_text(plan.model_dump_json())
        self.own = OwnProcess(
            ray_driver.__file__, plan_file, self._records, log=plan.output_dir.with_suffix(".log"),
            RAY_ADDRESS=address, RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S="0.5",
        )  # fmt: skip

    def records(self, kind: str) -> list[dict[str, Any]]:
        if not self._records.exists():
            return []
        lines = self._records.read_text().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record for record in found if record["kind"] == kind]

    def wait_for(self, what: str, after: float = 0.0) -> dict[str, Any]:
        """Wait for an event after a moment, and for a step after it."""

        def found() -> dict[str, Any] | None:
            steps = self.records("step")
            for event in self.records("event"):
                is_it = event["what"] == what and event["arrived"] > after
                if is_it and steps and steps[-1]["arrived"] > event["arrived"]:
                    return event
            return None

        return self.own.wait_until(found, pause=0.2)

    def wait_for_step(self, step: int) -> None:
        self.own.wait_until(lambda: any(record["step"] >= step for record in self.records("step")), pause=0.2)

    def wait_for_new_step(self) -> None:
        """Wait for a step that was not done before."""
        self.wait_for_step(max(record["step"] for record in self.records("step")) + 1)


def train_workers(cluster_node: Any) -> list[psutil.Process]:
    """Return the training workers of a node."""
    raylet = psutil.Process(cluster_node.all_processes["raylet"][0].process.pid)
    return [one for one in raylet.children(recursive=True) if "RayTrainWorker" in " ".join(one.cmdline())]


def test_a_run_grows_is_preempted_hangs_and_loses_a_node_and_ends_the_same(cluster, plan):
    faults = {"grow_after_seconds": 1, "step_timeout_seconds": 8}
    # Several forward passes a step, fewer of them with more workers: the run lasts long enough for all that follows.
    chosen = plan("elastic", workers=[1, 2], zero_stage=1, clips_per_forward=4, faults=faults)
    driver = Driver(chosen, cluster.address)
    driver.wait_for_step(20)

    second = cluster.add_node(num_cpus=1)
    resize = driver.wait_for("resize")
    assert "resources for 2 workers instead of 1" in resize["message"]
    resumed = driver.wait_for("resumed", after=resize["arrived"] - 1)
    assert "1 worker(s), ZeRO 1 -> 2 worker(s), ZeRO 1" in resumed["message"]
    # What a checkpoint holds is reported again; a worker that is stopped before its first step has more time.
    driver.wait_for_new_step()
    # Growth beyond what the run began with costs no step: it left with a checkpoint.
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
    subprocess.run(
        [RAY, "drain-node", "--address", cluster.address, "--node-id", second.node_id, "--reason",
         "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "20"],
        check=True, capture_output=True,
    )  # fmt: skip
    notified = driver.wait_for("preemption")
    checkpoint = f"step-{notified['step']:08d}/rank-001.json"
    driver.own.wait_until(lambda: list(driver.plan.output_dir.glob(f"checkpoints/*/{checkpoint}")), pause=0.2)

    cluster.remove_node(second, allow_graceful=False)  # what the notice announced
    resumed = driver.wait_for("resumed", after=notified["arrived"])
    assert "2 worker(s), ZeRO 1 -> 1 worker(s)" in resumed["message"]
    assert resumed["step"] >= notified["step"]
    assert driver.own.end(300) == 0, driver.own.said[-3000:]
    alone = plan("alone", launcher="in_process", engine="torch")
    seen: list[dict[str, Any]] = []
    claim_run_directory(alone)
    train_on_worker(alone, seen.extend)
    expected = {record["step"]: record["metrics"]["train/loss/total"] for record in seen if record["kind"] == "step"}
    found = {record["step"]: record["metrics"]["train/loss/total"] for record in driver.records("step")}
    assert sorted(found) == list(range(STEPS))
    np.testing.assert_allclose([found[step] for step in sorted(found)], list(expected.values()), rtol=1e-4)
    scores = [read_json(one.output_dir / "outcome.json")["metrics"] for one in (driver.plan, alone)]
    assert scores[0].keys() == scores[1].keys()


def count_repeated(driver: Driver) -> int:
    """Count the steps that were trained twice; what a checkpoint brought back was trained once."""
    trained = {(record["step"], record["time"]) for record in driver.records("step")}
    return len(trained) - len({step for step, _ in trained})


@ray.remote(num_cpus=1)
class OtherJob:
    """Holds half of the machine."""

    def is_ready(self) -> bool:
        return True


def release_then_stop(plan: TrainingPlan, sink: Any, job: Any) -> None:
    """Let the other job leave once the run trains; stop the run once it trains with two workers."""

    def wait_for(is_so: Callable[[list[dict[str, Any]]], bool]) -> None:
        with contextlib.suppress(AssertionError):  # the end tells
            wait_until(lambda: sink.path.exists() and is_so(sink.records()), pause=0.2)

    def trains_with_two(records: list[dict[str, Any]]) -> bool:
        grown = [number for number, record in enumerate(records) if "-> 2 worker(s)" in record.get("message", "")]
        return bool(grown) and any(record["kind"] == "step" for record in records[grown[0] :])

    wait_for(lambda records: any(record["kind"] == "step" for record in records))
    ray.kill(job)
    wait_for(trains_with_two)
    ask_to_stop(plan.output_dir, "stop", "end of the test")


def test_a_run_starts_at_once_on_the_free_half_of_a_cluster_and_grows_when_the_other_job_leaves(plan, file_sink):
    """Ray's own policy counts the whole cluster: it would ask for what is taken, time out and ask again."""
    ray.shutdown()
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    job = OtherJob.remote()
    ray.get(job.is_ready.remote())
    faults = {"grow_after_seconds": 1}
    chosen = plan("next_to_another_job", workers=[1, 2], max_steps=10**6, faults=faults)
    sink = file_sink(chosen.output_dir.with_suffix(".jsonl"))
    watcher = threading.Thread(target=release_then_stop, args=(chosen, sink, job), daemon=True)
    watcher.start()
    try:
        with pytest.raises(TrainingStopped):
            launch_training(chosen, claim_run_directory(chosen), sink)
    finally:
        ray.shutdown()
    events = [(record["what"], record["message"]) for record in sink.records() if record["kind"] == "event"]
    # No attempt was lost or begun twice before the first step.
    assert [what for what, _ in events] == ["resize", "resumed"]
    assert events[0][1] == "resources for 2 workers instead of 1"
    assert "1 worker(s), ZeRO 0 -> 2 worker(s), ZeRO 0" in events[1][1]
