"""Work on parts by workers of Ray Data: its rows are parts, its actors hold extractors and models."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from vavl.errors import ClipError, ConfigError, CorpusError, InputError, StoreError, TrainingError, VavlError
from vavl.ray_session import is_local, join_ray
from vavl.workers.local import set_threads
from vavl.workers.settings import WorkerSettings

logger = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 256 * 2**20
"""Parts go out as names and come back as counts; features never pass through Ray."""

DoPart = Callable[[str], tuple[str, str]]
"""From the text of a part to its name and the text of its result."""

_FAULTS: dict[str, type[VavlError]] = {
    kind.__name__: kind
    for kind in (ClipError, ConfigError, CorpusError, InputError, StoreError, TrainingError, VavlError)
}


class RayPartWorker:
    """An actor of Ray Data.

    Args:
        make: makes what does a part, once; it must travel to another process.
        threads: of the libraries.
    """

    def __init__(self, make: Callable[[], DoPart], threads: int) -> None:
        set_threads(threads)
        self._make = make
        self._do: DoPart | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Do the parts of a batch.

        Args:
            batch: column ``part``, text.

        Returns:
            Columns ``name``, of the part, ``result``, text, and ``fault``, which is empty or says what ends
            the job: Ray would lose its class and its fields.
        """
        try:
            # Not in the constructor: Ray would start a worker again that ends there, for ever.
            self._do = self._do or self._make()
            done = [self._do(str(text)) for text in batch["part"]]
        except VavlError as fault:
            return {"name": [""], "result": [""], "fault": [_fault_text(fault)]}
        return {
            "name": [name for name, _ in done], "result": [result for _, result in done], "fault": [""] * len(done),
        }  # fmt: skip


def work_on_ray(
    parts: Sequence[str], make: Callable[[], DoPart], run: WorkerSettings, what: str
) -> Iterator[tuple[str, str]]:
    """Let Ray's workers do parts and yield name and result of each when it is there, in any order.

    Args:
        parts: each as a text; small, for features never pass through Ray.
        make: makes what does a part, once per worker.
        run: resources of a worker; ``workers`` null takes all that there is place for.
        what: of the work, for messages.

    Raises:
        ConfigError: this machine has no place for a worker.
        VavlError: what a worker raised.
        TrainingError: Ray does not start, or workers end before they touch a clip.
    """
    threads = math.ceil(run.cpus_per_worker)
    was_running = ray.is_initialized()
    try:
        join_ray(threads, _OBJECT_STORE_BYTES)
    except Exception as fault:  # Ray raises no narrower one when its processes do not answer in time
        raise TrainingError(
            what, "workers", f"Ray did not start: {fault}",
            "start the same command again when the machine is less busy, or with workers=0",
        ) from fault  # fmt: skip
    try:
        workers = number_of_workers(run, len(parts), what)
        logger.info("%s: %d Ray workers, %s each", what, workers, _resources_in_words(run))
        with _quiet():
            done = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
            done = done.map_batches(
                RayPartWorker,
                fn_constructor_args=(make, threads),
                batch_size=1,
                compute=ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
                num_cpus=run.cpus_per_worker,
                num_gpus=run.gpus_per_worker or None,
                memory=_memory_bytes(run),
            )
            # Ray starts a dead worker again and gives it its part again, as often as it takes: a part that
            # ends one process after the other is ended by vavl.workers.attempts.
            results = iter(done.iter_batches(batch_size=None, prefetch_batches=0))
            with contextlib.closing(results):
                for batch in results:
                    for name, text, ended in zip(batch["name"], batch["result"], batch["fault"], strict=True):
                        if ended:
                            raise _fault_of(str(ended))
                        yield str(name), str(text)
    except RayError as fault:
        raise TrainingError(
            what, "workers", f"Ray gave up: {fault}",
            "look into the log of Ray's session, then start the same command again",
        ) from fault  # fmt: skip
    finally:
        if not was_running:
            ray.shutdown()


def check_shared(*folders: Path) -> None:
    """Refuse, in a worker, a machine that does not see the folders of the job.

    Raises:
        InputError: names machine and folder.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InputError(
                str(folder), "", f"the machine {ray.util.get_node_ip_address()} does not see this folder",
                "put media and output_dir into a folder that every machine of the cluster shares",
            )  # fmt: skip


def number_of_workers(run: WorkerSettings, parts: int, what: str = "extraction") -> int:
    """Return how many workers to start: as many as wanted, no more than parts and places.

    Raises:
        ConfigError: no machine has place for one.
    """
    wanted = {"CPU": run.cpus_per_worker, "GPU": run.gpus_per_worker, "memory": _memory_bytes(run) or 0}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    places = sum(
        min(math.floor(machine.get(name, 0) / amount + 1e-9) for name, amount in wanted.items() if amount)
        for machine in machines
    )
    if is_local() and places == 0:
        raise ConfigError(
            what, "cpus_per_worker, gpus_per_worker, memory_per_worker_gb",
            f"this machine has no place for a worker with {_resources_in_words(run)}",
            "lower them, or set workers=0 to work without Ray",
        )  # fmt: skip
    # A cluster may grow when workers wait for a place.
    most = run.workers if run.workers is not None and not is_local() else min(run.workers or places, places)
    if run.workers is not None and most < run.workers:
        logger.info("%d workers are asked for, this machine has place for %d", run.workers, most)
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


def _fault_text(fault: VavlError) -> str:
    return json.dumps([type(fault).__name__, *fault.args])


def _fault_of(text: str) -> VavlError:
    kind, *args = json.loads(text)
    return _FAULTS[kind](*args)


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
