"""Model FLOPs against a count by hand, peaks of GPUs, the forecast of a run's time, and its memory."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import psutil
import pytest
import torch

from vavl.training import throughput
from vavl.training.checkpoint_files import LoopState
from vavl.training.loop import train
from vavl.training.run import prepare_run
from vavl.training.throughput import (
    MEASURED_AT,
    WARM_UP_STEPS,
    StepClock,
    clock_of,
    meta_network,
    padded_frames,
    peak_flops,
    peak_memory_bytes,
    training_flops,
)

A100 = "NVIDIA A100-SXM4-80GB"


@pytest.mark.parametrize(
    ("name", "arithmetic", "tera"),
    [
        (A100, "bf16", 312), (A100, "fp32", 19.5), (A100, "tf32", 156),
        ("NVIDIA H100 80GB HBM3", "bf16", 989), ("NVIDIA H100 PCIe", "bf16", 756), ("NVIDIA H200", "bf16", 989),
        ("NVIDIA A10G", "bf16", 70), ("NVIDIA A10", "bf16", 125), ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "fp16", 362),
        ("Tesla V100-SXM2-16GB", "fp16", 125), ("Tesla T4", "fp16", 65), ("Tesla T4", "tf32", 8.1),
        ("NVIDIA GeForce RTX 4090", "bf16", 165),
        # No bf16 in these cards; other cards than their names say at first sight; nobody knows.
        ("Tesla T4", "bf16", None), ("Tesla V100-SXM2-16GB", "bf16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None), ("NVIDIA GeForce RTX 4090 D", "bf16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None), ("NVIDIA H20", "bf16", None),
        ("NVIDIA GH200 480GB", "bf16", None),
        ("NVIDIA A1000", "bf16", None), ("Radeon", "fp32", None), ("", "fp32", None),
    ],
)  # fmt: skip
def test_the_peak_is_that_of_the_data_sheet_or_unknown(name, arithmetic, tera):
    assert peak_flops(name, arithmetic) == (None if tera is None else pytest.approx(tera * 1e12))


def flops_by_hand(plan, run, batch):
    """Count the products of a network without ladder, layer by layer; every weight is met forward and twice backward.

    Not every input has a gradient: the frames, the detached representations and the labels have none.
    """
    model, outputs = plan.model, run.data.task.outputs
    width, hidden, blocks = (model.width, model.feed_forward_expansion, model.modality_blocks + model.shared_blocks)
    total = 0
    for clips in (batch.audio, batch.video):
        rows, frames, channels = clips.values.shape
        products = 2 * 2 * hidden * width**2 + (3 + 1) * width**2 + (2 + 1) * width**2
        attention = 2 * frames * width  # query by key, weights by value
        convolution = model.convolution_kernel * width
        block = rows * frames * (products + attention + convolution)
        head_sizes = (width, *model.head_widths)
        heads = 0
        for last in (outputs, channels):
            sizes = (*head_sizes, last)
            heads += rows * sum(one * two for one, two in pairwise(sizes))
        heads += rows * width * model.correlation_size * (2 / 3)  # frozen without soft-HGR
        total += 3 * (blocks * block + heads) + 2 * rows * frames * channels * width
    sizes = (2 * width, *model.head_widths, outputs)
    fusion = [batch.clips * one * two for one, two in pairwise(sizes)]
    total += 3 * sum(fusion) - fusion[0]
    total += batch.clips * outputs * model.correlation_size
    return 2 * total


@pytest.fixture
def ready(plan):
    """Return a function that prepares a run and gives it with its first micro-batch."""

    def make(**sections):
        run = prepare_run(plan(**sections))
        return run, run.loader.load(0)[0]

    return make


def test_the_count_is_that_by_hand(plan, ready):
    run, batch = ready()
    assert training_flops(meta_network(run), batch) == pytest.approx(flops_by_hand(plan(), run, batch))


def test_what_is_computed_twice_counts_once(ready):
    run, batch = ready()
    once = training_flops(meta_network(run), batch)
    again, _ = ready(training={"activation_checkpointing": True})
    assert again.engine.network.shared.blocks.activation_checkpointing
    assert training_flops(meta_network(again), batch) == once


def test_frozen_parts_have_no_gradient_to_count(ready):
    run, batch = ready()
    whole = training_flops(meta_network(run), batch)
    run.engine.network.audio_path.requires_grad_(requires_grad=False)
    assert whole / 2 < training_flops(meta_network(run), batch) < whole


def test_the_ladder_adds_a_clean_pass_and_the_teacher_a_weak_one(ready):
    run, batch = ready()
    plain = training_flops(meta_network(run), batch)
    laddered, _ = ready(objectives={"ladder": {}})
    assert 4 / 3 * plain < training_flops(meta_network(laddered), batch) < 2 * plain
    taught, with_weak = ready(objectives={"pseudo_label": {}})
    network = meta_network(taught)
    assert with_weak.weak is not None
    teaching = training_flops(network, with_weak) - training_flops(network, replace(with_weak, weak=None))
    assert 0 < teaching < plain / 3
    assert network.training


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def batch():
    """A micro-batch of 60 frames, padding included."""
    sides = [SimpleNamespace(is_real=torch.ones(5, frames, dtype=torch.bool)) for frames in (8, 4)]
    return SimpleNamespace(audio=sides[0], video=sides[1])


def steps(timed, clock, batch, count, seconds=0.5):
    for _ in range(count):
        clock.now += seconds
        timed.tick(4, [batch])


def test_the_forecast_comes_once_after_so_many_steps_and_leaves_the_warm_up_out(batch):
    clock = Clock()
    timed = StepClock(120, 60, clock=clock)
    steps(timed, clock, batch, WARM_UP_STEPS, seconds=10)
    steps(timed, clock, batch, MEASURED_AT - WARM_UP_STEPS - 1)
    assert timed.forecast(MEASURED_AT - 2, batch) == {}
    steps(timed, clock, batch, 1)
    spent = 10 * WARM_UP_STEPS + 0.5 * (MEASURED_AT - WARM_UP_STEPS)
    assert timed.forecast(MEASURED_AT - 1, batch) == pytest.approx(
        {"train/seconds_per_step": 0.5, "train/expected_seconds": spent + 0.5 * (120 - MEASURED_AT)}
    )
    assert timed.forecast(MEASURED_AT, batch) == {}


def test_evaluations_are_no_steps_and_those_to_come_are_counted(batch):
    """Epochs of 8 steps, the last of them short; 2 were evaluated by step 20 and 4 are to come."""
    clock = Clock()
    timed = StepClock(41, 8, clock=clock)
    for step in range(MEASURED_AT):
        steps(timed, clock, batch, 1)
        if (step + 1) % 8 == 0:
            timed.pause()
            clock.now += 3
            timed.resume()
    assert timed.forecast(MEASURED_AT - 1, batch) == pytest.approx(
        {"train/seconds_per_step": 0.5, "train/expected_seconds": 41 * 0.5 + 6 * 3}
    )


def test_clips_and_seconds_of_a_run_are_those_of_its_steps(batch):
    clock, state = Clock(), LoopState(config_hash="", store_hash="", workers=1, zero_stage=0, trained_seconds=70.0)
    timed = StepClock(41, 8, clock=clock)
    steps(timed, clock, batch, 3)
    state = timed.taken_into(state)  # a checkpoint within the epoch
    steps(timed, clock, batch, 5)
    timed.pause()
    clock.now += 3
    assert timed.clips_per_second == pytest.approx(4 / 0.5)
    state = timed.taken_into(state)
    timed.resume()
    assert (state.trained_clips, state.trained_seconds) == (8 * 4, pytest.approx(70 + 8 * 0.5))
    assert timed.taken_into(state) == state


def test_a_resumed_run_counts_what_earlier_attempts_took(batch):
    clock = Clock()
    timed = StepClock(200, 50, seconds_before=70.0, clock=clock)
    steps(timed, clock, batch, MEASURED_AT)
    found = timed.forecast(100 + MEASURED_AT - 1, batch)
    assert found["train/expected_seconds"] == pytest.approx(70 + 100 * 0.5)


def test_mfu_is_the_share_of_the_peak_over_the_steps_that_were_timed(batch):
    """60 frames take 0.1 s at the peak; steps of twice as many frames take 0.5 s: 40 %."""
    clock, asked = Clock(), []
    timed = StepClock(1000, 100, utilisation=lambda one: asked.append(one) or 0.1, clock=clock)
    steps(timed, clock, batch, WARM_UP_STEPS, seconds=9)
    for _ in range(MEASURED_AT - WARM_UP_STEPS):
        clock.now += 0.5
        timed.tick(8, [batch, batch])
    assert timed.forecast(MEASURED_AT - 1, batch)["train/mfu"] == pytest.approx(0.4)
    assert asked == [batch]


def test_what_cannot_be_counted_is_logged_and_costs_the_mfu_alone(batch, caplog):
    def fail(_):
        raise NotImplementedError("no such operation on meta")

    clock = Clock()
    timed = StepClock(1000, 100, utilisation=fail, clock=clock)
    steps(timed, clock, batch, MEASURED_AT)
    assert timed.forecast(MEASURED_AT - 1, batch).keys() == {"train/seconds_per_step", "train/expected_seconds"}
    assert "no such operation on meta" in caplog.text


def test_the_gpu_of_a_run_gives_the_share(ready, monkeypatch):
    run, batch = ready()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: A100)
    settings = run.plan.training.model_copy(update={"precision": "bf16", "gpus_per_worker": 1.0})
    on_gpu = replace(
        run,
        plan=run.plan.model_copy(update={"training": settings}),
        engine=SimpleNamespace(device=torch.device("cuda", 0), network=run.engine.network),
    )
    clock = Clock()
    timed = clock_of(on_gpu, run.start)
    monkeypatch.setattr(timed, "_clock", clock)
    steps(timed, clock, batch, MEASURED_AT)
    flops = training_flops(meta_network(run), batch)
    assert timed.forecast(MEASURED_AT - 1, batch)["train/mfu"] == pytest.approx(flops / 0.5 / 312e12)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card of next year")
    unknown = clock_of(on_gpu, run.start)
    monkeypatch.setattr(unknown, "_clock", clock)
    steps(unknown, clock, batch, MEASURED_AT)
    assert "train/mfu" not in unknown.forecast(MEASURED_AT - 1, batch)


def test_a_run_reports_its_forecast_at_one_step(plan, records):
    run, seen = prepare_run(plan(training={"max_epochs": 6})), records()
    train(run, run.start, seen)
    told = {
        record["step"]: record["metrics"] for record in seen.of("step") if "train/expected_seconds" in record["metrics"]
    }
    assert list(told) == [MEASURED_AT - 1]
    metrics = told[MEASURED_AT - 1]
    assert "train/mfu" not in metrics  # a CPU has no peak that anybody vouches for
    assert 0 < metrics["train/seconds_per_step"] < metrics["train/expected_seconds"]
    assert all(math.isfinite(value) for value in metrics.values())


def test_a_run_of_fewer_steps_has_no_forecast(plan, records):
    run, seen = prepare_run(plan()), records()
    assert run.total_steps < throughput.MEASURED_AT
    train(run, run.start, seen)
    assert not any("train/expected_seconds" in record["metrics"] for record in seen.of("step"))


def test_frames_are_counted_with_their_padding(batch):
    assert padded_frames(batch) == 60


def test_the_peak_is_that_of_this_process_and_stays():
    now = psutil.Process().memory_info().rss
    before = peak_memory_bytes()
    assert before >= 0.9 * now
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    with_block = peak_memory_bytes()
    del block
    assert with_block >= before
    assert peak_memory_bytes() >= with_block
