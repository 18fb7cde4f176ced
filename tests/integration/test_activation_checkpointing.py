"""Two real ranks: activation checkpointing changes no number, whatever DeepSpeed shards."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from checkpointed_ranks import CASES, RANKS, run_cases
from forked_ranks import run_ranks_of_test
from safetensors.torch import load_file
from torch import Tensor

from vavl.objectives.moments import moments_under


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Return what the ranks trained."""
    folder = tmp_path_factory.mktemp("checkpointed")
    run_ranks_of_test(RANKS, partial(run_cases, folder))
    return load_file(folder / "found.safetensors")


@pytest.mark.parametrize(("precision", "stage"), CASES)
def test_training_is_the_same_to_the_last_bit(found: dict[str, Tensor], precision: str, stage: int) -> None:
    """Losses, gradient norms and weights; while every block that has a gradient runs twice."""
    plain, checkpointed = (moments_under(f"{precision}/{stage}/{way}", found) for way in ("plain", "checkpointed"))
    assert checkpointed["runs"] == 2 * plain["runs"] > 0
    assert plain["losses"].std() > 0.01
    assert plain["norms"].min() > 0.01
    names = plain.keys() - {"runs"}
    assert any(name.startswith("weights/shared") for name in names)
    assert checkpointed.keys() - {"runs"} == names
    for name in names:
        assert torch.equal(checkpointed[name], plain[name]), name
