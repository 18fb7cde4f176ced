"""What workers agree on: the only file with collective operations.

Every function here must be called by every rank, in the same order. Without a process group (one
process, no Ray) they return their input.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch._C._distributed_c10d import HashStore

_BUCKET_ELEMENTS = 2**22
_BUCKETS_ON_THE_WAY = 4


def rank_and_world_size() -> tuple[int, int]:
    """Return this process' rank and the number of processes; not collective."""
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def start_single_process_group(device: torch.device) -> None:
    """Start a process group of this process alone, as DeepSpeed wants one; not collective.

    Args:
        device: whose tensors it serves: gloo cannot gather those of a GPU, and waits for those it adds up.
    """
    if not dist.is_initialized():
        dist.init_process_group(backend_of(device), store=HashStore(), rank=0, world_size=1)


def backend_of(device: torch.device) -> str:
    """Return the name of the library that connects the ranks' devices."""
    return "nccl" if device.type == "cuda" else "gloo"


def add_over_ranks(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add named tensors over all ranks in one operation. Every rank must call, with the same names and shapes."""
    names = sorted(sums)
    flat = torch.cat([sums[name].detach().double().reshape(-1) for name in names])
    if dist.is_initialized():
        dist.all_reduce(flat)
    pieces = torch.split(flat, [sums[name].numel() for name in names])
    return {name: piece.reshape(sums[name].shape) for name, piece in zip(names, pieces, strict=True)}


def average_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Average tensors over all ranks, in place. Every rank must call, with the same shapes and types.

    Some travel while the next ones are copied into a buffer and those that have arrived out of it.
    """
    on_the_way: deque[tuple[dist.Work, Tensor, list[Tensor]]] = deque()
    for some in _in_buckets(tensors):
        flat = torch.cat([one.reshape(-1) for one in some]).mul_(1.0 / dist.get_world_size())
        on_the_way.append((dist.all_reduce(flat, async_op=True), flat, some))
        if len(on_the_way) > _BUCKETS_ON_THE_WAY:
            _arrive(*on_the_way.popleft())
    while on_the_way:
        _arrive(*on_the_way.popleft())


def _in_buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for one in tensors:
        is_full = sum(held.numel() for held in bucket) >= _BUCKET_ELEMENTS
        if bucket and (is_full or one.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(one)
    if bucket:
        yield bucket


def _arrive(work: dist.Work, flat: Tensor, tensors: Sequence[Tensor]) -> None:
    work.wait()
    pieces = torch.split(flat, [one.numel() for one in tensors])
    for one, piece in zip(tensors, pieces, strict=True):
        one.copy_(piece.view_as(one))


def add_array_over_ranks(values: NDArray[np.float64], device: torch.device) -> NDArray[np.float64]:
    """Add an array of equal shape over all ranks. Every rank must call."""
    total = add_over_ranks({"values": torch.from_numpy(values).to(device)})["values"]
    result: NDArray[np.float64] = total.cpu().numpy()
    return result


def from_rank_zero(text: str) -> str:
    """Return the text that rank 0 passed. Every rank must call."""
    if not dist.is_initialized():
        return text
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    content = torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)
    length = torch.tensor([len(content)], device=device)
    dist.broadcast(length, src=0)
    if dist.get_rank() != 0:
        content = torch.empty(int(length.item()), dtype=torch.uint8, device=device)
    dist.broadcast(content, src=0)
    return bytes(content.tolist()).decode()


def wait_for_all() -> None:
    """Wait until every rank has come here. Every rank must call."""
    if dist.is_initialized():
        dist.barrier()
