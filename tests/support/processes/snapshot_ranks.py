"""What two real ranks hold of a network's weights and moments, for tests/unit/training/test_snapshots.py.

Every way of training leaves ``<folder>/<way>/saved`` after a few steps: the files of a checkpoint, one of
each rank, and ``full.safetensors``, the weights gathered by the engine itself. Then every one of them is loaded
in other ways, and ``<folder>/<way>/<other way>`` holds the same files after no further step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from vavl.training.checkpoint_files import CheckpointValues, LoopState, Snapshot, shares
from vavl.training.collectives import rank_and_world_size
from vavl.training.engine import Engine
from vavl.training.run import make_engine
from vavl.training.settings import TrainingSettings
from vavl.training.storage import RunStorage

STEPS = 3
FROZEN = "0.bias"
STAGES, PRECISIONS = (0, 1, 2, 3), ("fp32", "bf16")

Way = tuple[int, int, str]
"""Ranks, stage and precision; the stage -1 is torch alone."""


def name_of(way: Way) -> str:
    """Return the name of a way's directory."""
    return "-".join(map(str, way))


def ways() -> Iterator[Way]:
    """Return every way of training."""
    for precision in PRECISIONS:
        yield from ((ranks, -1, precision) for ranks in (1, 2))
        yield from ((2, stage, precision) for stage in STAGES)


def others(way: Way) -> Iterator[Way]:
    """Return the ways in which that one goes on: another stage, on other ranks."""
    _, stage, precision = way
    following = {-1: 3, 0: 2, 1: 3, 2: 0, 3: 1}
    yield (2, following[stage], precision)
    yield (1, following[following[stage]], precision)
    yield (1, -1, precision)


class Keyed(torch.nn.Sequential):
    """Takes the key of the draws, as engines pass it, and has none."""

    def forward(self, inputs: torch.Tensor, key: object = None) -> torch.Tensor:
        """Run the layers."""
        return super().forward(inputs)


def network() -> torch.nn.Sequential:
    """Return a network whose sizes two ranks cannot share evenly, one part of it frozen."""
    torch.manual_seed(0)
    made = Keyed(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    made.get_parameter(FROZEN).requires_grad_(requires_grad=False)
    return made


def engine_of(way: Way, made: torch.nn.Module) -> Engine:
    """Build the engine of a way."""
    ranks, stage, precision = way
    engine = {"engine": "torch"} if stage < 0 else {"zero_stage": stage}
    settings = TrainingSettings.model_validate({"workers": ranks, "precision": precision, **engine})
    return make_engine(made, settings, torch.device("cpu"), 4)


def train_and_save(way: Way, folder: Path) -> None:
    """Take some steps on this rank, the same whatever the ranks are, and leave its files."""
    ranks = way[0]
    engine = engine_of(way, network())
    assert engine.optimizer_steps == 0
    inputs = torch.linspace(-1, 1, 20).view(4, 5)
    prepare(engine)
    assert engine.optimizer_steps == 0
    assert way[1] < 1 or engine._layout is not None  # else every checkpoint would gather parameter by parameter
    for step in range(STEPS):
        engine.backward(engine.forward(inputs).float().sub(step).square().mean() / ranks)
        engine.step(1e-2)
    leave(engine, folder)


def load_and_save(way: Way, source: Path, folder: Path) -> None:
    """Go on from the files of another way on this rank, and leave its own."""
    values, made = CheckpointValues(source), network()
    shapes = {name: one.shape for name, one in made.named_parameters() if one.requires_grad}
    made.load_state_dict(values.weights(shapes), strict=False)
    engine = engine_of(way, made)
    prepare(engine)
    engine.load(values)
    leave(engine, folder)


def prepare(engine: Engine) -> None:
    """Take the discarded step."""
    engine.prepare(lambda: engine.forward(torch.zeros(1, 5)).float().sum() * 0)


def leave(engine: Engine, folder: Path) -> None:
    """Write what the engine holds."""
    folder.mkdir(parents=True, exist_ok=True)
    rank, ranks = rank_and_world_size()
    owner = shares({name: held.numel() for name, held in engine.held_weights().items()}, ranks)
    pieces = engine.snapshot(lambda name: owner[name] == rank)
    state = LoopState(config_hash="c", store_hash="s", workers=ranks, zero_stage=0, step=STEPS)
    Snapshot(rank, ranks, "token", state, engine.optimizer_steps, pieces).write(RunStorage(folder))
    full = engine.full_weights()
    if rank == 0:
        (folder / "whole").mkdir(exist_ok=True)
        save_file({name: value.contiguous() for name, value in full.items()}, folder / "whole/full.safetensors")


def save_all(ranks: int, folder: Path) -> None:
    """Train in every way of so many ranks."""
    for way in ways():
        if way[0] == ranks:
            train_and_save(way, folder / name_of(way) / "saved")


def load_all(ranks: int, folder: Path) -> None:
    """Go on from every way in those others that have so many ranks."""
    for way in ways():
        for other in others(way):
            if other[0] == ranks:
                place = folder / name_of(way)
                load_and_save(other, place / "saved", place / name_of(other))
