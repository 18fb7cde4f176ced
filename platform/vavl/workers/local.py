"""Work in this process: when it is enough, and with how many threads."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import torch
from filelock import FileLock, Timeout

from vavl.errors import StoreError
from vavl.workers.settings import WorkerSettings

logger = logging.getLogger(__name__)

_PAIRS_WORTH_RAY = 64
"""Ray and its workers take some ten seconds to start; so many files are read meanwhile."""


def uses_ray(run: WorkerSettings, pairs: int, was_killed: bool, pairs_worth_ray: int = _PAIRS_WORTH_RAY) -> bool:
    """Decide whether Ray's workers do the work, and say why.

    Args:
        run: the settings; ``workers`` null leaves the choice to this function.
        pairs: (clip, modality) pairs to do.
        was_killed: an earlier process ended in the middle of a clip: it may do so again.
        pairs_worth_ray: so many are done here while workers would start.
    """
    if run.workers is not None:
        return run.workers > 0
    if was_killed:
        logger.info("an earlier job ended in the middle of a clip: workers take over, which may end")
        return True
    if pairs <= pairs_worth_ray:
        logger.info("%d files: this process reads them, workers would take longer to start", pairs)
    return pairs > pairs_worth_ray


@contextlib.contextmanager
def threads_of_libraries(count: int) -> Iterator[None]:
    """Let the libraries of this process use ``count`` threads each; afterwards as many as before."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    set_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def set_threads(count: int) -> None:
    """Let the libraries of this process use ``count`` threads each."""
    torch.set_num_threads(count)
    cv2.setNumThreads(count)


@contextlib.contextmanager
def only_job(directory: Path, what: str = "store") -> Iterator[None]:
    """Hold the lock of a directory; the system frees it when the process ends, however it ends.

    ``directory``: of the parts, in that of the results. ``what``: the results are, for the message.

    Raises:
        StoreError: another job holds it.
    """
    lock = FileLock(directory / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        problem = f"another job is writing this {what}"
        raise StoreError(str(directory.parent), "", problem, "wait for it, or end it") from None
    try:
        yield
    finally:
        lock.release()
