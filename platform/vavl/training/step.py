"""One optimizer step: guess, first pass for global moments, objectives, backward, step.

Every rank runs the same graph and calls backward once per micro-batch, whatever clips it was dealt. With
the torch engine the host waits for a GPU once, at the end, where all numbers are copied at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from vavl.data.batch import ClipBatch
from vavl.models.draws import DrawKey
from vavl.models.vavl import VavlOutput
from vavl.objectives.moments import Moments, add_moments, moments_under
from vavl.objectives.pseudo_label import ConfidenceState, Guess, PseudoTarget, guess, pseudo_target
from vavl.training.collectives import add_over_ranks
from vavl.training.run import TrainingRun
from vavl.training.schedule import learning_rate


@dataclass(frozen=True)
class StepResult:
    """What a step did, the same on every rank.

    Attributes:
        parts: unweighted objectives of the global batch.
        clips: of the global batch, fillers left out.
        label: sum of the labels of the global batch, per output.
        learning_rate: used.
        gradient_norm: of the whole gradient before clipping.
        part_norms: norm of the gradient of every weighted part, where it was measured.
        confidence: after the step.
        sure: unlabelled clips whose pseudo-label counted.
        unlabelled: those that could have one.
        is_skipped: True when nothing was updated, since the loss or the gradient was not finite.
        heard: by name, whether any rank heard it.
    """

    parts: dict[str, float]
    clips: int
    label: tuple[float, ...]
    learning_rate: float
    gradient_norm: float
    part_norms: dict[str, float]
    confidence: ConfidenceState | None
    sure: float
    unlabelled: float
    is_skipped: bool
    heard: Mapping[str, bool]


@dataclass
class _Pass:
    """A micro-batch on its way through the step."""

    batch: ClipBatch
    guessed: Guess | None
    output: VavlOutput | None = None
    local: dict[str, Tensor] = field(default_factory=dict)


def train_step(
    run: TrainingRun,
    step: int,
    micro_batches: Sequence[ClipBatch],
    confidence: ConfidenceState | None,
    heard: Mapping[str, bool] | None = None,
) -> StepResult:
    """Take one optimizer step. Every rank must call.

    Args:
        run: network, engine and objectives.
        step: from 0.
        micro_batches: of this rank.
        confidence: running means behind adaptive pseudo-labels, None without pseudo-labels.
        heard: what this rank heard from outside, to be agreed on along with the losses; the same names
            on every rank.
    """
    passes = [_Pass(batch, _guess(run, batch)) for batch in micro_batches]
    together = _first_pass(run, step, passes)
    running, pseudo = _pseudo_targets(run, passes, confidence, together)
    part_norms = _part_norms(run, step, micro_batches, pseudo, together)
    sums: dict[str, Tensor] = {}
    for one, labels in zip(passes, pseudo, strict=True):
        parts = _second_pass(run, step, one, labels, together)
        sums = add_moments(sums, parts) if sums else parts
    rate = learning_rate(step, run.total_steps, run.plan.training.optimizer)
    norm = run.engine.step(rate)
    device = micro_batches[0].index.device
    told = {
        # torch.tensor would wait for its copy to the device.
        f"heard/{name}": torch.full((), float(value), device=device)
        for name, value in (heard or {}).items()
    }
    agreed = add_over_ranks(sums | told | {"sure": _sure(pseudo, device)})
    counts = {name: value for name, value in together.items() if name in ("clips", "label", "guess/count")}
    found = _on_host(
        {"agreed": agreed, "norms": part_norms, "counts": counts, "whole": {"norm": norm}} | running
    )
    is_skipped = not math.isfinite(found["whole"]["norm"][0])
    if run.average is not None and not is_skipped:
        run.average.update(step)
    return _result(found, rate, is_skipped=is_skipped)


def _on_host(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, list[float]]]:
    """Copy named tensors of any shape from the device in one go: here a step waits for its device, once."""
    tensors = [tensor.detach().double().reshape(-1) for group in groups.values() for tensor in group.values()]
    numbers = iter(torch.cat(tensors).tolist())
    return {
        name: {one: list(islice(numbers, tensor.numel())) for one, tensor in group.items()}
        for name, group in groups.items()
    }


def _result(found: Mapping[str, Mapping[str, list[float]]], rate: float, *, is_skipped: bool) -> StepResult:
    agreed, counts = {name: value for name, (value,) in found["agreed"].items()}, found["counts"]
    heard = {name: agreed.pop(name) > 0 for name in list(agreed) if name.startswith("heard/")}
    sure = agreed.pop("sure")
    return StepResult(
        parts=agreed,
        clips=int(counts["clips"][0]),
        label=tuple(counts["label"]),
        learning_rate=rate,
        gradient_norm=found["whole"]["norm"][0],
        part_norms={name: value for name, (value,) in found["norms"].items()},
        confidence=ConfidenceState.of(found["confidence"]["values"]) if "confidence" in found else None,
        sure=sure,
        unlabelled=sum(counts.get("guess/count", [])),
        is_skipped=is_skipped,
        heard={name.removeprefix("heard/"): value for name, value in heard.items()},
    )


def _key(run: TrainingRun, step: int) -> DrawKey:
    """Return the key of a step's draws: the same whenever and wherever its rows are computed."""
    return DrawKey(run.plan.training.seed, step)


def _guess(run: TrainingRun, batch: ClipBatch) -> Guess | None:
    """Let the teacher label the weak view, without dropout and gradient."""
    settings = run.plan.objectives.pseudo_label
    if settings is None or batch.weak is None:
        return None
    weak = batch.weak
    with torch.no_grad():
        if settings.teacher == "average" and run.average is not None:
            output = run.average.network()(weak.batch)
        else:
            run.engine.network.eval()
            output = run.engine.forward(weak.batch)
            run.engine.network.train()
    return guess(output, weak, batch.clips, run.objective.labelled)


def _pseudo_targets(
    run: TrainingRun, passes: Sequence[_Pass], confidence: ConfidenceState | None, together: Moments
) -> tuple[dict[str, dict[str, Tensor]], list[PseudoTarget | None]]:
    """Return the confidence after this step, for ``_on_host``, and the pseudo-labels of the micro-batches."""
    settings = run.plan.objectives.pseudo_label
    if confidence is None or settings is None:
        return {}, [None] * len(passes)
    before = confidence.on(passes[0].batch.index.device)
    running = before.after(moments_under("guess", together), settings.adaptive_momentum)
    thresholds = running.thresholds(settings)
    targets = [pseudo_target(one.guessed, thresholds) if one.guessed else None for one in passes]
    return {"confidence": {"values": running.values}}, targets


def _first_pass(run: TrainingRun, step: int, passes: Sequence[_Pass]) -> dict[str, Tensor]:
    """Add what the objectives need of the global batch over its micro-batches and ranks.

    A single micro-batch keeps its graph for the backward; several run without gradient here and again
    in the second pass, with the same random draws.
    """
    single = len(passes) == 1
    total: dict[str, Tensor] = {}
    for one in passes:
        if single or run.objective.needs_output_moments:
            with nullcontext() if single else torch.no_grad():
                one.output = run.engine.forward(one.batch, _key(run, step))
        one.local = run.objective.moments(one.output, one.batch, one.guessed)
        total = add_moments(total, one.local) if total else one.local
    return add_over_ranks(total)


def _second_pass(
    run: TrainingRun, step: int, one: _Pass, pseudo: PseudoTarget | None, together: Moments
) -> dict[str, Tensor]:
    """Compute the parts of a micro-batch and their gradient; return the parts without graph."""
    if run.place.micro_batches > 1 or one.output is None:
        one.output = run.engine.forward(one.batch, _key(run, step))
        one.local = run.objective.moments(one.output, one.batch, one.guessed)
    parts = run.objective.parts(one.output, one.batch, one.local, together, pseudo)
    loss = torch.stack(list(run.objective.weighted(parts, step).values())).sum()
    # A loss that is not finite spoils the gradient of all ranks, so that all of them skip the step.
    run.engine.backward(loss * torch.where(loss.detach().isfinite(), 1.0, math.nan))
    one.output, one.local = None, {}
    return {name: part.detach().double() for name, part in parts.items()}


def _part_norms(
    run: TrainingRun,
    step: int,
    micro_batches: Sequence[ClipBatch],
    pseudo: Sequence[PseudoTarget | None],
    together: Moments,
) -> dict[str, Tensor]:
    """Measure the norm of the gradient of every weighted part, every so many steps. Collective.

    One part after the other, each with passes of its own: never more than one gradient of the network is held, and
    the engine, which sees one backward pass a step, does not notice.
    """
    every = run.plan.training.gradient_norms_every_steps
    if every is None or step % every:
        return {}
    trained = [one for one in run.engine.network.parameters() if one.requires_grad]

    def losses(batch: ClipBatch, labels: PseudoTarget | None) -> dict[str, Tensor]:
        output = run.engine.forward_alone(batch, _key(run, step))
        local = run.objective.moments(output, batch, None)
        return run.objective.weighted(run.objective.parts(output, batch, local, together, labels), step)

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


def _sure(pseudo: Sequence[PseudoTarget | None], device: torch.device) -> Tensor:
    counts = [labels.is_sure.sum() for labels in pseudo if labels is not None]
    return torch.stack(counts).sum() if counts else torch.zeros((), device=device)
