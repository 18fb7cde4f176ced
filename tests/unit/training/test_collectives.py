"""What workers agree on: without a group, with two processes, and as far as a CPU can show it for NCCL."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vavl.errors import TrainingError
from vavl.training import collectives
from vavl.training.checkpoint import Checkpoints
from vavl.training.collectives import (
    add_array_over_ranks,
    add_over_ranks,
    any_rank,
    backend_of,
    from_rank_zero,
    gather_shards,
    rank_and_world_size,
)
from vavl.training.engine import check_precision
from vavl.training.settings import TrainingSettings

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


CUDA = torch.device("cuda", 1)
META = torch.device("meta")


def test_a_run_on_gpus_has_a_group_that_serves_the_cpu_too():
    assert backend_of(CUDA) == "cpu:gloo,cuda:nccl"
    assert backend_of(torch.device("cpu")) == "gloo"


class Sent(Exception):  # noqa: N818  ends a collective once it is known what it would send
    def __init__(self, tensors):
        super().__init__()
        self.tensors = tensors


@pytest.fixture
def served(monkeypatch):
    """Replace torch.distributed by one that says what a collective would send; return a setter of what it serves."""

    def send(*arguments, **_):
        raise Sent([one for one in arguments if isinstance(one, torch.Tensor)])

    def send_object(*_, device, **__):
        raise Sent([torch.empty(0, device=device)])

    def serve(config):
        fake = SimpleNamespace(
            is_initialized=lambda: True, get_rank=lambda: 0, get_world_size=lambda: 2,
            get_backend_config=lambda: config, all_reduce=send, all_gather=send, broadcast_object_list=send_object,
        )  # fmt: skip
        monkeypatch.setattr(collectives, "dist", fake)
        if "cpu:" not in config:
            # The meta device stands for a GPU, which this machine cannot allocate on.
            monkeypatch.setattr(collectives, "message_device", lambda: META)

    return serve


def checkpoint_messages(call):
    def work(folder):
        call(Checkpoints(folder, keep=1))

    return work


MESSAGES = {
    "any": lambda folder: any_rank(is_true=True),
    "text": lambda folder: from_rank_zero("größe"),
    "checkpoint opened": checkpoint_messages(lambda checkpoints: checkpoints.open()),
    "checkpoint finished": checkpoint_messages(lambda checkpoints: checkpoints.finish()),
    "checkpoint found": checkpoint_messages(lambda checkpoints: checkpoints.newest(None)),
}


@pytest.mark.parametrize(("config", "device"), [("cpu:gloo,cuda:nccl", "cpu"), ("cuda:nccl", "meta")])
@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_lies_where_the_group_serves_it(config, device, message, served, tmp_path):
    """``Checkpoints.finish`` once sent a tensor of the CPU, which ended every run on GPUs after its last step."""
    served(config)
    with pytest.raises(Sent) as sent:
        MESSAGES[message](tmp_path)
    assert [one.device.type for one in sent.value.tensors] == [device]


VALUES = {
    "sum": lambda device: add_over_ranks({"a": torch.zeros(2, device=device), "b": torch.ones((), device=device)}),
    "array": lambda device: add_array_over_ranks(np.zeros(3), device),
    "shards": lambda device: gather_shards(torch.zeros(2, device=device)),
}


@pytest.mark.parametrize("device", [torch.device("cpu"), META])
@pytest.mark.parametrize("name", VALUES)
def test_values_travel_from_where_they_are(device, name, served):
    served("cpu:gloo,cuda:nccl")
    with pytest.raises(Sent) as sent:
        VALUES[name](device)
    assert {one.device.type for one in sent.value.tensors} == {device.type}


@pytest.mark.parametrize("card", ["Tesla V100-SXM2-16GB", "Tesla T4"])
def test_bf16_is_refused_on_a_card_that_emulates_it_with_the_way_to_fp16(card, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: card)
    with pytest.raises(TrainingError, match=f"{re.escape(card)} does not compute in bf16") as error:
        check_precision(TrainingSettings(precision="bf16"), CUDA)
    fix = "set precision: fp32, zero_stage: 1 and deepspeed: {fp16: {enabled: true}}"
    assert (error.value.field, error.value.fix) == ("precision", fix)
    # What it says can be done.
    assert TrainingSettings(precision="fp32", zero_stage=1, deepspeed={"fp16": {"enabled": True}}).zero_stage == 1


@pytest.mark.parametrize(
    ("device", "precision", "emulates"), [("cuda", "bf16", False), ("cuda", "fp32", True), ("cpu", "bf16", True)]
)
def test_what_a_device_computes_in_is_taken(device, precision, emulates, monkeypatch):
    asked = []
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: asked.append(1) or including_emulation or not emulates,
    )
    check_precision(TrainingSettings(precision=precision), torch.device(device))
    assert asked == [1] * ((device, precision) == ("cuda", "bf16"))
