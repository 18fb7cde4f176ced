"""What checkpoints and fault handling cost: the training of the demo with both on and with both off, in turn.

    python tests/benchmarks/fault_overhead.py [--store runs/stores/demo] [--repeats 4] [--epochs 15] [--out FILE.json]

Two gloo ranks without Ray train the demo's plan. On: a checkpoint every five epochs and one at the end, a look
for the stop file and a beat of the watchdog at every step. Off: none of it. What remains in both is one
multiplication that makes a loss count which is not finite, and a few numbers more in the one addition over the
ranks that every step has; what these take is measured by itself and added. The share is (on - off) / off of the
time of training steps and checkpoints, without validation, by the clock and by the processors' time of both
ranks; the latter is little disturbed by other programs. Exits with 1 when the median share by the clock is 3 %
or more.

Then it measures how long a checkpoint holds up the training, and how long it takes until it lies there, of the
demo's network and of one with the paper's sizes.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.extend(str(path) for path in (Path(__file__).parents[1] / "support").iterdir())

import torch
from forked_ranks import run_ranks, warm_up
from watched_context import WatchedContext

from vavl.config.files import read_json, write_json
from vavl.config.load import read_config
from vavl.job_config import TrainModelJob
from vavl.training import loop as loop_module
from vavl.training.checkpoint import Checkpoints
from vavl.training.checkpoint_files import LoopState
from vavl.training.collectives import add_over_ranks, wait_for_all
from vavl.training.context import LocalContext
from vavl.training.loop import train
from vavl.training.run import TrainingRun, prepare_run
from vavl.training.settings import TrainingPlan

PROMISE = 0.03
CONFIG = Path("jobs/configs/demo.yaml")


def main() -> int:
    """Measure, print, write JSON; return 1 if it costs too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("runs/stores/demo"))
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=15, help="of every stretch of training")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/fault_overhead.json"))
    words = parser.parse_args()
    words.out.parent.mkdir(parents=True, exist_ok=True)
    warm_up()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(dir=words.out.parent) as folder:
        plans = {
            name: plan_of(words.store, Path(folder) / name, preset) for name, preset in (("demo", []), ("paper", PAPER))
        }
        loop = loop_costs(plans["demo"], words.repeats, words.epochs)
        checkpoints = {name: checkpoint_costs(plan) for name, plan in plans.items()}
    result = {"training": loop, "checkpoints": checkpoints, "promise": PROMISE}
    write_json(words.out, result)
    for line in lines_of(result):
        print(line)
    return 0 if loop["share_of_wall"]["median"] < PROMISE else 1


PAPER = [
    f"model.{name}={value}"
    for name, value in (("preset", "paper"), ("width", 512), ("dropout", 0.1), ("head_dropout", 0.2))
]


def plan_of(store: Path, folder: Path, preset: Sequence[str]) -> TrainingPlan:
    """Return the demo's plan, for the measurement in a directory of its own."""
    return read_config(TrainModelJob, CONFIG, [f"output_dir={folder}", f"data.store={store}", *preset])


def loop_costs(plan: TrainingPlan, repeats: int, epochs: int) -> dict[str, Any]:
    """Train with everything on and with everything off, in turn, on two ranks."""
    run_ranks(plan.training.most_workers, lambda: _train_in_turn(plan, repeats, epochs))
    found: dict[str, Any] = read_json(plan.output_dir / "stretches.json")
    checks = found["checks"]
    result: dict[str, Any] = {
        "steps_per_stretch": found["steps"],
        "stretches": repeats,
        "seconds_of_checks_per_step": checks,
    }
    for clock in ("wall", "cpu"):
        on, off = ([stretch[clock] for stretch in found[name]] for name in ("on", "off"))
        result[f"{clock}_seconds_per_step_on"] = spread(on)
        result[f"{clock}_seconds_per_step_off"] = spread(off)
        result[f"share_of_{clock}"] = spread([(a + checks) / b - 1 for a, b in zip(on, off, strict=True)])
    return result


def _train_in_turn(plan: TrainingPlan, repeats: int, epochs: int) -> None:
    """Train stretch after stretch on this rank; rank 0 leaves what each took per step."""
    run = prepare_run(plan)
    on = WatchedContext(plan, run.place.rank)
    never = plan.model_copy(update={"training": plan.training.model_copy(update={"checkpoint_every_epochs": 10**9})})
    quiet = replace(run, plan=never, checkpoints=_NoCheckpoints())
    steps = epochs * run.steps_per_epoch
    state = _stretch(quiet, run.start, LocalContext(), run.steps_per_epoch)[0]  # the first steps are slower
    found: dict[str, Any] = {"on": [], "off": [], "steps": steps, "checks": _seconds_of_checks()}
    for repeat in range(repeats):
        # Whichever comes first changes, so that a machine that slows down favors neither.
        pair: list[tuple[str, TrainingRun, LocalContext]] = [("on", run, on), ("off", quiet, LocalContext())]
        for name, one, context in pair if repeat % 2 else reversed(pair):
            state, spent = _stretch(one, state, context, steps)
            found[name].append({clock: seconds / steps for clock, seconds in spent.items()})
    on.close()
    if run.place.rank == 0:
        write_json(plan.output_dir / "stretches.json", found)


def _stretch(
    run: TrainingRun, state: LoopState, context: LocalContext, steps: int
) -> tuple[LoopState, dict[str, float]]:
    """Train some steps; return the seconds by the clock and of all ranks' processors, without validation."""
    run = replace(run, total_steps=state.step + steps)
    validation = {"wall": 0.0, "cpu": 0.0}
    wait_for_all()
    wall, cpu = time.monotonic(), time.process_time()
    with _timed_validation(validation):
        state = train(run, state, lambda records: None, context).state
    spent = {"wall": time.monotonic() - wall - validation["wall"], "cpu": time.process_time() - cpu - validation["cpu"]}
    spent["cpu"] = add_over_ranks({"cpu": torch.tensor(spent["cpu"])})["cpu"].item()
    return state, spent


def _timed_validation(spent: dict[str, float]) -> AbstractContextManager[Any]:
    """Add up what the ends of epochs take."""
    real = loop_module._finish_epoch

    def timed(*arguments: Any) -> LoopState:
        wall, cpu = time.monotonic(), time.process_time()
        state: LoopState = real(*arguments)
        spent["wall"] += time.monotonic() - wall
        spent["cpu"] += time.process_time() - cpu
        return state

    return patch.object(loop_module, "_finish_epoch", timed)


def _seconds_of_checks(times: int = 2000) -> float:
    """Return what a step spends on losses that may not be finite and on what the ranks ask for."""
    loss, sums = torch.ones((), requires_grad=True), {f"part {n}": torch.zeros(()) for n in range(14)}
    requests = {f"requests/{name}": torch.tensor(0.0) for name in ("stop", "unsaved", "report")}

    def without() -> None:
        torch.cat([value.double().reshape(-1) for value in sums.values()])

    def with_checks() -> None:
        # One more node of the graph goes forward here and backward in the training.
        (loss * torch.where(loss.detach().isfinite(), 1.0, float("nan"))).backward()
        torch.cat([value.double().reshape(-1) for value in (sums | requests).values()])

    return max(0.0, _seconds_each(with_checks, times) - _seconds_each(without, times))


def _seconds_each(work: Callable[[], None], times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times


class _NoCheckpoints:
    """Checkpoints that nobody keeps."""

    failed = False

    def save(self, *arguments: Any) -> None:
        """Keep nothing."""

    def finish(self) -> None:
        """Wait for nothing."""


def checkpoint_costs(plan: TrainingPlan, times: int = 5) -> dict[str, Any]:
    """Save some checkpoints of a plan with no training meanwhile."""
    run_ranks(plan.training.most_workers, lambda: _save_some(plan, times))
    found: dict[str, Any] = read_json(plan.output_dir / "saves.json")
    held_up, until = ([one[name] for one in found["saves"][1:]] for name in ("held_up", "until_it_lies_there"))
    # The first one also makes the optimizer's state, which a training run has.
    return {
        "parameters": found["parameters"],
        "bytes": found["bytes"],
        "held_up_seconds": spread(held_up),
        "until_it_lies_there_seconds": spread(until),
    }


def _save_some(plan: TrainingPlan, times: int) -> None:
    """Save on this rank; rank 0 leaves how long it took."""
    run = prepare_run(plan)
    checkpoints = Checkpoints(plan.output_dir / "saved", keep=1)
    checkpoints.open()
    saves = []
    for step in range(times + 1):
        wait_for_all()
        start = time.monotonic()
        checkpoints.save(run.engine, run.average, run.start.model_copy(update={"step": step}))
        held_up = time.monotonic() - start
        checkpoints.finish()
        saves.append({"held_up": held_up, "until_it_lies_there": time.monotonic() - start})
    if run.place.rank == 0:
        size = sum(path.stat().st_size for path in (plan.output_dir / "saved").rglob("*.*") if path.is_file())
        write_json(plan.output_dir / "saves.json", {"parameters": run.parameters, "bytes": size, "saves": saves})


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the range."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def lines_of(result: Mapping[str, Any]) -> list[str]:
    """Describe the result."""
    training = result["training"]
    lines = [
        f"{training['stretches']} stretches of {training['steps_per_stretch']} steps on, as many off; median (range)",
        f"checks within a step: {1e6 * training['seconds_of_checks_per_step']:.0f} us",
    ]
    for clock in ("wall", "cpu"):
        on, off = (_in_words(training[f"{clock}_seconds_per_step_{name}"], 1e3, "ms") for name in ("on", "off"))
        lines.append(
            f"{clock:<5} per step: on {on}, off {off}; share {_in_words(training[f'share_of_{clock}'], 100, '%')}"
        )
    for name, costs in result["checkpoints"].items():
        lines.append(
            f"checkpoint of the {name}'s network ({costs['parameters'] / 1e6:.1f} M parameters, "
            f"{costs['bytes'] / 1e6:.0f} MB): holds the training up "
            f"{_in_words(costs['held_up_seconds'], 1e3, 'ms')}, lies there after "
            f"{_in_words(costs['until_it_lies_there_seconds'], 1e3, 'ms')}"
        )
    return [*lines, f"promise: less than {100 * result['promise']:.0f} % by the clock"]


def _in_words(found: Mapping[str, float], factor: float, unit: str) -> str:
    median, least, most = (factor * found[name] for name in ("median", "least", "most"))
    return f"{median:.1f} {unit} ({least:.1f} to {most:.1f})"


if __name__ == "__main__":
    raise SystemExit(main())
