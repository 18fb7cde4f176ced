"""What ranks agree on: the only file with collective operations.

Every function here must be called by every rank, in the same order. Without a process group (one
process, no Ray) they return their input.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import HashStore  # type: ignore[attr-defined]  # documented, not in __all__

GPU_BACKEND = "cpu:gloo,cuda:nccl"
"""Backend of a run on GPUs. A group of "nccl" alone refuses tensors of the CPU."""
CPU_BACKEND = "gloo"


def rank_and_world_size() -> tuple[int, int]:
    """Return this process' rank and the number of processes; not collective."""
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def start_single_process_group(device: torch.device) -> None:
    """Start a process group of this process alone, as DeepSpeed wants one; not collective."""
    if not dist.is_initialized():
        dist.init_process_group(backend_of(device), store=HashStore(), rank=0, world_size=1)


def backend_of(device: torch.device) -> str:
    """Return the backend of ``torch.distributed`` that serves a run on ``device``."""
    return GPU_BACKEND if device.type == "cuda" else CPU_BACKEND


def message_device() -> torch.device:
    """Return where the tensors of messages between ranks have to be: on the CPU wherever the group serves it."""
    served = dist.get_backend_config()
    if "cpu:" in served:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def add_over_ranks(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add named tensors over all ranks in one operation. Every rank must call, with the same names and shapes."""
    names = sorted(sums)
    flat = torch.cat([sums[name].detach().double().reshape(-1) for name in names])
    if dist.is_initialized():
        dist.all_reduce(flat)
    pieces = torch.split(flat, [sums[name].numel() for name in names])
    return {name: piece.reshape(sums[name].shape) for name, piece in zip(names, pieces, strict=True)}


def add_array_over_ranks(values: NDArray[np.float64], device: torch.device) -> NDArray[np.float64]:
    """Add an array of equal shape over all ranks. Every rank must call."""
    total = add_over_ranks({"values": torch.from_numpy(values).to(device)})["values"]
    result: NDArray[np.float64] = total.cpu().numpy()
    return result


def gather_shards(shard: Tensor) -> Tensor:
    """Return the flat shards of all ranks, one after the other. Every rank must call, with equal sizes."""
    if not dist.is_initialized():
        return shard
    world_size = rank_and_world_size()[1]
    parts = [torch.empty_like(shard) for _ in range(world_size)]
    dist.all_gather(parts, shard.contiguous())
    return torch.cat(parts)


def from_rank_zero(text: str) -> str:
    """Return the text that rank 0 passed. Every rank must call."""
    message = [text]
    if dist.is_initialized():
        dist.broadcast_object_list(message, src=0, device=message_device())
    return message[0]


def any_rank(*, is_true: bool) -> bool:
    """Return whether any rank passed True. Every rank must call."""
    if not dist.is_initialized():
        return is_true
    return bool(add_over_ranks({"any": torch.tensor(float(is_true), device=message_device())})["any"] > 0)


def wait_for_all() -> None:
    """Wait until every rank has come here. Every rank must call."""
    if dist.is_initialized():
        dist.barrier()
