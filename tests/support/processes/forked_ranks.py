"""Ranks as forked processes: they start at once, since their parent has imported what takes seconds.

For programs of their own, which have not yet started a thread; a test starts such a program.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist


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
    """Run ``work`` on so many ranks of one gloo group.

    Raises:
        RuntimeError: a rank failed; its traceback is on stderr, the others were ended.
    """
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            fork.Process(target=_be_rank, args=(rank, ranks, Path(folder) / "meeting", work)) for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        try:
            _join(processes)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _join(processes: list[BaseProcess]) -> None:
    """Wait for all; a rank that failed would leave the others waiting for it."""
    running = {process.sentinel: process for process in processes}
    while running:
        for sentinel in wait(list(running)):
            process = running.pop(sentinel)
            process.join()
            if process.exitcode:
                raise RuntimeError(f"{process.name} ended with {process.exitcode}")


def _be_rank(rank: int, ranks: int, meeting: Path, work: Callable[[], None]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=ranks)
    work()
    dist.barrier()
    dist.destroy_process_group()
