"""Processes that extract parts; a clip that ends its process does not end the job."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass

from vavl.errors import TrainingError
from vavl.features.part import Part, PartRecord

logger = logging.getLogger(__name__)

Work = Callable[[Part], PartRecord]
_WAITING_PER_PROCESS = 2


@dataclass(frozen=True)
class _Pools:
    """Makes pools of processes that are alike."""

    processes: int
    begin: Callable[[], None] | None

    def new(self) -> ProcessPoolExecutor:
        # Not fork: the libraries here run threads, and a fork of a process with threads can lock up.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.processes, context, initializer=_begin, initargs=(self.begin,))


def run_parts(
    parts: Iterable[Part], work: Work, processes: int, begin: Callable[[], None] | None = None
) -> Iterator[tuple[Part, PartRecord]]:
    """Run ``work`` on every part and yield each result when it is there, in any order.

    Args:
        parts: taken as processes become free, never all at once.
        work: a function that can be pickled.
        processes: how many; 0 works in this process.
        begin: called once in each process.

    Raises:
        VavlError: what ``work`` raised.
        TrainingError: processes end before they touch a clip.
    """
    if processes == 0:
        for part in parts:
            yield part, work(part)
        return
    waiting = iter(parts)
    while True:
        broken: list[Part] = []
        yield from _run_until_broken(waiting, work, _Pools(processes, begin), broken)
        if not broken:
            return
        logger.warning("a process ended without a word; %d parts are done again one by one", len(broken))
        for part in broken:
            yield part, _run_alone(part, work, _Pools(1, begin))


def _run_until_broken(
    waiting: Iterator[Part], work: Work, pools: _Pools, broken: list[Part]
) -> Iterator[tuple[Part, PartRecord]]:
    """Yield results until all parts are done or a process has died; ``broken`` gets the lost parts."""
    pool = pools.new()
    running: dict[Future[PartRecord], Part] = {}
    try:
        while True:
            while not broken and len(running) < pools.processes * _WAITING_PER_PROCESS:
                part = next(waiting, None)
                if part is None:
                    break
                if not _submit(pool, work, part, running):
                    broken.append(part)
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                part = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    broken.append(part)
                else:
                    yield part, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _submit(
    pool: ProcessPoolExecutor, work: Work, part: Part, running: dict[Future[PartRecord], Part]
) -> bool:
    with suppress(BrokenProcessPool):
        running[pool.submit(work, part)] = part
        return True
    return False


def _run_alone(part: Part, work: Work, pools: _Pools) -> PartRecord:
    """Run one part in a process of its own until it survives; each clip that ends it is set aside."""
    while True:
        part.marker.unlink(missing_ok=True)
        try:
            with pools.new() as pool:
                return pool.submit(work, part).result()
        except BrokenProcessPool:
            clip_id = part.marker.read_text("utf-8") if part.marker.exists() else ""
            if not clip_id or clip_id in part.crashing:
                raise TrainingError(
                    "extraction", part.path.stem, "its process ends before it has read a clip",
                    "look for the reason in the system's log (out of memory?), then start the same command again",
                ) from None  # fmt: skip
            logger.warning("clip %s: %s ended its process; it is quarantined", clip_id, part.modality)
            part = part.with_crashing(clip_id)


def _begin(begin: Callable[[], None] | None) -> None:
    """Prepare a process: it ends when its parent has ended."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # A killed job leaves nobody to report to: end at once, a half-written part is discarded.
        os._exit(1)
