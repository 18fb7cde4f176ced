"""One optimizer step: what the host reads of the device, and when."""

from __future__ import annotations

from itertools import count

import pytest
import torch
from host_reads import HostReads, synchronisations
from meta_device import META, on_meta

from vavl.training import step as step_module
from vavl.training.loop import train_step
from vavl.training.run import prepare_run

REQUESTS = {"stop": False, "report": True}
HGR = {"objectives": {"hgr": {"weight": 1.0}}}
STEPS = {
    "plain": {},
    "clipping off": {"training": {"optimizer": {"gradient_clipping": 0}}},
    "hgr in two micro-batches": {**HGR, "training": {"clips_per_forward": 5}},
    "average": {"training": {"average_decay": 0.9}},
    "gradients of parts": {**HGR, "training": {"gradient_norms_every_steps": 1}},
    "pseudo-labels": {"objectives": {"pseudo_label": {}}},
    "hard labels": {"objectives": {"pseudo_label": {"kind": "hard", "threshold": 0.4}}},
    "pseudo-labels of the average": {
        "objectives": {"pseudo_label": {"teacher": "average"}},
        "training": {"average_decay": 0.9},
    },
    "bf16": {"training": {"precision": "bf16"}},
}


@pytest.fixture
def make_run(plan):
    """Return a function that prepares a run with dropout; sections as for ``plan``."""

    def make(**sections):
        run = prepare_run(plan(**{**sections, "model": {**plan().model.model_dump(), "dropout": 0.2}}))
        run.engine.network.train()
        return run

    return make


@pytest.mark.parametrize("name", sorted(STEPS))
def test_the_host_reads_the_device_once_and_after_the_update(make_run, name):
    run, until_update = make_run(**STEPS[name]), []
    update = run.engine.step

    def remember(rate):
        norm = update(rate)
        until_update.extend(reads.found)
        return norm

    run.engine.step = remember
    micro_batches = run.loader.load(0)
    with HostReads() as reads:
        done = train_step(run, 0, micro_batches, run.start.teacher_mean, REQUESTS)
    assert until_update == []
    (read,) = reads.found
    assert read.startswith("tolist at step.py:")
    assert done.requests == REQUESTS
    assert bool(done.part_norms) == (name == "gradients of parts")


@pytest.mark.parametrize("name", sorted(STEPS))
def test_the_step_runs_on_a_device_that_nobody_can_read(make_run, name):
    """On torch's meta device every read raises, as does whatever mixes its tensors with the host's."""
    with on_meta(make_run(**STEPS[name])) as (run, seen):
        moved = [batch.to(META) for batch in run.loader.load(0)]
        done = train_step(run, 0, moved, run.start.teacher_mean, REQUESTS)
    assert {one.device for one in seen.values()} == {META}
    assert {"whole/norm", "counts/clips", "agreed/requests/stop", "agreed/supervised/audio"} <= seen.keys()
    assert done.gradient_norm == 1.0


def test_numbers_come_back_under_their_names_to_the_last_bit():
    third = torch.tensor(1 / 3)
    found = step_module._on_host({
        "scalars": {"a": third, "b": torch.tensor(0.1, dtype=torch.float64)},
        "none": {},
        "vectors": {"c": torch.tensor([1, 2, 3])},
    })  # fmt: skip
    assert found == {
        "scalars": {"a": [float(third)], "b": [0.1]}, "none": {}, "vectors": {"c": [1.0, 2.0, 3.0]},
    }  # fmt: skip


def test_reads_are_seen_wherever_they_hide():
    values = torch.arange(4.0)
    with HostReads() as reads:
        values.sum().item(), float(values[0]), bool(values[1] > 0), values.tolist(), values.numpy()
        torch.tensor([1.0])
        values[values > 1]
        torch.full((), 1.0) + torch.where(values > 0, values, 0.0).sum()
    what = [one.partition(" ")[0] for one in reads.found]
    assert what == ["item", "item", "item", "tolist", "numpy", "tensor", "mask"]
    assert all(" at test_step.py:" in one for one in reads.found)


@pytest.mark.gpu
def test_on_a_gpu_the_host_waits_once_in_a_step(make_run):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    run, steps = make_run(training={"gpus_per_worker": 1}), count()

    def take():
        step = next(steps)
        moving = [batch.to(run.engine.device) for batch in run.loader.load(step)]
        train_step(run, step, moving, None, REQUESTS)

    take()  # the first one makes the optimizer's state
    (wait,) = synchronisations(take, run.engine.device)
    assert wait.startswith("wait at step.py:")
