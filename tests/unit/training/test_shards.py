"""What the ranks hold: every trained parameter once, and the same in whatever way it is read again."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import shard_ranks
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from shard_ranks import FROZEN, STEPS, Way, name_of, network, others, ways
from vavl.training.shards import KINDS, MOMENTS, WEIGHT, load_pieces, pieces_of

from vavl.training.checkpoint_files import CheckpointValues
from vavl.training.engine import TorchEngine
from vavl.training.settings import TrainingSettings

TIME_LIMIT_S = 600
WAYS = list(ways())
PAIRS = [(way, other) for way in WAYS for other in others(way)]


def size_of(name: str) -> int:
    return network().get_parameter(name).numel()


TRAINED = [name for name, _ in network().named_parameters() if name != FROZEN]


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with what real ranks held."""
    folder = tmp_path_factory.mktemp("shards")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", shard_ranks.__file__, str(folder)],
        capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("rank-*.safetensors"))


def runs_of(folder: Path, name: str, kind: str) -> list[tuple[int, int]]:
    """Return first and last element of every piece of a parameter that is not empty."""
    found = []
    for path in files_of(folder):
        with safe_open(path, "pt") as file:
            starts = json.loads(file.metadata()["starts"])
            if name in starts:
                found.append((starts[name], starts[name] + file.get_tensor(f"{kind}/{name}").numel()))
    return sorted(run for run in found if run[1] > run[0])


@pytest.mark.parametrize("way", WAYS, ids=name_of)
def test_the_ranks_hold_every_trained_element_exactly_once(held: Path, way: Way) -> None:
    folder = held / name_of(way) / "saved"
    assert len(files_of(folder)) == way[0]
    assert CheckpointValues(folder).names() == sorted(TRAINED)
    for name in TRAINED:
        for kind in KINDS:
            runs = runs_of(folder, name, kind)
            assert runs[0][0] == 0
            assert runs[-1][1] == size_of(name)
            for (_, end), (start, _) in itertools.pairwise(runs):
                assert start == end, f"{kind} of {name}"


@pytest.mark.parametrize("way", [way for way in WAYS if way[0] > 1], ids=name_of)
def test_a_sharded_state_lies_on_both_ranks_and_an_unsharded_one_on_the_first(held: Path, way: Way) -> None:
    folder = held / name_of(way) / "saved"
    elements = [sum(value.numel() for value in load_file(path).values()) for path in files_of(folder)]
    assert (min(elements) > 0) == (way[1] > 0)
    assert sum(elements) == len(KINDS) * sum(map(size_of, TRAINED))


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
    """Also torch alone in fp32; in bf16 it keeps another network and is left out."""
    tolerance = 1e-6 if precision == "fp32" else 1e-4
    same = [way for way in WAYS if way[2] == precision and (way[1] >= 0 or precision == "fp32")]
    first, *rest = (CheckpointValues(held / name_of(way) / "saved") for way in same)
    for values in rest:
        for name in TRAINED:
            for kind in KINDS:
                torch.testing.assert_close(
                    values.whole(name, kind), first.whole(name, kind), rtol=1e-2 if precision == "bf16" else 1e-5,
                    atol=tolerance,
                )  # fmt: skip


@pytest.mark.parametrize(("way", "other"), PAIRS, ids=name_of)
def test_another_stage_and_number_of_ranks_hold_the_same_to_the_last_bit(
    held: Path, way: Way, other: Way
) -> None:
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


class Ones:
    """Whole values that are all one."""

    optimizer_steps = 5

    def whole(self, name: str, kind: str) -> torch.Tensor:
        return torch.ones(size_of(name))


def test_pieces_are_views_and_a_loaded_count_of_steps_decides_the_next_one() -> None:
    made = network()
    optimizer = torch.optim.AdamW([one for one in made.parameters() if one.requires_grad], lr=0.1)
    load_pieces(made, optimizer, 0, Ones())
    pieces = {piece.name: piece for piece in pieces_of(made, optimizer, 0)}
    assert sorted(pieces) == sorted(TRAINED)
    assert all((values == 1).all() for piece in pieces.values() for values in piece.values.values())
    assert {float(state["step"]) for state in optimizer.state.values()} == {5.0}
    pieces["2.bias"].values[WEIGHT].fill_(7)
    assert made.get_parameter("2.bias").tolist() == [7, 7, 7]
    assert pieces_of(made, optimizer, rank=1) == []


def test_an_engine_that_has_taken_no_step_counts_none_and_holds_moments_of_zero() -> None:
    engine = TorchEngine(network(), TrainingSettings(engine="torch"))
    assert engine.optimizer_steps == 0
    for piece in engine.pieces():
        assert all((piece.values[kind] == 0).all() for kind in MOMENTS)
    assert engine.optimizer_steps == 0
