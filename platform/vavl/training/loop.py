"""The training loop and its step: every rank runs the same graph, one backward per micro-batch.

It knows neither Ray nor MLflow: it takes a run and a report function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from vavl.data.batch import ClipBatch
from vavl.errors import TrainingError
from vavl.models.saved_model import save_model
from vavl.objectives.moments import add_moments
from vavl.training.checkpoint_files import LoopState
from vavl.training.context import LocalContext
from vavl.training.evaluation import predict_split, score_split
from vavl.training.records import Records, Report, skipped_step
from vavl.training.run import TrainingRun
from vavl.training.settings import TrainingSettings
from vavl.training.step import (
    StepResult,
    begin_pass,
    first_pass,
    learning_rate,
    over_ranks,
    part_norms,
    pseudo_targets,
    second_pass,
    step_result,
)
from vavl.training.throughput import StepClock, clock_of

BEST_DIRECTORY = "best"
SETUP_SECONDS = 600.0
"""Longest time for what comes before the first step, and for that step, whatever its timeout."""


@dataclass(frozen=True)
class LoopEnd:
    """How the loop ended."""

    state: LoopState  # after the last step
    is_stopped: bool = False  # it stopped with a checkpoint before the end, as it was asked to


def train(run: TrainingRun, start: LoopState, report: Report, context: LocalContext | None = None) -> LoopEnd:
    """Train from ``start`` to the last step, to early stopping or until asked to stop. Every rank must call.

    ``start``: of a new run or from a checkpoint. ``report``: receives records of kind ``step``, ``epoch`` and
    ``event``.

    Raises:
        TrainingError: too many losses were not finite, a checkpoint could not be written, or the
            metric that chooses the epoch does not exist.
    """
    if start.step >= run.total_steps or _stops_early(run, start):
        return LoopEnd(start)
    context = context or LocalContext()
    records = Records(report, run.plan.training.report_every_steps, context.report_pause_seconds)
    clock, state, is_stopped = clock_of(run, start), start, False
    for step, micro_batches in enumerate(run.loader.steps(start.step, run.total_steps), start=start.step):
        # The first step of an attempt meets libraries and kernels that were never used before.
        context.beat(SETUP_SECONDS if step == start.step else 0.0)
        requests = {
            "stop": context.is_asked_to_stop(),
            "unsaved": run.checkpoints.failed,
            "report": run.place.rank == 0 and records.are_due(),
        }
        batches = [batch.to(run.engine.device) for batch in micro_batches]
        done = train_step(run, step, batches, state.teacher_mean, requests)
        state = _after_step(run, state, done, micro_batches, records, clock)
        is_last = state.step == run.total_steps
        ends_epoch = is_last or state.step % run.steps_per_epoch == 0
        if ends_epoch:
            context.beat()
            state = _finish_epoch(run, state, clock, records)
            is_last = is_last or _stops_early(run, state)
        is_stopped = done.requests["stop"] and not is_last
        is_due = is_last or is_stopped or _checkpoint_is_due(run.plan.training, state, ends_epoch=ends_epoch)
        if is_last or is_stopped or done.requests["report"]:
            records.report()
            is_due = (not is_last and records.is_preempted(context, state.step)) or is_due
        if is_due:
            state = clock.taken_into(state)
            if run.pseudo_labels is not None:  # before the checkpoint that a resumed run keeps them up to
                run.pseudo_labels.write()
            run.checkpoints.save(run.engine, run.average, state, records.since_checkpoint(), context.submit)
        if is_last or is_stopped:
            break
    context.beat()
    run.checkpoints.finish()
    return LoopEnd(state, is_stopped)


def train_step(
    run: TrainingRun,
    step: int,
    micro_batches: Sequence[ClipBatch],
    teacher_mean: Sequence[float] | None,
    requests: Mapping[str, bool] | None = None,
) -> StepResult:
    """Take one optimizer step. Every rank must call.

    Args:
        run: network, engine and objectives.
        step: from 0.
        micro_batches: of this rank.
        teacher_mean: running mean of the teacher's predictions, None without pseudo-labels.
        requests: what this rank asks for, to be agreed on along with the losses; the same names on every rank.
    """
    passes = [begin_pass(run, batch) for batch in micro_batches]
    moments = first_pass(run, step, passes)  # of the global batch
    running, pseudo = pseudo_targets(run, passes, teacher_mean, moments)
    norms = part_norms(run, step, micro_batches, pseudo, moments)
    sums: dict[str, Tensor] = {}
    for one, labels in zip(passes, pseudo, strict=True):
        loss, parts = second_pass(run, step, one, labels, moments)
        run.engine.backward(loss)
        sums = add_moments(sums, parts) if sums else parts
    rate = learning_rate(step, run.total_steps, run.plan.training.optimizer)
    norm = run.engine.step(rate)
    agreed = over_ranks(sums, pseudo, requests or {})
    done = step_result(agreed, moments, norms, running, rate, norm)
    if run.average is not None and not done.is_skipped:
        run.average.update(step)
    if run.pseudo_labels is not None and not done.is_skipped:
        run.pseudo_labels.add(step, micro_batches, [one.teacher for one in passes], pseudo)
    return done


def _after_step(
    run: TrainingRun,
    state: LoopState,
    done: StepResult,
    micro_batches: Sequence[ClipBatch],
    records: Records,
    clock: StepClock,
) -> LoopState:
    """Count and record a step; return the state after it."""
    if done.requests["unsaved"]:
        run.checkpoints.raise_failure()
    step = state.step
    clock.tick(done.clips, micro_batches)
    state = state.model_copy(update={"step": step + 1, "score": None})
    if done.is_skipped:
        state, happened = skipped_step(run, state, step, done.parts)
        records.add(happened)
        return state
    forecast = clock.forecast(step, micro_batches[0]) if run.place.rank == 0 else {}
    records.add_step(run, step, done, forecast)
    return state.model_copy(update={"teacher_mean": done.teacher_mean})


def _checkpoint_is_due(settings: TrainingSettings, state: LoopState, *, ends_epoch: bool) -> bool:
    every = settings.checkpoint_every_steps
    if every is not None and state.step % every == 0:
        return True
    return ends_epoch and state.epoch % settings.checkpoint_every_epochs == 0


def _finish_epoch(run: TrainingRun, state: LoopState, clock: StepClock, records: Records) -> LoopState:
    """Validate, keep the weights if they are the best so far, and describe the epoch; a refit keeps its last step."""
    clock.pause()
    if run.plan.training.refit:
        scores, score = {}, None
        is_better = state.step == run.total_steps
    else:
        scores = _validate(run)
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
    records.add_epoch(run, state, {**scores, "train/clips_per_second": clock.clips_per_second})
    state = clock.taken_into(state)
    clock.resume()
    return state


def _validate(run: TrainingRun) -> dict[str, float]:
    """Measure the weights, or their average, on the validation clips. Every rank must call."""
    run.engine.network.eval()
    forward = run.average.network() if run.average else run.engine.forward
    predictions = predict_split(forward, run.evaluation_data(), run.data.rows["validation"])
    run.engine.network.train()
    return score_split("validation", predictions, run.data.task)


def _save_best(run: TrainingRun) -> None:
    """Save the weights of this epoch, or their average, as the model. Every rank must call."""
    is_first = run.place.rank == 0
    weights = run.weights(kept=is_first)
    if is_first:
        save_model(run.output.directory / BEST_DIRECTORY, weights, run.described_with_clips)
        run.output.publish(BEST_DIRECTORY)


def _selection_score(names: Sequence[str], scores: Mapping[str, float]) -> float:
    missing = [name for name in names if name not in scores]
    if missing:
        fix = f"choose of: {', '.join(sorted(scores))}"
        raise TrainingError("evaluation", "select_by", f"{', '.join(missing)} is not measured", fix)
    return sum(scores[name] for name in names) / len(names)


def _stops_early(run: TrainingRun, state: LoopState) -> bool:
    patience = run.plan.training.early_stopping_epochs
    return patience is not None and state.epochs_without_gain >= patience
