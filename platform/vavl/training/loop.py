"""The training loop: every rank runs the same graph, one backward per micro-batch.

It knows neither Ray nor MLflow: it takes a run and a report function.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vavl.data.batch import ClipBatch
from vavl.errors import TrainingError
from vavl.models.saved_model import save_model
from vavl.models.settings import ClassTask
from vavl.training.bad_numbers import event, skipped_step
from vavl.training.context import LocalContext, WorkerContext
from vavl.training.evaluation import predict_split, score_split
from vavl.training.run import TrainingRun
from vavl.training.settings import TrainingSettings
from vavl.training.state import LoopState
from vavl.training.step import StepResult, train_step
from vavl.training.throughput import Forecast, forecast_of

_log = logging.getLogger(__name__)

Record = dict[str, Any]
Report = Callable[[Sequence[Record]], None]
"""Takes what happened since the last report; every rank calls it at the same steps."""

BEST_FOLDER = "best"
SETUP_SECONDS = 600.0
"""Longest time for what comes before the first step, and for that step, whatever its time-out."""


@dataclass(frozen=True)
class LoopEnd:
    """How the loop ended.

    Attributes:
        state: after the last step.
        is_stopped: it stopped with a checkpoint before the end, as it was asked to.
    """

    state: LoopState
    is_stopped: bool = False


def train(
    run: TrainingRun, start: LoopState, report: Report, context: WorkerContext | None = None
) -> LoopEnd:
    """Train from ``start`` to the last step, to early stopping or until asked to stop. Every rank must call.

    Args:
        run: data, network, engine.
        start: of a new run or from a checkpoint.
        report: receives records of kind ``step``, ``epoch`` and ``event``.
        context: of whatever launched this process.

    Raises:
        TrainingError: too many losses were not finite, a checkpoint could not be written, or the
            metric that chooses the epoch does not exist.
    """
    if _stops_early(run, start):
        return LoopEnd(start)
    context = context or LocalContext()
    records = _Records(report, run.plan.training.report_every_steps, context.report_pause_seconds)
    clock, state, is_stopped = _EpochClock(forecast_of(run, start)), start, False
    for step, micro_batches in enumerate(run.loader.steps(start.step, run.total_steps), start=start.step):
        # The first step of an attempt meets libraries and kernels that were never used before.
        context.beat(SETUP_SECONDS if step == start.step else 0.0)
        state, heard = _take_step(run, state, step, micro_batches, (context, records, clock))
        is_last = state.step == run.total_steps
        ends_epoch = is_last or state.step % run.steps_per_epoch == 0
        if ends_epoch:
            context.beat()
            state = _finish_epoch(run, state, clock, records)
            is_last = is_last or _stops_early(run, state)
        is_stopped = heard["stop"] and not is_last
        is_due = is_last or is_stopped or _checkpoint_is_due(run.plan.training, state, ends_epoch=ends_epoch)
        if is_last or is_stopped or heard["report"]:
            records.report()
            is_due = (not is_last and records.is_preempted(context, state.step)) or is_due
        if is_due:
            state = clock.taken_into(state)
            run.checkpoints.save(run.engine, run.average, state, records.since_checkpoint(), context.submit)
        if is_last or is_stopped:
            break
    context.beat()
    run.checkpoints.finish()
    return LoopEnd(state, is_stopped)


def _take_step(
    run: TrainingRun,
    state: LoopState,
    step: int,
    micro_batches: Sequence[ClipBatch],
    parts: tuple[WorkerContext, _Records, _EpochClock],
) -> tuple[LoopState, Mapping[str, bool]]:
    """Train one step; return the state after it and what the ranks agree that they heard."""
    context, records, clock = parts
    state = state.model_copy(update={"step": step + 1, "score": None})
    heard = {
        "stop": context.is_asked_to_stop(),
        "unsaved": run.checkpoints.failed,
        "report": run.place.rank == 0 and records.are_due(),
    }
    moving = [batch.to(run.engine.device) for batch in micro_batches]
    done = train_step(run, step, moving, state.confidence, heard)
    if done.heard["unsaved"]:
        run.checkpoints.raise_failure()
    clock.tick(done.clips)
    clock.forecast.tick(micro_batches)
    if done.is_skipped:
        state, happened = skipped_step(run, state, step, done.parts)
        records.add(happened)
        return state, done.heard
    record = _step_record(run, step, done)
    if run.place.rank == 0:
        record["metrics"] |= clock.forecast.metrics(step, micro_batches[0])
    records.add(record)
    _warn_of_one_class(run, step, done, records)
    return state.model_copy(update={"confidence": done.confidence}), done.heard


def _checkpoint_is_due(settings: TrainingSettings, state: LoopState, *, ends_epoch: bool) -> bool:
    every = settings.checkpoint_every_steps
    if every is not None and state.step % every == 0:
        return True
    return ends_epoch and state.epoch % settings.checkpoint_every_epochs == 0


def _step_record(run: TrainingRun, step: int, done: StepResult) -> Record:
    losses = {f"train/loss/{name}": value for name, value in done.parts.items()}
    tensors = {name: torch.tensor(value) for name, value in done.parts.items()}
    weighted = {name: float(value) for name, value in run.objective.weighted(tensors, step).items()}
    metrics = {
        "train/loss/total": sum(weighted.values()),
        **losses,
        "train/learning_rate": done.learning_rate,
        "train/gradient_norm": done.gradient_norm,
    }
    weights = run.plan.objectives.weights_at(step)
    metrics |= {f"train/weight/{name}": weight for name, weight in weights.items()}
    metrics |= {f"train/gradient_norm/{name}": norm for name, norm in done.part_norms.items()}
    if done.confidence is not None:
        metrics["train/pseudo_label/sure"] = done.sure
        metrics["train/pseudo_label/unlabelled"] = done.unlabelled
    # The whole objective at a glance, at the steps where gradients of parts were measured.
    parts = {
        name: {"weighted": weighted[name], "gradient_norm": norm} for name, norm in done.part_norms.items()
    }
    return {
        "kind": "step", "step": step, "total_steps": run.total_steps, "time": time.time(), "metrics": metrics,
        **({"parts": parts} if parts else {}),
    }  # fmt: skip


def _warn_of_one_class(run: TrainingRun, step: int, done: StepResult, records: _Records) -> None:
    """Say once when all labels of a batch are equal: HGR's label terms are 0 there, by definition."""
    is_class_task = isinstance(run.data.task, ClassTask)
    if records.is_warned or run.plan.objectives.hgr is None or not is_class_task:
        return
    if sum(total > 0 for total in done.label) != 1:
        return
    records.is_warned = True
    _log.warning(
        "step %d: every labelled clip of the batch is %r, so HGR's label terms teach nothing; "
        "raise data.composition.batch_size or labelled_floor",
        step,
        run.data.collection.manifest.classes[done.label.index(max(done.label))],
    )


def _finish_epoch(run: TrainingRun, state: LoopState, clock: _EpochClock, records: _Records) -> LoopState:
    """Validate, keep the weights if they are the best so far, and describe the epoch."""
    clock.stop()
    run.engine.network.eval()
    forward = run.average.network() if run.average else run.engine.forward
    predictions = predict_split(forward, run.evaluation_data(), run.data.rows["validation"])
    run.engine.network.train()
    scores = score_split("validation", predictions, run.data.task)
    score = _selection_score(run.plan.evaluation.select_by, scores)
    is_better = state.best_score is None or score > state.best_score
    if is_better:
        _save_best(run)
    state = state.model_copy(
        update={
            "epoch": state.epoch + 1,
            "best_epoch": state.epoch + 1 if is_better else state.best_epoch,
            "best_score": score if is_better else state.best_score,
            "score": score,
            "epochs_without_gain": 0 if is_better else state.epochs_without_gain + 1,
        }
    )
    metrics = {**scores, "train/clips_per_second": clock.clips_per_second}
    facts = {"total_epochs": -(-run.total_steps // run.steps_per_epoch), "best_epoch": state.best_epoch}
    records.add({
        "kind": "epoch", "epoch": state.epoch, "step": state.step, "time": time.time(), "metrics": metrics, **facts,
    })  # fmt: skip
    state = clock.taken_into(state)
    clock.start()
    return state


def _save_best(run: TrainingRun) -> None:
    """Save the weights of this epoch, or their average, as the model. Every rank must call."""
    is_first = run.place.rank == 0
    weights = run.weights(kept=is_first)
    if is_first:
        save_model(run.output.folder / BEST_FOLDER, weights, run.description)
        run.output.publish(BEST_FOLDER)


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

    def __init__(self, forecast: Forecast) -> None:
        self.forecast = forecast
        self.start()

    def start(self) -> None:
        """Begin an epoch, or go on within one."""
        self._start = self._taken = time.monotonic()
        self._end: float | None = None
        self._clips = self._untaken = 0
        self.forecast.resume()

    def tick(self, clips: int) -> None:
        """Count one step."""
        self._clips += clips
        self._untaken += clips

    def stop(self) -> None:
        """Take the time."""
        self._end = time.monotonic()
        self.forecast.pause()

    @property
    def clips_per_second(self) -> float:
        """Speed since ``start``."""
        return self._clips / max((self._end or time.monotonic()) - self._start, 1e-9)

    def taken_into(self, state: LoopState) -> LoopState:
        """Add what was counted since the last call to the state."""
        now = self._end or time.monotonic()
        clips, seconds = self._untaken, now - self._taken
        self._taken, self._untaken = now, 0
        return state.model_copy(
            update={
                "trained_clips": state.trained_clips + clips,
                "trained_seconds": state.trained_seconds + seconds,
            }
        )


class _Records:
    """Collects records until they are reported, and until a checkpoint holds them.

    Ray hands reports on with a delay: what a killed driver had not received comes back from the checkpoint.
    """

    def __init__(self, report: Report, every_steps: int, pause_seconds: float) -> None:
        self._report, self._every, self._pause = report, every_steps, pause_seconds
        self._unreported: list[Record] = []
        self._unsaved: list[Record] = []
        self._last = time.monotonic()
        self._is_preempted = self.is_warned = False

    def add(self, record: Record) -> None:
        """Take one record."""
        self._unreported.append(record)
        self._unsaved.append(record)

    def are_due(self) -> bool:
        """Tell whether the step that begins is the last one before a report."""
        waited = time.monotonic() - self._last >= self._pause
        return waited and len(self._unreported) + 1 >= self._every

    def report(self) -> None:
        """Report what was added since the last call. Every rank must call."""
        self._report(self._unreported)
        self._unreported, self._last = [], time.monotonic()

    def is_preempted(self, context: WorkerContext, step: int) -> bool:
        """Return whether the run was just notified that machines go away. Every rank must call.

        One checkpoint is written at once; training continues until Ray restarts it elsewhere.
        """
        if self._is_preempted or not context.is_preempted():
            return False
        self._is_preempted = True
        self.add(event("preemption", step, "a machine of the run goes away: a checkpoint is written at once"))
        return True

    def since_checkpoint(self) -> list[Record]:
        """Return what was added since the last call."""
        found, self._unsaved = self._unsaved, []
        return found
