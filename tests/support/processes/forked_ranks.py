"""Ranks of a gloo group as processes that start at once: what each would import for seconds is imported before.

A program of its own forks itself after ``warm_up``, before it starts a thread. A test leaves that to the fork server
of Python, which stays for its session.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkContext, ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist

_SERVER = multiprocessing.get_context("forkserver")
# What every rank would import for seconds; the last but one is what a ZeRO stage above 0 brings.
_SERVER.set_forkserver_preload(["deepspeed", "torch._dynamo", "torch._inductor.compile_fx", "vavl.training.run"])
_SECONDS_OF_A_TEST = 600


def warm_up() -> None:
    """Import what every rank needs; every process computes on one thread."""
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])  # imports a second's worth of torch when first made
    os.environ["DS_ACCELERATOR"] = "cpu"
    warnings.simplefilter("ignore")
    # What every rank would import for seconds.
    import deepspeed  # noqa: F401
    from torch import _dynamo  # noqa: F401
    from torch._inductor import compile_fx  # noqa: F401  what a ZeRO stage above 0 brings

    gc.freeze()  # ZeRO 3 collects garbage whenever an engine is made: half a second for what was imported


def run_ranks(ranks: int, work: Callable[[], None]) -> None:
    """Run ``work`` on so many ranks of one gloo group, forked from this process.

    Raises:
        RuntimeError: a rank failed; its traceback is on stderr, the others were ended.
    """
    _run(multiprocessing.get_context("fork"), ranks, work, None)


def run_ranks_of_test(ranks: int, work: Callable[[], None]) -> None:
    """Do the same in a test: ``work`` is pickled, and its module one that can be imported.

    Raises:
        RuntimeError: a rank failed, or none ended in ten minutes.
    """
    _run(_SERVER, ranks, work, _SECONDS_OF_A_TEST)


def _run(context: ForkContext | ForkServerContext, ranks: int, work: Callable[[], None], seconds: float | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        processes = [context.Process(target=_be_rank, args=(rank, ranks, meeting, work)) for rank in range(ranks)]
        for process in processes:
            process.start()
        try:
            _join(processes, seconds)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _join(processes: Sequence[BaseProcess], seconds: float | None) -> None:
    """Wait for all; a rank that failed would leave the others waiting for it."""
    running = {process.sentinel: process for process in processes}
    while running:
        ended = wait(list(running), seconds)
        if not ended:
            raise RuntimeError(f"no rank ended in {seconds} s")
        for sentinel in ended:
            process = running.pop(sentinel)
            process.join()
            if process.exitcode:
                raise RuntimeError(f"{process.name} ended with {process.exitcode}")


def _be_rank(rank: int, ranks: int, meeting: Path, work: Callable[[], None]) -> None:
    torch.set_num_threads(1)
    gc.freeze()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), DS_ACCELERATOR="cpu")
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=ranks)
    work()
    dist.barrier()
    dist.destroy_process_group()
