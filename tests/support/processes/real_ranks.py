"""What real processes compute for tests/integration/test_ranks.py, in groups of 1, 2 and 4.

Rank 0 of each group leaves ``<folder>/<ranks>.safetensors`` with ``<case>/<way>/<name>``, where the way is
``together`` (moments of the global batch), ``in pieces`` (the same in several micro-batches per rank) or ``apart``
(the mean of the ranks' own losses).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from vavl.objectives.contrastive import contrastive_loss, contrastive_moments
from vavl.objectives.hgr import correlation_moments, soft_hgr_loss
from vavl.objectives.moments import Moments, moments_under, named_moments
from vavl.training import step as step_module
from vavl.training.collectives import add_over_ranks
from vavl.training.loop import train_step
from vavl.training.run import prepare_run
from vavl.training.settings import TrainingPlan

ROWS, SIZE = 23, 4
WIDTHS = {"audio": 7, "video": 5, "label": 3}
PAIRS = (("audio", "video"), ("audio", "label"), ("video", "label"))
CUTS = {1: (0, 23), 2: (0, 1, 23), 4: (0, 1, 1, 9, 23)}
STEPS, PIECES = 3, 3


def run_cases(plan: TrainingPlan, folder: Path) -> None:
    """Compute every case on this rank of the group."""
    found: dict[str, Tensor] = {}
    for case in ("in turn", "uneven", "sorted"):
        for way in ("together", "apart"):
            found |= named_moments(f"{case}/{way}", soft_hgr_of(case, way))
            found |= named_moments(f"contrast {case}/{way}", contrast_of(case, way))
    for way in ("together", "in pieces", "apart"):
        found |= named_moments(f"network/{way}", training_of(plan, way))
    if dist.get_rank() == 0:
        values = {name: value.contiguous() for name, value in found.items()}
        save_file(values, folder / f"{dist.get_world_size()}.safetensors")


def contrast_of(case: str, way: str) -> dict[str, Tensor]:
    """Return loss and gradients of two linear maps, as ``soft_hgr_of`` does."""
    values, there, maps = _made_up()
    rows = own_rows(case, there)
    has = {name: there[name][rows] for name in ("audio", "video")}
    every = torch.arange(len(rows))
    sides = {name: SimpleNamespace(clip=every, weight=has[name]) for name in has}
    batch: Any = SimpleNamespace(place=rows, has_audio=has["audio"], has_video=has["video"], **sides)
    embeddings = [values[name][rows] @ maps[name] for name in has]
    local = contrastive_moments(*embeddings, batch, ROWS)
    return _added_up(way, local, {name: maps[name] for name in has}, lambda whole: contrastive_loss(whole, local, 0.3))


def _made_up() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Return values, which rows have them, and linear maps."""
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(ROWS, width, generator=generator) for name, width in WIDTHS.items()}
    values["video"][:, :3] += values["audio"][:, :3]
    values["label"] = torch.nn.functional.one_hot(values["audio"][:, :3].argmax(-1)).float()
    there = {name: (torch.rand(ROWS, generator=generator) > 0.25).float() for name in WIDTHS}
    maps = {
        name: (0.5 * torch.randn(width, SIZE, generator=generator)).requires_grad_() for name, width in WIDTHS.items()
    }
    return values, there, maps


def soft_hgr_of(case: str, way: str) -> dict[str, Tensor]:
    """Return loss and gradients of three linear maps on this rank's rows, added over the ranks."""
    values, there, maps = _made_up()
    rows = own_rows(case, there)
    local: dict[str, Tensor] = {}
    for first, second in PAIRS:
        sides = (values[name][rows] @ maps[name] for name in (first, second))
        local |= named_moments(
            f"{first}_{second}", correlation_moments(*sides, there[first][rows] * there[second][rows])
        )
    return _added_up(way, local, maps, lambda whole: sum_of_losses(whole, local))


def _added_up(
    way: str, local: dict[str, Tensor], maps: dict[str, Tensor], loss_of: Callable[[Moments], Tensor]
) -> dict[str, Tensor]:
    ranks = dist.get_world_size()
    # The gradients of parts of one loss add up; those of losses of their own are averaged.
    whole, share = (add_over_ranks(local), 1.0) if way == "together" else (local, 1 / ranks)
    loss = loss_of(whole) * share
    loss.backward()
    mine = {"loss": loss.detach() / (ranks * share), **{name: one.grad for name, one in maps.items()}}
    return {name: value.float() for name, value in add_over_ranks(mine).items()}


def sum_of_losses(whole: Moments, local: Moments) -> Tensor:
    """Add the losses of the three pairs."""
    names = [f"{first}_{second}" for first, second in PAIRS]
    losses = [soft_hgr_loss(moments_under(name, whole), moments_under(name, local)) for name in names]
    return torch.stack(losses).sum()


def own_rows(case: str, there: Mapping[str, Tensor]) -> Tensor:
    """Return the rows of this rank: dealt in turn, unevenly, or sorted by what they lack."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    everything = torch.arange(ROWS)
    match case:
        case "in turn":
            return everything[rank::ranks]
        case "uneven":  # one rank gets a single row, another none
            return everything[CUTS[ranks][rank] : CUTS[ranks][rank + 1]]
        case _:
            order = torch.argsort(there["audio"] + 2 * there["video"], stable=True)
            return torch.tensor_split(order, ranks)[rank]


def training_of(plan: TrainingPlan, way: str) -> dict[str, Tensor]:
    """Train a few steps with all objectives; return the parts of every step and the weights after them."""
    ranks = dist.get_world_size()
    if way == "in pieces":
        clips = -(-plan.data.composition.batch_size // (ranks * PIECES))
        training = plan.training.model_copy(update={"clips_per_forward": clips})
        plan = plan.model_copy(update={"training": training})
    run = prepare_run(plan)
    teacher_mean = run.start.teacher_mean
    curve = []
    agree = add_over_ranks
    if way == "apart":
        # The mean of the ranks' own losses: DistributedDataParallel without the factor that makes it a sum.
        run.engine._world_size = 1
        run = replace(run, objective=replace(run.objective, pieces=1))

        def agree(sums: Moments) -> dict[str, Tensor]:
            return {name: value.detach() for name, value in sums.items()}

    with patch.object(step_module, "add_over_ranks", agree):
        for step in range(STEPS):
            done = train_step(run, step, run.loader.load(step), teacher_mean)
            teacher_mean = done.teacher_mean
            facts = {**done.parts, **done.part_norms, "sure": done.confident, "norm": done.gradient_norm}
            curve.append(facts)
    found = {f"curve {name}": torch.tensor([facts[name] for facts in curve]) for name in curve[-1]}
    return found | named_moments("weights", run.engine.full_weights())
