"""What one rank holds of the weights and of the optimizer's state, as named pieces of whole parameters.

DeepSpeed keeps flat partitions whose cut depends on stage and number of ranks. Here they are read and
written as pieces of named parameters, so that a checkpoint fits every stage, worker count, precision and
engine, and holds no pickle. The attributes of DeepSpeed's optimizers used here are not public; the
tests of every stage hold them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = (WEIGHT, *MOMENTS)


@dataclass(frozen=True)
class Piece:
    """A run of elements of one flattened parameter that this rank holds.

    Attributes:
        name: of the parameter.
        start: first element.
        values: by kind (weight, exp_avg, exp_avg_sq) one flat float32 view; writing it changes the engine.
    """

    name: str
    start: int
    values: Mapping[str, Tensor]


class WholeValues(Protocol):
    """Where whole parameters come from, e.g. a checkpoint."""

    @property
    def optimizer_steps(self) -> int:
        """Updates that the optimizer has done."""

    def whole(self, name: str, kind: str) -> Tensor:
        """Return one value of a parameter, flat, float32, on the CPU."""


def pieces_of(network: nn.Module, optimizer: Any, rank: int) -> list[Piece]:
    """List what this rank has to keep; nothing is kept twice. Frozen parameters are not kept.

    Args:
        network: whose parameters give the names.
        optimizer: torch's AdamW, or DeepSpeed's wrapper around it.
        rank: of this process.
    """
    _make_state(optimizer)
    return list(_pieces(network, optimizer, rank))


def load_pieces(network: nn.Module, optimizer: Any, rank: int, source: WholeValues) -> None:
    """Fill this rank's part from whole values; the network itself must hold the weights already.

    Under bf16 the network holds rounded weights, and the float32 masters come from here.
    """
    _make_state(optimizer)
    # Unsharded state lies on every rank; only the first one keeps it, all of them need it.
    for piece in _pieces(network, optimizer, rank=0 if not _is_sharded(optimizer) else rank):
        for kind, view in piece.values.items():
            view.copy_(source.whole(piece.name, kind)[piece.start : piece.start + view.numel()])
    for state in _inner(optimizer).state.values():
        state["step"].fill_(float(source.optimizer_steps))


def optimizer_steps(optimizer: Any) -> int:
    """Return how many updates the optimizer has done; steps that were skipped do not count."""
    for state in _inner(optimizer).state.values():
        return int(state["step"])
    return 0


def _pieces(network: nn.Module, optimizer: Any, rank: int) -> Iterator[Piece]:
    named = [(name, one) for name, one in network.named_parameters() if one.requires_grad]
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        yield from (_stage_3_piece(name, one, optimizer, rank) for name, one in named)
    elif hasattr(optimizer, "single_partition_of_fp32_groups"):
        found = (_stage_1_piece(name, one, optimizer) for name, one in named)
        yield from (piece for piece in found if piece is not None)
    elif rank == 0:
        masters = unsharded_masters(optimizer)
        for name, parameter in named:
            master = masters.get(id(parameter), parameter)
            yield Piece(name, 0, _flat_values(optimizer.state[master], master))


def _stage_1_piece(name: str, parameter: nn.Parameter, optimizer: Any) -> Piece | None:
    """Stages 1 and 2: a parameter lies in one flat partition, or is cut between neighbours."""
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return None
    flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    place = mapping.hp_fragment_address
    values = _flat_values(optimizer.optimizer.state[flat], flat)
    cut = {kind: value.narrow(0, place.start, place.numel) for kind, value in values.items()}
    return Piece(name, mapping.lp_fragment_address.start, cut)


def _stage_3_piece(name: str, parameter: nn.Parameter, optimizer: Any, rank: int) -> Piece:
    """Stage 3: every parameter is cut into equal runs, the last one filled up."""
    values = {}
    for kind in KINDS:
        key = None if kind == WEIGHT else kind
        values[kind], _ = optimizer._get_fp32_opt_state_partition(
            parameter, release_swap_buffers=False, optim_state_key=key
        )
    start = rank * values[WEIGHT].numel()
    real = max(0, min(values[WEIGHT].numel(), parameter.ds_numel - start))  # type: ignore[attr-defined]
    return Piece(name, start, {kind: value.detach()[:real] for kind, value in values.items()})


def _flat_values(state: Mapping[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    return {WEIGHT: weight.detach().view(-1), **{kind: state[kind].view(-1) for kind in MOMENTS}}


def _make_state(optimizer: Any) -> None:
    """Create AdamW's moments where no step has created them yet."""
    inner = _inner(optimizer)
    for parameter in _optimized(optimizer):
        if not inner.state[parameter]:
            inner.state[parameter].update(
                step=torch.zeros((), dtype=torch.float32, device=_step_device(inner, parameter)),
                **{kind: torch.zeros_like(parameter.detach()) for kind in MOMENTS},
            )


def _optimized(optimizer: Any) -> list[Tensor]:
    """Return the tensors that torch's optimizer updates."""
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"):
        if hasattr(optimizer, name):
            return list(getattr(optimizer, name))
    masters = unsharded_masters(optimizer)
    if masters:
        return list(masters.values())
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _inner(optimizer: Any) -> Any:
    """Return torch's optimizer."""
    return optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer.optimizer


def _is_sharded(optimizer: Any) -> bool:
    return hasattr(optimizer, "fp32_partitioned_groups_flat") or hasattr(
        optimizer, "single_partition_of_fp32_groups"
    )


def unsharded_masters(optimizer: Any) -> dict[int, Tensor]:
    """Return stage 0's float32 weights under bf16 by the id of their parameter; empty elsewhere."""
    low, full = (getattr(optimizer, name, []) for name in ("fp16_groups", "fp32_groups"))
    pairs = [pair for groups in zip(low, full, strict=False) for pair in zip(*groups, strict=True)]
    return {id(parameter): master for parameter, master in pairs}


def _step_device(inner: Any, parameter: Tensor) -> torch.device:
    # torch keeps the count of a fused or capturable optimizer beside the parameter, else on the CPU.
    options = inner.param_groups[0]
    beside = options.get("fused") or options.get("capturable")
    return parameter.device if beside else torch.device("cpu")
