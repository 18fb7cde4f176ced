"""Work on parts by workers of Ray Data: its rows are parts, its actors hold extractors and models."""

from __future__ import annotations

import contextlib
import logging
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from vavl.errors import ConfigError, InputError, TrainingError, VavlError
from vavl.ray_session import is_local, join_ray, ray_machines
from vavl.workers.local import set_threads
from vavl.workers.settings import WorkerSettings

logger = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 256 * 2**20
"""Parts go out as names and come back as counts; features never pass through Ray."""

Part = TypeVar("Part")
Result = TypeVar("Result")


class RayPartWorker:
    """An actor of Ray Data.

    ``work``: does a part; what is expensive it makes at the first. ``directories``: that this machine has to see.
    """

    def __init__(self, work: Callable[[Any], Any], directories: Sequence[Path], threads: int) -> None:
        set_threads(threads)
        self._work, self._directories = work, directories

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Do the parts of a batch.

        Returns:
            Column ``result``, pickled; a ``VavlError`` ends the job: raised here, Ray would lose its fields.
        """
        try:
            # Not in the constructor: Ray would start a worker again that ends there, for ever.
            self._check_shared()
            done = [self._work(pickle.loads(part)) for part in batch["part"]]  # noqa: S301  written by this job
        except VavlError as error:
            done = [error]
        return {"result": [pickle.dumps(result) for result in done]}

    def _check_shared(self) -> None:
        for directory in self._directories:
            if not directory.is_dir():
                problem = f"the machine {ray.util.get_node_ip_address()} does not see this directory"
                fix = "put media and output_dir into a directory that every machine of the cluster shares"
                raise InputError(str(directory), "", problem, fix)


def work_on_ray(
    parts: Sequence[Part], work: Callable[[Part], Result], directories: Sequence[Path], run: WorkerSettings, what: str
) -> Iterator[Result]:
    """Let Ray's workers do parts and yield the result of each when it is there, in any order.

    Args:
        parts: small, for features never pass through Ray.
        work: does a part; each worker gets a copy, which makes what is expensive when it is first needed.
        directories: that every machine has to see.
        run: resources of a worker; ``workers`` null takes all that there is capacity for.
        what: of the work, for messages.

    Raises:
        ConfigError: this machine has no capacity for a worker.
        VavlError: what a worker raised; InputError: its machine does not see a directory.
        TrainingError: Ray does not start, or workers end before they touch a clip.
    """
    threads = math.ceil(run.cpus_per_worker)
    was_running = ray.is_initialized()
    _start_ray(threads, what)
    try:
        workers = number_of_workers(run, len(parts), what)
        logger.info("%s: %d Ray workers, %s each", what, workers, _resources_in_words(run))
        with _quiet():
            rows = [{"part": pickle.dumps(part)} for part in parts]
            done = ray.data.from_items(rows, override_num_blocks=len(parts))
            done = done.map_batches(
                RayPartWorker,
                fn_constructor_args=(work, directories, threads),
                batch_size=1,
                compute=ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
                num_cpus=run.cpus_per_worker,
                num_gpus=run.gpus_per_worker or None,
                memory=_memory_bytes(run),
            )
            # Ray starts a lost worker again and gives it its part again, as often as it takes: a part that
            # ends one process after the other is ended by vavl.workers.attempts.
            results = iter(done.iter_batches(batch_size=None, prefetch_batches=0))
            with contextlib.closing(results):
                for batch in results:
                    for pickled in batch["result"]:
                        result = pickle.loads(pickled)  # noqa: S301  written by this job's workers
                        if isinstance(result, VavlError):
                            raise result
                        yield result
    except RayError as error:
        fix = "look into the log of Ray's session, then start the same command again"
        raise TrainingError(what, "workers", f"Ray gave up: {error}", fix) from error
    finally:
        if not was_running:
            ray.shutdown()


def _start_ray(threads: int, what: str) -> None:
    try:
        join_ray(threads, _OBJECT_STORE_BYTES)
    except VavlError:
        raise
    except Exception as error:  # Ray raises no narrower one when its processes do not answer in time
        fix = "start the same command again when the machine is less busy, or with workers=0"
        raise TrainingError(what, "workers", f"Ray did not start: {error}", fix) from error


def number_of_workers(run: WorkerSettings, parts: int, what: str = "extraction") -> int:
    """Return how many workers to start: as many as wanted, no more than parts and capacity.

    Raises:
        ConfigError: no machine has capacity for one.
    """
    wanted = {"CPU": run.cpus_per_worker, "GPU": run.gpus_per_worker, "memory": _memory_bytes(run) or 0}
    capacity = sum(
        min(math.floor(machine.get(name, 0) / amount + 1e-9) for name, amount in wanted.items() if amount)
        for machine in ray_machines()
    )
    if is_local() and capacity == 0:
        problem = f"this machine has no capacity for a worker with {_resources_in_words(run)}"
        fix = "lower them, or set workers=0 to work without Ray"
        raise ConfigError(what, "cpus_per_worker, gpus_per_worker, memory_per_worker_gb", problem, fix)
    # A cluster may grow when workers wait for resources.
    most = run.workers if run.workers is not None and not is_local() else min(run.workers or capacity, capacity)
    if run.workers is not None and most < run.workers:
        logger.info("%d workers are asked for, this machine has capacity for %d", run.workers, most)
    return max(min(most, parts), 1)


def _memory_bytes(run: WorkerSettings) -> int | None:
    return None if run.memory_per_worker_gb is None else round(run.memory_per_worker_gb * 2**30)


def _resources_in_words(run: WorkerSettings) -> str:
    words = [f"{run.cpus_per_worker:g} CPU"]
    if run.gpus_per_worker:
        words.append(f"{run.gpus_per_worker:g} GPU")
    if run.memory_per_worker_gb is not None:
        words.append(f"{run.memory_per_worker_gb:g} GB")
    return ", ".join(words)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Data's own progress and plans out of the log."""
    context, log = DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        log.setLevel(before[1])
