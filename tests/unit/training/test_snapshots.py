"""What the ranks hold: every trained parameter once, and the same in whatever way it is read again."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from forked_ranks import run_ranks_of_test
from safetensors import safe_open
from safetensors.torch import load_file
from snapshot_ranks import FROZEN, STEPS, Way, load_all, name_of, network, others, save_all, ways

from vavl.training.checkpoint_files import KINDS, MOMENTS, WEIGHT, CheckpointValues, problem_of
from vavl.training.engine import TorchEngine
from vavl.training.settings import TrainingSettings
from vavl.training.storage import RunStorage

WAYS = list(ways())
PAIRS = [(way, other) for way in WAYS for other in others(way)]


def size_of(name: str) -> int:
    return network().get_parameter(name).numel()


TRAINED = [name for name, _ in network().named_parameters() if name != FROZEN]


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory with what real ranks held."""
    folder = tmp_path_factory.mktemp("shards")
    for work in (save_all, load_all):
        for ranks in (1, 2):
            run_ranks_of_test(ranks, partial(work, ranks, folder))
    return folder


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("rank-*.safetensors"))


def runs_of(folder: Path, name: str) -> list[tuple[int, int]]:
    """Return first and last element of every piece of a parameter, the same for weight and moments."""
    found = []
    for path in files_of(folder):
        with safe_open(path, "pt") as file:
            starts = json.loads(file.metadata()["starts"])
            if name in starts:
                (length,) = {file.get_tensor(f"{kind}/{name}").numel() for kind in KINDS}
                found.append((starts[name], starts[name] + length))
    return sorted(found)


@pytest.mark.parametrize("way", WAYS, ids=name_of)
def test_the_ranks_write_every_trained_parameter_once_and_share_the_work(held: Path, way: Way) -> None:
    folder = held / name_of(way) / "saved"
    assert problem_of(RunStorage(folder)) is None
    for name in TRAINED:
        runs = runs_of(folder, name)
        assert (runs[0][0], runs[-1][1]) == (0, size_of(name))
        assert all(end == start for (_, end), (start, _) in itertools.pairwise(runs)), name
    elements = [sum(value.numel() for value in load_file(path).values()) for path in files_of(folder)]
    assert len(elements) == way[0]
    assert min(elements) > 0


@pytest.mark.parametrize("way", WAYS, ids=name_of)
def test_the_pieces_are_the_weights_that_the_engine_gathers(held: Path, way: Way) -> None:
    folder = held / name_of(way) / "saved"
    values, full = CheckpointValues(folder), load_file(folder / "whole/full.safetensors")
    assert values.optimizer_steps == STEPS
    before = dict(network().named_parameters())
    for name in TRAINED:
        assert torch.equal(values.whole(name, WEIGHT), full[name].view(-1))
        assert not torch.equal(full[name], before[name])
        assert all(values.whole(name, kind).abs().sum() > 0 for kind in MOMENTS)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_ways_of_one_precision_hold_the_same_after_the_same_steps(held: Path, precision: str) -> None:
    """Both engines: bf16 is autocast over float32 weights in each."""
    tolerance = 1e-6 if precision == "fp32" else 1e-4
    same = [way for way in WAYS if way[2] == precision]
    first, *rest = (CheckpointValues(held / name_of(way) / "saved") for way in same)
    for values in rest:
        for name in TRAINED:
            for kind in KINDS:
                torch.testing.assert_close(
                    values.whole(name, kind), first.whole(name, kind), rtol=1e-2 if precision == "bf16" else 1e-5,
                    atol=tolerance,
                )  # fmt: skip


@pytest.mark.parametrize(("way", "other"), PAIRS, ids=name_of)
def test_another_stage_and_number_of_ranks_hold_the_same_to_the_last_bit(held: Path, way: Way, other: Way) -> None:
    before, after = held / name_of(way) / "saved", held / name_of(way) / name_of(other)
    assert len(files_of(after)) == other[0]
    saved, loaded = CheckpointValues(before), CheckpointValues(after)
    assert loaded.optimizer_steps == saved.optimizer_steps == STEPS
    assert loaded.names() == saved.names()
    for name in TRAINED:
        for kind in KINDS:
            assert torch.equal(loaded.whole(name, kind), saved.whole(name, kind)), f"{kind} of {name}"
    full, other_full = (load_file(folder / "whole/full.safetensors") for folder in (before, after))
    assert all(torch.equal(other_full[name], full[name]) for name in TRAINED)


def test_an_engine_that_has_taken_no_step_counts_none_and_holds_moments_of_zero() -> None:
    engine = TorchEngine(network(), TrainingSettings(engine="torch"), torch.device("cpu"))
    assert engine.optimizer_steps == 0
    held = engine.snapshot(lambda _: True).tensors
    assert held.keys() == {f"{kind}/{name}" for kind in KINDS for name in TRAINED}
    assert not any(value.any() for name, value in held.items() if name.partition("/")[0] in MOMENTS)
    assert engine.optimizer_steps == 0
