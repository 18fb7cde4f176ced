"""What a run reports: its steps, epochs and events, until a checkpoint holds them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from vavl.errors import TrainingError
from vavl.models.settings import ClassTask
from vavl.training.checkpoint import Restored
from vavl.training.checkpoint_files import LoopState
from vavl.training.context import LocalContext
from vavl.training.pseudo_labels import KeptAlarm
from vavl.training.run import TrainingRun
from vavl.training.step import StepResult

_log = logging.getLogger(__name__)

Record = dict[str, Any]
Report = Callable[[Sequence[Record]], None]
"""Takes what happened since the last report; every rank calls it at the same steps."""

_NAMED_CLIPS = 40


class Records:
    """Collects records until they are reported, and until a checkpoint holds them.

    Ray passes reports on with a delay: what a killed driver had not received comes back from the checkpoint.
    """

    def __init__(self, report: Report, every_steps: int, pause_seconds: float) -> None:
        self._report, self._every, self._pause = report, every_steps, pause_seconds
        self._unreported: list[Record] = []
        self._unsaved: list[Record] = []
        self._last = time.monotonic()
        self._is_preempted = self._is_warned = self._has_setup = False
        self._alarm = KeptAlarm()

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

    def since_checkpoint(self) -> list[Record]:
        """Return what was added since the last call."""
        found, self._unsaved = self._unsaved, []
        return found

    def is_preempted(self, context: LocalContext, step: int) -> bool:
        """Return whether the run was just notified that machines go away. Every rank must call.

        One checkpoint is written at once; training continues until Ray restarts it elsewhere.
        """
        if self._is_preempted or not context.is_preempted():
            return False
        self._is_preempted = True
        self.add(event("preemption", step, "a machine of the run goes away: a checkpoint is written at once"))
        return True

    def add_step(self, run: TrainingRun, step: int, done: StepResult, forecast: Mapping[str, float]) -> None:
        """Record a step that updated the weights; ``forecast`` are further metrics of it."""
        tensors = {name: torch.tensor(value) for name, value in done.parts.items()}
        weighted = {name: float(value) for name, value in run.objective.weighted(tensors, step).items()}
        metrics = {
            "train/loss/total": sum(weighted.values()),
            **{f"train/loss/{name}": value for name, value in done.parts.items()},
            "train/learning_rate": done.learning_rate,
            "train/gradient_norm": done.gradient_norm,
        }
        weights = run.plan.objectives.weights_at(step)
        metrics |= {f"train/weight/{name}": weight for name, weight in weights.items()}
        metrics |= {f"train/gradient_norm/{name}": norm for name, norm in done.part_norms.items()}
        if done.teacher_mean is not None:
            metrics["train/pseudo_label/sure"] = done.confident
            metrics["train/pseudo_label/unlabelled"] = done.unlabelled
        record = _record("step", step, {**metrics, **forecast}, total_steps=run.total_steps)
        if not self._has_setup:
            record["setup"], self._has_setup = run.in_words, True
        if done.part_norms:
            # The whole objective at a glance, at the steps where gradients of parts were measured.
            record["parts"] = {
                name: {"weighted": weighted[name], "gradient_norm": norm} for name, norm in done.part_norms.items()
            }
        self.add(record)
        self._warn_of_one_class(run, step, done)
        pseudo_label = run.plan.objectives.pseudo_label
        if pseudo_label is not None and pseudo_label.kind == "hard" and weights["pseudo_label"] > 0:
            alarm = self._alarm.after(done.confident, done.unlabelled, run.steps_per_epoch)
            if alarm is not None:
                self.add(event("pseudo_labels", step, alarm))

    def add_epoch(self, run: TrainingRun, state: LoopState, metrics: Mapping[str, float]) -> None:
        """Record an epoch that has ended."""
        epochs = -(-run.total_steps // run.steps_per_epoch)
        self.add(
            _record("epoch", state.step, metrics, epoch=state.epoch, total_epochs=epochs, best_epoch=state.best_epoch)
        )

    def _warn_of_one_class(self, run: TrainingRun, step: int, done: StepResult) -> None:
        """Say once when all labels of a batch are equal: HGR's label terms are 0 there, by definition."""
        is_class_task = isinstance(run.data.task, ClassTask)
        if self._is_warned or run.plan.objectives.hgr is None or not is_class_task:
            return
        if sum(total > 0 for total in done.label) != 1:
            return
        self._is_warned = True
        _log.warning(
            "step %d: every labeled clip of the batch is %r, so HGR's label terms teach nothing; "
            "raise data.composition.batch_size or labelled_floor",
            step,
            run.data.collection.manifest.classes[done.label.index(max(done.label))],
        )


def event(what: str, step: int, message: str, **facts: Any) -> Record:
    """Describe something that happened to the run, for the journal."""
    # With its own time: an event that a resumed run reports again is known as the same one.
    return {"kind": "event", "what": what, "step": step, "message": message, "time": time.time(), **facts}


def resumed_events(restored: Restored, start: LoopState) -> list[Record]:
    """Describe how a run resumes from a checkpoint: the damaged ones that it skipped, who wrote it, who continues."""
    torn = [event("checkpoint_skipped", start.step, message) for message in restored.torn]
    former, present = (f"{one.workers} worker(s), ZeRO {one.zero_stage}" for one in (restored.state, start))
    how = former if former == present else f"{former} -> {present}"
    return [*torn, event("resumed", start.step, f"from {restored.name.rpartition('/')[2]}; {how}")]


def skipped_step(
    run: TrainingRun, state: LoopState, step: int, losses: Mapping[str, float]
) -> tuple[LoopState, Record]:
    """Count a step that changed nothing, since its loss or gradient was not finite.

    Returns:
        The state after it and the event to report.

    Raises:
        TrainingError: there were more of them than the settings allow; names the clips of the batch.
    """
    state = state.model_copy(update={"skipped": (*state.skipped, step)})
    bad = {name: str(value) for name, value in losses.items() if not math.isfinite(value)}
    what = f"loss is not finite: {bad}" if bad else "the gradient is not finite"
    clips = batch_clips(run, step)
    allowed = run.plan.training.faults.skipped_steps
    if len(state.skipped) > allowed:
        raise TrainingError(
            f"step {step}",
            "loss",
            f"{what}; {len(state.skipped)} steps were skipped, {allowed} are allowed: "
            f"{list(state.skipped)}; clips of this batch: {', '.join(clips)}",
            "look at these clips (FeatureStore.verify), lower training.optimizer.learning_rate, "
            "or raise training.faults.skipped_steps",
        )
    message = f"{what}; nothing was updated ({len(state.skipped)} of {allowed} allowed)"
    return state, event("skipped_step", step, message, clips=clips)


def batch_clips(run: TrainingRun, step: int) -> list[str]:
    """Return the ids of the clips of a global batch, the first forty of a large one."""
    rows = run.loader.sampler.global_batch(step)
    ids = run.data.collection.manifest.table.column("clip_id")
    named = [str(ids[int(row)]) for row in rows[:_NAMED_CLIPS]]
    return [*named, f"and {len(rows) - _NAMED_CLIPS} more"] if len(rows) > _NAMED_CLIPS else named


def _record(kind: str, step: int, metrics: Mapping[str, float], **facts: int) -> Record:
    return {"kind": kind, "step": step, "time": time.time(), "metrics": dict(metrics), **facts}
