"""Checks of training in one process, with torch alone or with DeepSpeed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import checked_runs
import torch
from checked_runs import (
    FileSink,
    checked_plan,
    curve_of,
    events_of,
    reference_curve,
    run_plan,
    seconds_per_step,
    trained_curve,
    whole_checkpoints,
)
from gpu_checks import Bench, Case, Difference, relative_difference
from measured import count_operations, finished, in_turn
from meta_device import META, on_meta
from step_profile import launches_of
from training_load import SIZES, Load, load_of, plan_of, write_store

from vavl.training.checkpoint import Checkpoints
from vavl.training.checkpoint_files import KINDS, CheckpointValues
from vavl.training.loop import train_step
from vavl.training.run import prepare_run
from vavl.training.settings import TrainingPlan
from vavl.training.throughput import peak_flops

TO_CPU = {"fp32": 2e-3, "bf16": 5e-2}
"""Largest relative difference of a loss to the CPU's curve of the same precision.

fp32: cuDNN convolves in TF32 by default, whose inputs keep 10 bits (5e-4 each). bf16: 8 bits, and CUDA's autocast
rounds at other operators than the CPU's.
"""
AGAIN = {"cpu": 1e-5, "cuda": 1e-3}
"""The same of a run that was killed and resumed, on the same device: a GPU adds atomically in some backward passes."""
_KILLED_FROM, _CHECKPOINT_EVERY = 6, 4


def check_curve(bench: Bench, case: Case) -> dict[str, Any]:
    """Train, and compare the loss curve with that of the CPU."""
    expected = reference_curve(bench, case.precision)
    launcher = "ray" if case.workers > 1 else "in_process"
    plan = checked_plan(bench, f"in process, {case.name}", case, launcher=launcher)
    return compared(plan, expected, case)


def compared(plan: TrainingPlan, expected: list[float], case: Case) -> dict[str, Any]:
    """Train a plan, and compare its curve with the expected one."""
    curve, records = trained_curve(plan)
    largest = relative_difference(curve, expected, TO_CPU[case.precision])
    return {"largest_relative_difference": largest, "step_seconds": seconds_per_step(records)}


def check_speed(bench: Bench, case: Case, size: str) -> dict[str, Any]:
    """Measure a step: seconds, launches, and the share of the GPU's peak where it is known."""
    load = _load(bench, case, size)
    work = finished(load.step, bench.device)
    repeats = 2 if bench.quick else 20
    seconds = in_turn({"step": work}, repeats, warm_up=3)["step"].median("wall")
    operations = count_operations(load.step)
    found = {
        "case": case.name,
        "size": size,
        "step_seconds": seconds,
        "launches_per_micro_batch": launches_of(work, bench.device),
        "operations_of_a_step": operations,
    }
    if bench.on_gpu:
        peak = peak_flops(torch.cuda.get_device_name(bench.device), case.precision)
        found["mfu"] = None if peak is None else operations / seconds / peak
        found["peak_memory_bytes"] = torch.cuda.max_memory_allocated(bench.device)
    return found


def check_round_trip(bench: Bench, chain: tuple[Case, ...]) -> dict[str, Any]:
    """Pass a checkpoint through engines and stages; each must hold what the first wrote, to the last bit."""
    place = _round(bench, 0)
    plan = checked_plan(bench, place.name, chain[0], max_steps=4)
    place.mkdir()
    run_plan(plan, FileSink(place / "records.jsonl"))
    expected, steps = _values_in(place)
    for number, case in enumerate(chain[1:], start=1):
        run = prepare_run(checked_plan(bench, place.name, case, max_steps=4))
        held = {name: value.flatten() for name, value in run.engine.snapshot(lambda _: True).tensors.items()}
        _same(f"held by {case.name}", held, expected)
        if run.engine.optimizer_steps != steps:
            raise Difference(f"{case.name} counts {run.engine.optimizer_steps} updates instead of {steps}")
        place = _round(bench, number)
        written = Checkpoints(place, keep=1)
        written.save(run.engine, run.average, run.start)
        written.finish()
        _same(f"written by {case.name}", _values_in(place)[0], expected)
    return {"tensors": len(expected), "updates": steps}


def check_kill(bench: Bench, case: Case) -> dict[str, Any]:
    """Kill a training run in its own process as ``kill -9`` does, start it again, and compare with one left alone."""
    training = {"checkpoint_every_steps": _CHECKPOINT_EVERY}
    expected, _ = trained_curve(checked_plan(bench, f"alone, {case.name}", case, **training))
    plan = checked_plan(bench, f"killed, {case.name}", case, **training)
    records = plan.output_dir.with_suffix(".jsonl")
    code = start_driver(plan, records, _KILLED_FROM).wait()
    if code != -9:
        raise Difference(f"the process was to die by SIGKILL, its exit code is {code}")
    saved = whole_checkpoints(plan.output_dir)[-1]
    began = time.monotonic()
    code = start_driver(plan, records).wait()
    if code:
        raise Difference(f"the same command again ended with exit code {code}")
    found = FileSink(records).read()
    if "resumed" not in events_of(found):
        raise Difference(f"the run did not resume: {events_of(found)}")
    largest = relative_difference(curve_of(found), expected, AGAIN[bench.device.type])
    return {"resumed_from": saved, "largest_relative_difference": largest, "restart_seconds": time.monotonic() - began}


def start_driver(plan: TrainingPlan, records: Path, killed_from: int | None = None) -> subprocess.Popen[bytes]:
    """Start the driver of a run as a process of its own; its log lies next to its records."""
    plan_file = records.with_suffix(".plan.json")
    plan_file.write_text(plan.model_dump_json())
    words = [sys.executable, "-W", "ignore", checked_runs.__file__, str(plan_file), str(records)]
    if killed_from is not None:
        words.append(str(killed_from))
    # Its imports lie where this process found them.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with records.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)


def check_meta(bench: Bench) -> None:
    """Take a step on the meta device: it knows no numbers, and refuses tensors that were made elsewhere."""
    plan = checked_plan(bench, "meta", Case(), average_decay=None, gpus_per_worker=0)
    plan = plan.model_copy(update={"objectives": _self_taught(plan)})
    run = prepare_run(plan.model_copy(update={"training": plan.training.model_copy(update={"gpus_per_worker": 0})}))
    with on_meta(run) as (run, _):
        train_step(run, 0, [batch.to(META) for batch in run.loader.load(0)], run.start.teacher_mean)
    updated: Any = vars(run.engine)["_optimizer"].state  # of every parameter that had a gradient
    empty = [name for name, one in run.engine.network.named_parameters() if one.requires_grad and one not in updated]
    if empty:
        raise Difference(f"no gradient: {empty}")


def _self_taught(plan: TrainingPlan) -> Any:
    pseudo = plan.objectives.pseudo_label
    assert pseudo is not None
    update = {"pseudo_label": pseudo.model_copy(update={"teacher": "self"})}
    return plan.objectives.model_copy(update=update)


def _load(bench: Bench, case: Case, size: str) -> Load:
    folder = f"speed {size}, {case.name}"
    if size == "demo":
        return load_of(checked_plan(bench, folder, case, max_steps=None))
    store = bench.folder / f"store {size}"
    if not store.exists():
        write_store(SIZES[size], store)
    settings = {**case.settings(), "gpus_per_worker": int(bench.on_gpu)}
    return load_of(plan_of(SIZES[size], store, bench.folder / folder, training=settings))


def _round(bench: Bench, number: int) -> Path:
    return bench.folder / f"round trip {number}"


def _values_in(output_dir: Path) -> tuple[dict[str, torch.Tensor], int]:
    with CheckpointValues(output_dir / "checkpoints" / whole_checkpoints(output_dir)[-1]) as values:
        found = {f"{kind}/{name}": values.whole(name, kind).clone() for name in values.names() for kind in KINDS}
        return found, values.optimizer_steps


def _same(what: str, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    if found.keys() != expected.keys():
        raise Difference(f"{what}: other tensors: {sorted(found.keys() ^ expected.keys())[:3]}")
    wrong = [name for name, value in found.items() if not torch.equal(value.flatten().cpu(), expected[name])]
    if wrong:
        raise Difference(f"{what}: {len(wrong)} of {len(found)} tensors differ, e.g. {wrong[:3]}")
