"""Starting Ray for a training, early: nothing here needs torch or Ray Train, so that both are imported meanwhile."""

from __future__ import annotations

import os

from vavl.errors import TrainingError
from vavl.ray_session import is_local, join_ray
from vavl.training.cluster import describe_machines, places_for_workers
from vavl.training.settings import TrainingPlan, TrainingSettings

_LEAST_SILENCE_SECONDS = 120.0

_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "600",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
    # So often Ray looks for lost workers and fetches reports; a worker whose report was not fetched yet
    # waits with the next one.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # The processes that Ray starts in advance lack Ray Train's environment: none of them would be used.
    "RAY_prestart_worker_first_driver": "0",
}


def start_ray(plan: TrainingPlan) -> None:
    """Join Ray, or start it, while other things are imported.

    Does nothing for a run in this process. Call it in the main thread: Ray sets signal handlers.

    Raises:
        TrainingError: this machine has no place for the least number of workers.
    """
    if plan.training.launcher == "ray":
        prepare_ray(plan.training)


def prepare_ray(settings: TrainingSettings) -> None:
    """Join Ray, or start it, with what its workers have to know.

    Raises:
        TrainingError: this machine has no place for the least number of workers.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # A process that is stopped altogether leaves no stack; Ray notices that it does not answer.
    silence = max(_LEAST_SILENCE_SECONDS, settings.faults.step_timeout_seconds or 0)
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", str(silence))
    join_ray(settings.threads_per_worker or int(settings.cpus_per_worker) or 1)
    if is_local() and places_for_workers(settings) < settings.least_workers:
        raise TrainingError(
            "training", "workers",
            f"{settings.least_workers} workers with {settings.cpus_per_worker:g} CPUs each are asked for, "
            f"this machine has place for {places_for_workers(settings)} ({describe_machines()})",
            "lower training.workers or training.cpus_per_worker",
        )  # fmt: skip
