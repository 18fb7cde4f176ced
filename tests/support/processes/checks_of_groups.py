"""Checks of messages between ranks: every collective under the backend of a run on this device."""

from __future__ import annotations

import socket
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing
from gpu_checks import Bench, Difference
from torch.distributed import HashStore

from vavl.training.checkpoint import Checkpoints
from vavl.training.collectives import (
    add_array_over_ranks,
    add_over_ranks,
    any_rank,
    backend_of,
    from_rank_zero,
    gather_shards,
    message_device,
    start_single_process_group,
    wait_for_all,
)

_LOOPBACK = "127.0.0.1"


def check_one_rank(bench: Bench) -> None:
    """Exchange messages in a group of this process alone, as an engine in process starts it."""
    start_single_process_group(bench.device)
    try:
        exchange(bench.device, bench.folder)
    finally:
        dist.destroy_process_group()


def check_two_ranks(bench: Bench) -> None:
    """Exchange messages between two processes, each with a GPU of its own where there are GPUs."""
    with socket.create_server((_LOOPBACK, 0)) as free:
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank_of_two, (bench, port), nprocs=2)


def check_group_of_cuda_alone(bench: Bench) -> None:
    """Show on a CPU that a group for CUDA alone refuses tensors of the CPU, and that messages avoid them there."""
    dist.init_process_group("cuda:gloo", store=HashStore(), rank=0, world_size=1)
    try:
        try:
            dist.all_reduce(torch.ones(1))
        except RuntimeError as refusal:
            if "device type cpu" not in str(refusal):
                raise
        else:
            raise Difference("the group took a tensor of the CPU")
        with patch.object(torch.cuda, "current_device", lambda: 3):
            if message_device() != torch.device("cuda", 3):
                raise Difference(f"messages go to {message_device()}")
    finally:
        dist.destroy_process_group()


def exchange(device: torch.device, folder: Path) -> None:
    """Call every collective with what the training passes, and look at the answers. Every rank must call.

    Raises:
        Difference: an answer is wrong.
    """
    rank, ranks = dist.get_rank(), dist.get_world_size()
    total = sum(range(1, ranks + 1))
    for place in {device, torch.device("cpu")}:  # the loop adds on the device, the evaluation on the CPU
        mine = torch.full((3,), rank + 1.0, device=place)
        _equal(f"sum on {place}", add_over_ranks({"a": mine})["a"].tolist(), [total] * 3)
        _equal(f"shards on {place}", gather_shards(mine).cpu().unique().tolist(), list(range(1, ranks + 1)))
        array = add_array_over_ranks(np.full(2, rank + 1.0), place)
        _equal(f"array on {place}", array.tolist(), [total] * 2)
    _equal("text", from_rank_zero("größe" if rank == 0 else ""), "größe")
    _equal("any", [any_rank(is_true=rank == ranks - 1), any_rank(is_true=False)], [True, False])
    checkpoints = Checkpoints(folder / "messages", 1)
    checkpoints.open()
    checkpoints.finish()
    _equal("newest checkpoint", checkpoints.newest(folder), None)
    wait_for_all()


def _rank_of_two(rank: int, bench: Bench, port: int) -> None:
    device = torch.device("cuda", rank) if bench.on_gpu else bench.device
    if bench.on_gpu:
        torch.cuda.set_device(device)
    address = f"tcp://{_LOOPBACK}:{port}"
    dist.init_process_group(backend_of(device), init_method=address, rank=rank, world_size=2)
    exchange(device, bench.folder)
    dist.destroy_process_group()


def _equal(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise Difference(f"{what}: {found} instead of {expected}")
