"""The training loop: every rank runs the same graph, one backward per micro-batch.

It knows neither Ray nor MLflow: it takes a run and a report function.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from vavl.errors import TrainingError
from vavl.models.saved_model import save_model
from vavl.models.settings import ClassTask
from vavl.training.checkpoint import LoopState
from vavl.training.evaluation import predict_split, score_split
from vavl.training.run import TrainingRun
from vavl.training.step import StepResult, train_step

_log = logging.getLogger(__name__)

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
    is_warned = False
    for step, micro_batches in enumerate(run.loader.steps(start.step, run.total_steps), start=start.step):
        moving = [batch.to(run.engine.device) for batch in micro_batches]
        done = train_step(run, step, moving, state.confidence)
        state = state.model_copy(update={"confidence": done.confidence})
        records.append(_step_record(run, step, done))
        is_warned = is_warned or _warned_of_one_class(run, step, done)
        epoch_clock.tick(int(done.moments["clips"].item()))
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
            run.checkpoints.save(run.kept, state)
        if is_last:
            break
    return state


def _step_record(run: TrainingRun, step: int, done: StepResult) -> Record:
    losses = {f"train/loss/{name}": value for name, value in done.parts.items()}
    tensors = {name: torch.tensor(value) for name, value in done.parts.items()}
    weighted = {name: float(value) for name, value in run.objective.weighted(tensors, step).items()}
    objective = sum(weighted.values())
    if not math.isfinite(objective):
        raise TrainingError(
            f"step {step}", "loss", f"is not finite: {losses}",
            "lower training.optimizer.learning_rate, or check the features with FeatureStore.verify",
        )  # fmt: skip
    metrics = {"train/loss/total": objective, **losses, "train/learning_rate": done.learning_rate}
    weights = run.plan.objectives.weights_at(step)
    metrics |= {f"train/weight/{name}": weight for name, weight in weights.items()}
    if done.gradient_norm is not None:
        metrics["train/gradient_norm"] = done.gradient_norm
    metrics |= {f"train/gradient_norm/{name}": norm for name, norm in done.part_norms.items()}
    if done.confidence is not None:
        metrics["train/pseudo_label/sure"] = done.sure
        metrics["train/pseudo_label/unlabelled"] = float(done.moments["guess/count"])
    # The whole objective at a glance, at the steps where gradients of parts were measured.
    parts = {
        name: {"weighted": weighted[name], "gradient_norm": norm} for name, norm in done.part_norms.items()
    }
    return {
        "kind": "step", "step": step, "total_steps": run.total_steps, "time": time.time(), "metrics": metrics,
        **({"parts": parts} if parts else {}),
    }  # fmt: skip


def _warned_of_one_class(run: TrainingRun, step: int, done: StepResult) -> bool:
    """Say once when all labels of a batch are equal: HGR's label terms are 0 there, by definition."""
    labels, is_class_task = done.moments["label"], isinstance(run.data.task, ClassTask)
    if run.plan.objectives.hgr is None or not is_class_task or int((labels > 0).sum()) != 1:
        return False
    _log.warning(
        "step %d: every labelled clip of the batch is %r, so HGR's label terms teach nothing; "
        "raise data.composition.batch_size or labelled_floor",
        step,
        run.data.collection.manifest.classes[int(labels.argmax())],
    )
    return True


def _finish_epoch(
    run: TrainingRun, state: LoopState, step: int, clock: _EpochClock
) -> tuple[LoopState, Record]:
    """Validate, keep the weights if they are the best so far, and describe the epoch."""
    clock.stop()
    run.engine.network.eval()
    forward = run.average.network if run.average else run.engine.forward
    predictions = predict_split(forward, run.evaluation_data(), run.data.rows["validation"])
    run.engine.network.train()
    scores = score_split("validation", predictions, run.data.task)
    score = _selection_score(run.plan.evaluation.select_by, scores)
    is_better = state.best_score is None or score > state.best_score
    if is_better:
        weights = run.average.weights() if run.average else run.engine.full_weights()
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
