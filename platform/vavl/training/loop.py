"""The training loop: every rank runs the same graph, one backward per micro-batch.

It knows neither Ray nor MLflow: it takes a run and a report function.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vavl.data.batch import ClipBatch
from vavl.errors import TrainingError
from vavl.models.saved_model import save_model
from vavl.objectives.moments import add_moments
from vavl.objectives.total import batch_moments, needs_first_pass, objective_parts, weighted_sum
from vavl.training.checkpoint import LoopState
from vavl.training.collectives import add_over_ranks
from vavl.training.evaluation import predict_split, score_split
from vavl.training.run import TrainingRun
from vavl.training.schedule import learning_rate

Record = dict[str, Any]
Report = Callable[[Sequence[Record]], None]
"""Takes what happened since the last report; every rank calls it at the same steps."""

BEST_FOLDER = "best"


def train(run: TrainingRun, start: LoopState, report: Report) -> LoopState:
    """Train from ``start`` to the last step or to early stopping. Every rank must call.

    Args:
        run: data, network, engine.
        start: of a new run or from a checkpoint.
        report: receives records of kind ``step`` and ``epoch``.

    Returns:
        The state after the last epoch.

    Raises:
        TrainingError: a loss is not finite, or the metric that chooses the epoch does not exist.
    """
    settings, state = run.plan.training, start
    if _stops_early(run, state):
        return state
    records: list[Record] = []
    epoch_clock = _EpochClock()
    for step, micro_batches in enumerate(run.loader.steps(start.step, run.total_steps), start=start.step):
        moving = [batch.to(run.engine.device) for batch in micro_batches]
        moments = _global_moments(run, step, moving)
        parts: list[dict[str, Tensor]] = []
        for micro, batch in enumerate(moving):
            _seed_step(run, step, micro)
            output = run.engine.forward(batch)
            pieces = run.place.world_size * run.place.micro_batches
            parts.append(objective_parts(output, batch, run.data.task, run.plan.objectives, moments, pieces))
            run.engine.backward(weighted_sum(parts[-1], run.plan.objectives))
        rate = learning_rate(step, run.total_steps, settings.optimizer)
        norm = run.engine.step(rate)
        records.append(_step_record(run, step, parts, rate, norm))
        epoch_clock.tick(int(moments["clips"].item()))
        is_last = step + 1 == run.total_steps
        ends_epoch = is_last or (step + 1) % run.steps_per_epoch == 0
        if ends_epoch:
            state, record = _finish_epoch(run, state, step + 1, epoch_clock)
            records.append(record)
            is_last = is_last or _stops_early(run, state)
            epoch_clock = _EpochClock()
        if ends_epoch or (step + 1) % settings.report_every_steps == 0:
            # Before the checkpoint: steps that are reported twice do no harm, steps that are lost do.
            report(records)
            records = []
        if ends_epoch and (is_last or state.epoch % settings.checkpoint_every_epochs == 0):
            run.checkpoints.save(run.engine, state)
        if is_last:
            break
    return state


def _global_moments(run: TrainingRun, step: int, micro_batches: Sequence[ClipBatch]) -> dict[str, Tensor]:
    """Add what the objectives need of the global batch over its micro-batches and ranks.

    Moments of the network's output need a first pass without gradient; it uses the same random
    draws as the second, so the moments are those of the pass that gets the gradient.
    """
    total: dict[str, Tensor] = {}
    for micro, batch in enumerate(micro_batches):
        output = None
        if needs_first_pass(run.data.task):
            _seed_step(run, step, micro)
            with torch.no_grad():
                output = run.engine.forward(batch)
        found = batch_moments(output, batch, run.data.task)
        found["clips"] = (batch.index >= 0).double().sum()
        total = add_moments(total, found) if total else found
    return add_over_ranks(total)


def _seed_step(run: TrainingRun, step: int, micro: int) -> None:
    """Make dropout a function of (seed, step, micro-batch, rank), so that a resumed run repeats it."""
    place = run.place
    slot = (step * place.micro_batches + micro) * place.world_size + place.rank
    torch.manual_seed(run.plan.training.seed * 1_000_003 + slot)


def _step_record(
    run: TrainingRun, step: int, parts: Sequence[dict[str, Tensor]], rate: float, norm: float | None
) -> Record:
    total = {name: torch.stack([part[name].detach().double() for part in parts]).sum() for name in parts[0]}
    agreed = add_over_ranks(total)
    losses = {f"train/loss/{name}": float(value) for name, value in agreed.items()}
    objective = float(weighted_sum(agreed, run.plan.objectives))
    if not math.isfinite(objective):
        raise TrainingError(
            f"step {step}", "loss", f"is not finite: {losses}",
            "lower training.optimizer.learning_rate, or check the features with FeatureStore.verify",
        )  # fmt: skip
    metrics = {"train/loss/total": objective, **losses, "train/learning_rate": rate}
    if norm is not None:
        metrics["train/gradient_norm"] = norm
    return {
        "kind": "step", "step": step, "total_steps": run.total_steps, "time": time.time(), "metrics": metrics,
    }  # fmt: skip


def _finish_epoch(
    run: TrainingRun, state: LoopState, step: int, clock: _EpochClock
) -> tuple[LoopState, Record]:
    """Validate, keep the weights if they are the best so far, and describe the epoch."""
    clock.stop()
    run.engine.network.eval()
    predictions = predict_split(run.engine.forward, run.evaluation_data(), run.data.rows["validation"])
    run.engine.network.train()
    scores = score_split("validation", predictions, run.data.task)
    score = _selection_score(run.plan.evaluation.select_by, scores)
    is_better = state.best_score is None or score > state.best_score
    if is_better:
        weights = run.engine.full_weights()
        if run.place.rank == 0:
            save_model(run.plan.output_dir / BEST_FOLDER, weights, run.description)
    state = state.model_copy(
        update={
            "step": step,
            "epoch": state.epoch + 1,
            "best_epoch": state.epoch + 1 if is_better else state.best_epoch,
            "best_score": score if is_better else state.best_score,
            "epochs_without_gain": 0 if is_better else state.epochs_without_gain + 1,
            "trained_clips": state.trained_clips + clock.clips,
            "trained_seconds": state.trained_seconds + clock.seconds,
        }
    )
    metrics = {**scores, "train/clips_per_second": clock.clips / max(clock.seconds, 1e-9)}
    facts = {"total_epochs": -(-run.total_steps // run.steps_per_epoch), "best_epoch": state.best_epoch}
    return state, {
        "kind": "epoch", "epoch": state.epoch, "step": step, "time": time.time(), "metrics": metrics, **facts,
    }  # fmt: skip


def _selection_score(names: Sequence[str], scores: Mapping[str, float]) -> float:
    missing = [name for name in names if name not in scores]
    if missing:
        raise TrainingError(
            "evaluation", "select_by", f"{', '.join(missing)} is not measured",
            f"choose of: {', '.join(sorted(scores))}",
        )  # fmt: skip
    return sum(scores[name] for name in names) / len(names)


def _stops_early(run: TrainingRun, state: LoopState) -> bool:
    patience = run.plan.training.early_stopping_epochs
    return patience is not None and state.epochs_without_gain >= patience


class _EpochClock:
    """Counts the clips and the seconds of training steps; evaluation does not count."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.clips = 0
        self.seconds = 0.0

    def tick(self, clips: int) -> None:
        """Count one step."""
        self.clips += clips

    def stop(self) -> None:
        """Take the time."""
        self.seconds = time.monotonic() - self._start
