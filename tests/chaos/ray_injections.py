"""The faults that need a cluster: Ray's controller, whole nodes, notices that a machine goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from disturbed import Disturbed, InjectionError
from ray_nodes import Node, RayNodes
from ray_run import RayRun

_RAY = Path(sys.executable).with_name("ray")
_DEADLINE_SECONDS = 60


def kill_controller(run: Disturbed) -> str:
    """SIGKILL the actor of Ray Train that runs the workers: the driver ends and says so; the same command again."""
    pid = run.draw(_cluster(run).find("TrainController"))
    os.kill(pid, signal.SIGKILL)
    run.wait_for_exit(run.FAILED)
    message = run.command.error_message()
    if "start the same command again" not in message:
        raise AssertionError(f"the driver ended without saying what to do: {message}")
    return "SIGKILL, the driver ended, same command again"


def kill_node(run: Disturbed) -> str:
    """Kill everything on a node at once, and let another one join."""
    count = _kill_node(run)
    _cluster(run).add()
    return f"{count} processes; a new node joins"


def lose_node(run: Disturbed) -> str:
    """Kill a node for good: the run continues with the workers that fit on what is left."""
    count = _kill_node(run)
    return f"{count} processes; {len(_cluster(run).nodes)} node is left"


def add_node(run: Disturbed) -> str:
    """Let a node join: Ray Train resizes the run, which costs at most the steps since the last checkpoint."""
    moment = time.time()
    _cluster(run).add()

    def is_larger() -> bool:
        return any("2 worker(s), ZeRO 1 -> 4 worker(s)" in message for message in run.events("resumed", moment))

    run.wait_until(is_larger, "the run did not grow")
    return "resumed with 4 workers"


def preempt_node(run: Disturbed) -> str:
    """Notify Ray that a node goes away; kill it once a checkpoint of that moment is there."""
    cluster, moment = _cluster(run), time.time()
    node = _node_of_a_worker(run)
    command = [
        str(_RAY), "drain-node", "--address", cluster.address, "--node-id", node_id(node),
        "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
        "--deadline-remaining-seconds", str(_DEADLINE_SECONDS),
    ]  # fmt: skip
    cluster.add()
    subprocess.run(command, env=cluster.environment, check=True, capture_output=True, timeout=60)
    before = run.newest_checkpoint()
    run.wait_until(lambda: bool(run.events("preemption", moment)), "nobody was notified")
    run.wait_until(lambda: run.newest_checkpoint() > before, "no checkpoint was written at the notice", pause=0.05)
    cluster.kill(node)
    return f"checkpoint {run.newest_checkpoint()} before the node went; a new node joins"


def _kill_node(run: Disturbed) -> int:
    return _cluster(run).kill(_node_of_a_worker(run))


def _node_of_a_worker(run: Disturbed) -> Node:
    run.workers()
    with_workers = [node for node in _cluster(run).nodes.values() if node.find("TrainWorker")]
    return run.draw(with_workers)


def node_id(node: Node) -> str:
    """Return Ray's id of a node, which its raylet was started with."""
    for process in node.processes():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        found = [word.split("=", 1)[1] for word in words if word.startswith("--node_id=")]
        if found and words[0].endswith("raylet"):
            return found[0]
    raise InjectionError(f"{node.name} has no raylet")


def _cluster(run: Disturbed) -> RayNodes:
    assert isinstance(run.command, RayRun)
    return run.command.cluster
