"""One optimizer step: its learning rate, what the host reads of the device and when, the order of its gradients."""

from __future__ import annotations

import math
from itertools import count

import pytest
import torch
from host_reads import HostReads, synchronisations
from meta_device import META, on_meta

from vavl.training import step as step_module
from vavl.training.loop import train_step
from vavl.training.run import prepare_run
from vavl.training.settings import OptimizerSettings
from vavl.training.step import learning_rate

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


def curve(total: int = 100, **settings) -> list[float]:
    chosen = OptimizerSettings(learning_rate=2.0, **settings)
    return [learning_rate(step, total, chosen) for step in range(total)]


def test_by_default_the_rate_is_constant():
    assert set(curve()) == {2.0}


def test_warm_up_rises_in_equal_steps_from_the_first_to_the_peak():
    rates = curve(warmup_steps=4)
    assert rates[:6] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])


def test_the_rate_falls_as_a_cosine_to_the_final_share():
    rates = curve(final_share=0.1)
    assert rates[0] == 2.0
    assert rates[50] == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert rates[-1] == pytest.approx(0.2, rel=0.02)
    assert rates == sorted(rates, reverse=True)
    expected = 2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi * 0.25)) / 2)
    assert rates[25] == pytest.approx(expected)


def test_warm_up_and_decay_join_at_the_peak():
    rates = curve(warmup_steps=10, final_share=0.0)
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert min(rates) > 0


@pytest.mark.parametrize("total", [1, 3, 10])
def test_a_run_shorter_than_its_warm_up_never_leaves_it(total):
    rates = curve(total, warmup_steps=20, final_share=0.1)
    assert rates == pytest.approx([2.0 * (step + 1) / 20 for step in range(total)])


def test_the_rate_of_a_step_beyond_the_end_is_the_last():
    chosen = OptimizerSettings(learning_rate=2.0, final_share=0.1)
    assert learning_rate(500, 100, chosen) == pytest.approx(0.2)


EVERY_OBJECTIVE = {
    "hgr": {"weight": 0.5, "audio_video": 0.3},
    "ladder": {"weight": 0.3, "lateral": "both", "detach_target": False},
    "pseudo_label": {"weight": 0.5, "teacher": "average"},
}
TAKEN = 12
# Audio of 3 to 5 frames, video of 1 or 2.
MIXED = {"without_audio": (0,), "without_video": (1,), "without_label": (1, 2), "max_frames": 5}


def test_parameters_get_their_gradients_in_one_order(plan):
    """Micro-batches of one and two clips: some lack a modality, some have a single frame."""
    chosen = plan(corpus=MIXED, objectives=EVERY_OBJECTIVE, training={"clips_per_forward": 2, "average_decay": 0.8})
    run = prepare_run(chosen)
    order: list[str] = []
    for name, parameter in run.engine.network.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
    frames, teacher_mean = set(), run.start.teacher_mean
    for step in range(TAKEN):
        batches = run.loader.load(step)
        frames |= {min(batch.video.is_real.shape[1], 2) for batch in batches}
        teacher_mean = train_step(run, step, batches, teacher_mean).teacher_mean
    names = len(list(run.engine.network.named_parameters()))
    assert len(order) == names * TAKEN * 5
    orders = {tuple(order[start : start + names]) for start in range(0, len(order), names)}
    assert frames == {1, 2}  # single frames and more: else this would show nothing
    assert len(orders) == 1
