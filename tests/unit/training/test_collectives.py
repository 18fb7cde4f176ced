"""What workers agree on, without a group and with two processes of unequal shards."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch

from vavl.training.collectives import (
    add_array_over_ranks,
    add_over_ranks,
    any_rank,
    backend_of,
    from_rank_zero,
    rank_and_world_size,
)

TWO_PROCESSES = """
import sys
import numpy as np
import torch
import torch.distributed as dist
from vavl.training.collectives import *

rank, place = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
assert rank_and_world_size() == (rank, 2)
# Rank 1 holds no clip at all, and names in another order.
sums = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3.0)} if rank == 0 else {
    "a": torch.tensor(0.0), "b": torch.zeros(2)}
total = add_over_ranks(sums)
assert total["a"] == 3 and total["b"].tolist() == [1, 2], total
assert total["a"].dtype == torch.float64
values = add_array_over_ranks(np.full((2, 3), rank + 1.0), torch.device("cpu"))
assert (values == 3).all() and values.shape == (2, 3)
assert from_rank_zero("größe" if rank == 0 else "") == "größe"
assert from_rank_zero("" if rank == 0 else "not this") == ""
assert any_rank(is_true=rank == 1) and not any_rank(is_true=False)
assert gather_shards(torch.arange(2.0) + 10 * rank).tolist() == [0, 1, 10, 11]
assert message_device() == torch.device("cpu")
wait_for_all()
print("agreed")
"""


def test_one_process_agrees_with_itself():
    assert rank_and_world_size() == (0, 1)
    total = add_over_ranks({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)})
    assert total["a"].tolist() == [1, 2]
    assert total["b"].shape == ()
    assert (add_array_over_ranks(np.eye(2), torch.device("cpu")) == np.eye(2)).all()
    assert from_rank_zero("größe") == "größe"
    assert any_rank(is_true=True)
    assert not any_rank(is_true=False)


def test_sums_carry_no_gradient():
    assert not add_over_ranks({"a": torch.ones(2, requires_grad=True)})["a"].requires_grad


def test_two_processes_agree(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", TWO_PROCESSES]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in started:
        out, err = process.communicate(timeout=600)
        assert out == "agreed\n", err


def test_the_ranks_of_gpus_are_connected_by_nccl():
    assert backend_of(torch.device("cpu")) == "gloo"
    assert {backend_of(torch.device(name)) for name in ("cuda", "cuda:1")} == {"cpu:gloo,cuda:nccl"}
