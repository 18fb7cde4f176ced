"""How many workers a Ray cluster has resources for."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import ray

from vavl.errors import TrainingError
from vavl.training.settings import TrainingSettings

_POLL_SECONDS = 2.0


def resources_of_worker(settings: TrainingSettings) -> dict[str, float]:
    """Return what one worker asks of Ray, by Ray's names; memory in bytes."""
    wanted = {"CPU": settings.cpus_per_worker, **settings.resources_per_worker}
    if settings.gpus_per_worker:
        wanted["GPU"] = settings.gpus_per_worker
    if settings.memory_per_worker_gb is not None:
        wanted["memory"] = settings.memory_per_worker_gb * 2**30
    return wanted


def workers_that_fit(machines: Sequence[Mapping[str, float]], settings: TrainingSettings) -> int:
    """Count the workers that fit on machines with these resources, as the placement demands."""
    wanted = resources_of_worker(settings)
    if settings.accelerator_type is not None:
        # A machine with an accelerator carries this resource; 0.001 of it is what Ray asks for.
        wanted[f"accelerator_type:{settings.accelerator_type}"] = 0.001
    fitting = [
        min(math.floor(machine.get(name, 0) / amount + 1e-9) for name, amount in wanted.items())
        for machine in machines
    ]
    match settings.placement:
        case "strict_pack":
            return max(fitting, default=0)
        case "strict_spread":
            return sum(count > 0 for count in fitting)
        case "pack" | "spread":
            return sum(fitting)


def total_workers(settings: TrainingSettings) -> int:
    """Count the workers that the living machines of the cluster could hold if nothing else ran on them."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return min(settings.most_workers, workers_that_fit(machines, settings))


def free_workers(settings: TrainingSettings) -> int:
    """Count the workers that fit on what no other job holds, at most those that the machines could hold.

    Ray's own elastic policy counts the whole cluster: next to another job it asks for more than there is, times out
    and asks again. Ray publishes what is free for the cluster as a whole, so scattered remainders count as well.
    """
    free = settings.model_copy(update={"placement": "pack"})
    return min(total_workers(settings), workers_that_fit([ray.available_resources()], free))


def wait_for_workers(settings: TrainingSettings, check: Callable[[], None]) -> int:
    """Wait until the least number of workers fits on what is free; return how many fit.

    Args:
        settings: of the run.
        check: called while waiting; raises where the run was asked to stop.

    Raises:
        TrainingError: it took longer than ``training.faults.wait_for_workers_seconds``.
    """
    start = time.monotonic()
    while (free := free_workers(settings)) < settings.least_workers:
        waited = time.monotonic() - start
        if waited > settings.faults.wait_for_workers_seconds:
            raise TrainingError(
                "training", "workers",
                f"the cluster has free resources for {free} of {settings.least_workers} workers after {waited:.0f} s; "
                f"machines: {describe_machines()}",
                "lower training.workers or what a worker asks for, wait for other jobs, or add machines",
            )  # fmt: skip
        check()
        if total_workers(settings) < settings.least_workers:
            # Notifies an autoscaler; Ray Train asks itself once it runs.
            ray.autoscaler.sdk.request_resources(
                bundles=[_whole(resources_of_worker(settings))] * settings.least_workers
            )
        time.sleep(_POLL_SECONDS)
    return free


def describe_machines() -> str:
    """Describe the living machines in a few words, for messages."""
    counted = Counter(
        f"{node['Resources'].get('CPU', 0):g} CPU, {node['Resources'].get('GPU', 0):g} GPU"
        for node in ray.nodes()
        if node["Alive"]
    )
    return "; ".join(f"{count} x {what}" for what, count in counted.items()) or "none"


def _whole(resources: Mapping[str, float]) -> dict[str, int]:
    return {name: math.ceil(amount) for name, amount in resources.items() if name in ("CPU", "GPU")}
