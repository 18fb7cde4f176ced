"""What an optimizer step is made of; ``loop.train_step`` puts it together.

Every rank runs the same graph and calls backward once per micro-batch, whatever clips it was dealt. With
the torch engine the host waits for a GPU once, at the end, where all numbers are copied at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import Tensor, nn

from vavl.data.batch import ClipBatch
from vavl.models.vavl import VavlOutput
from vavl.objectives.moments import Moments, add_moments, moments_under
from vavl.objectives.pseudo_label import (
    PseudoTarget,
    TeacherPrediction,
    combine_conditions,
    on_device,
    pseudo_target,
    running_mean,
)
from vavl.training.collectives import add_over_ranks
from vavl.training.engine import autocast
from vavl.training.run import TrainingRun
from vavl.training.settings import OptimizerSettings

_MEAN_LASTS = 10
"""The running mean of the teacher forgets over a tenth of the run: momentum 1 - 10 / steps."""


@dataclass(frozen=True)
class StepResult:
    """What a step did, the same on every rank."""

    parts: dict[str, float]  # unweighted objectives of the global batch
    clips: int  # of the global batch, fillers left out
    label: tuple[float, ...]  # sum of the labels of the global batch, per output
    learning_rate: float  # used
    gradient_norm: float  # of the whole gradient before clipping
    part_norms: dict[str, float]  # norm of the gradient of every weighted part, where it was measured
    # running mean of its predictions after the step; None without pseudo-labels
    teacher_mean: tuple[float, ...] | None
    confident: float  # sum of the weights of the pseudo-labels: of hard ones the clips whose label counted
    unlabelled: float  # clips that could have one
    is_skipped: bool  # True when nothing was updated, since the loss or the gradient was not finite.
    requests: Mapping[str, bool]  # by name, whether any rank made it


@dataclass
class Pass:
    """A micro-batch on its way through the step."""

    batch: ClipBatch  # its clips; their weak view until the teacher has predicted it
    teacher: TeacherPrediction | None  # its predictions of their weak view, with pseudo-labels
    output: VavlOutput | None = None  # of the network, with its graph, until the backward pass
    local: dict[str, Tensor] = field(default_factory=dict)  # moments of the output


def learning_rate(step: int, total_steps: int, settings: OptimizerSettings) -> float:
    """Return the learning rate: linear warm-up from the first step, then cosine to the final share.

    ``step``: optimizer step, from 0. ``settings``: peak, warm-up and final share.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    span = max(1, total_steps - settings.warmup_steps)
    progress = min(1.0, (step - settings.warmup_steps) / span)
    share = settings.final_share + (1 - settings.final_share) * 0.5 * (1 + math.cos(math.pi * progress))
    return settings.learning_rate * share


def begin_pass(run: TrainingRun, batch: ClipBatch) -> Pass:
    """Let the teacher predict the weak view, without dropout and gradient; or look predictions up that were given.

    A network with a ladder that is its own teacher predicts it later, along with its clean pass.
    """
    settings = run.plan.objectives.pseudo_label
    if run.given is not None:
        return Pass(batch, run.given.of(batch))
    if settings is None or batch.weak is None:
        return Pass(batch, None)
    is_average = settings.teacher == "average" and run.average is not None
    if run.plan.objectives.ladder is not None and not is_average:
        return Pass(batch, None)
    with torch.no_grad():
        if is_average and run.average is not None:
            output = run.average.network()(batch.weak.batch)
        else:
            run.engine.network.eval()
            output = run.engine.forward(batch.weak.batch)
            run.engine.network.train()
    return _taught(run, Pass(batch, None), output)


def _taught(run: TrainingRun, one: Pass, output: VavlOutput) -> Pass:
    """Make the teacher's prediction of what the network gives for the weak view, which has served then."""
    settings, weak = run.plan.objectives.pseudo_label, one.batch.weak
    assert settings is not None
    assert weak is not None
    task, labelled = run.data.task, run.objective.labelled
    one.teacher = combine_conditions(output, weak, one.batch.clips, task, settings, labelled)
    one.batch = replace(one.batch, weak=None)
    return one


def first_pass(run: TrainingRun, step: int, passes: Sequence[Pass]) -> dict[str, Tensor]:
    """Add what the objectives need of the global batch over its micro-batches and ranks. Every rank must call.

    A single micro-batch keeps its graph for the backward; several run without gradient here and again
    in the second pass, with the same random draws.
    """
    single = len(passes) == 1
    total: dict[str, Tensor] = {}
    for one in passes:
        if single or run.objective.needs_output_moments:
            with nullcontext() if single else torch.no_grad():
                one.output = run.engine.forward(one.batch, run.draws(step))
            if one.output.weak is not None:
                _taught(run, one, one.output.weak)
        one.local = run.objective.moments(one.output, one.batch, one.teacher)
        total = add_moments(total, one.local) if total else one.local
    return add_over_ranks(total)


def pseudo_targets(
    run: TrainingRun, passes: Sequence[Pass], teacher_mean: Sequence[float] | None, moments: Moments
) -> tuple[dict[str, dict[str, Tensor]], list[PseudoTarget | None]]:
    """Return the teacher's mean after this step, for ``step_result``, and the pseudo-labels of the micro-batches."""
    settings, labels = run.plan.objectives.pseudo_label, run.labels
    if settings is None or labels is None or teacher_mean is None:
        return {}, [None] * len(passes)
    before = on_device(teacher_mean, passes[0].batch.index.device)
    # A momentum for long runs would leave the mean of a short one where it began.
    mean = running_mean(before, moments_under("teacher", moments), max(0.0, 1 - _MEAN_LASTS / run.total_steps))
    task = run.data.task
    targets = [pseudo_target(one.teacher, task, settings, labels, mean) if one.teacher else None for one in passes]
    return {"teacher": {"mean": mean}}, targets


def second_pass(
    run: TrainingRun, step: int, one: Pass, pseudo: PseudoTarget | None, moments: Moments
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the objective of a micro-batch, and its parts without graph. Every rank must call.

    An objective that is not finite spoils the gradient of all ranks, so that all of them skip the step.
    """
    if run.place.micro_batches > 1 or one.output is None:
        one.output = run.engine.forward(one.batch, run.draws(step))
        one.local = run.objective.moments(one.output, one.batch, one.teacher)
    loss, parts = run.loss(step, one.batch, one.output, one.local, moments, pseudo)
    one.output, one.local = None, {}
    finite = torch.where(loss.detach().isfinite(), 1.0, math.nan)
    values = torch.stack([part.detach() for part in parts.values()]).double()
    return loss * finite, dict(zip(parts, values.unbind(), strict=True))


def part_norms(
    run: TrainingRun,
    step: int,
    micro_batches: Sequence[ClipBatch],
    pseudo: Sequence[PseudoTarget | None],
    moments: Moments,
) -> dict[str, Tensor]:
    """Measure the norm of the gradient of every weighted part, every so many steps. Every rank must call.

    One part after the other, each with passes of its own: never more than one gradient of the network is held, and
    the engine, which sees one backward pass a step, does not notice.
    """
    every = run.plan.training.gradient_norms_every_steps
    if every is None or step % every:
        return {}
    trained = [one for one in run.engine.network.parameters() if one.requires_grad]

    def losses(batch: ClipBatch, labels: PseudoTarget | None) -> dict[str, Tensor]:
        with autocast(run.engine):  # the network itself: the engine keeps no account of these passes
            output = run.engine.network(replace(batch, weak=None), run.draws(step))
        local = run.objective.moments(output, batch, None)
        return run.objective.weighted(run.objective.parts(output, batch, local, moments, labels), step)

    with torch.no_grad():
        names = sorted(losses(micro_batches[0], pseudo[0]))
    norms: dict[str, Tensor] = {}
    for name in names:
        total: list[Tensor] = []
        for batch, labels in zip(micro_batches, pseudo, strict=True):
            found = _gradient(losses(batch, labels)[name], trained)
            total = [one.add_(more) for one, more in zip(total, found, strict=True)] if total else found
        squares = torch.zeros((), dtype=torch.float64, device=run.engine.device)
        while total:  # freed one by one
            squares += add_over_ranks({"gradient": total.pop()})["gradient"].square().sum()
        norms[name] = squares.sqrt()
    return norms


def _gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    if not loss.requires_grad:  # all that the part could train is frozen
        return [torch.zeros_like(parameter) for parameter in parameters]
    return [one.detach().clone() for one in torch.autograd.grad(loss, parameters, materialize_grads=True)]


def over_ranks(
    sums: Mapping[str, Tensor], pseudo: Sequence[PseudoTarget | None], requests: Mapping[str, bool]
) -> dict[str, Tensor]:
    """Add the parts of the objective, the weights of pseudo-labels and the requests of all ranks, in one operation."""
    device = next(iter(sums.values())).device
    # torch.tensor would wait for its copy to the device.
    made = {f"requests/{name}": torch.full((), float(value), device=device) for name, value in requests.items()}
    counts = [labels.weight.sum() for labels in pseudo if labels is not None]
    confident = torch.stack(counts).sum() if counts else torch.zeros((), device=device)
    return add_over_ranks({**sums, **made, "confident": confident})


def step_result(
    agreed: Mapping[str, Tensor],
    moments: Moments,
    part_norms: Mapping[str, Tensor],
    running: Mapping[str, Mapping[str, Tensor]],
    rate: float,
    norm: Tensor,
) -> StepResult:
    """Read all numbers of a step; here it waits for its device.

    ``running``: mean of the teacher after the step, see ``pseudo_targets``.
    """
    counted = {name: value for name, value in moments.items() if name in ("clips", "label", "teacher/count")}
    found = _on_host({"agreed": agreed, "norms": part_norms, "counts": counted, "whole": {"norm": norm}, **running})
    parts = {name: value for name, (value,) in found["agreed"].items()}
    requests = {name: parts.pop(name) > 0 for name in list(parts) if name.startswith("requests/")}
    (whole,), counts = found["whole"]["norm"], found["counts"]
    return StepResult(
        confident=parts.pop("confident"),
        parts=parts,
        clips=int(counts["clips"][0]),
        label=tuple(counts["label"]),
        learning_rate=rate,
        gradient_norm=whole,
        part_norms={name: value for name, (value,) in found["norms"].items()},
        teacher_mean=tuple(found["teacher"]["mean"]) if "teacher" in found else None,
        unlabelled=sum(counts.get("teacher/count", [])),
        is_skipped=not math.isfinite(whole),
        requests={name.removeprefix("requests/"): value for name, value in requests.items()},
    )


def _on_host(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, list[float]]]:
    """Copy named tensors of any shape from the device in one go: here a step waits for its device, once."""
    tensors = [tensor.detach().double().reshape(-1) for group in groups.values() for tensor in group.values()]
    numbers = iter(torch.cat(tensors).tolist())
    return {
        name: {one: list(islice(numbers, tensor.numel())) for one, tensor in group.items()}
        for name, group in groups.items()
    }
