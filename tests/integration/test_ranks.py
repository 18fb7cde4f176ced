"""Real processes: 1, 2 and 4 ranks, in one micro-batch or three, compute one and the same global batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_ranks import run_ranks_of_test
from real_ranks import run_cases
from safetensors.torch import load_file
from tiny_plans import tiny_plan
from torch import Tensor

from vavl.objectives.moments import moments_under
from vavl.training.settings import TrainingPlan

RANKS = (1, 2, 4)
ALL_OBJECTIVES = {
    "hgr": {"weight": 0.5, "audio_video": 0.5},
    "contrastive": {"weight": 0.5, "size": 6},
    "ladder": {"weight": 0.5, "lateral": "both", "detach_target": False},
    "pseudo_label": {"weight": 0.5, "teacher": "average"},
}

Found = dict[int, dict[str, Tensor]]


@pytest.fixture(scope="module")
def found(
    small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Found:
    """Return what groups of 1, 2 and 4 processes computed."""
    folder = tmp_path_factory.mktemp("ranks")
    corpus = small_corpus(clips_per_speaker=20, without_audio=(0,), without_video=(1, 3), without_label=(1, 2, 4))
    for ranks in RANKS:
        run_ranks_of_test(ranks, partial(run_cases, plan(small_store(corpus), folder), folder))
    return {ranks: load_file(folder / f"{ranks}.safetensors") for ranks in RANKS}


def plan(store: Path, folder: Path) -> TrainingPlan:
    """Return a run with all objectives; 14 rows do not divide by 4, and so few leave ranks without a partition.

    Steps are small: Adam divides by the size of a gradient, also where that is little more than rounding.
    """
    noise = {"noise": 0.3}
    return tiny_plan(
        folder / "run",
        store,
        data={
            "composition": {"batch_size": 14},
            "augmentation": {"audio": noise, "video": noise, "modality_dropout": 0.3},
        },
        model={
            "width": 16, "convolution_kernel": 5, "head_widths": (16, 12), "correlation_size": 4,
            "dropout": 0.2, "head_dropout": 0.2, "input_dropout": 0.2,
        },
        objectives=ALL_OBJECTIVES,
        training={"average_decay": 0.5, "gradient_norms_every_steps": 3, "optimizer": {"learning_rate": 3e-4}},
    )  # fmt: skip


def assert_equal_to_one_rank(found: Found, case: str, way: str, ranks: int, tolerance: float, start: str = "") -> None:
    """Hold a way of computing a case on several ranks to what one rank computes, where names start so."""
    expected, several = (
        {name: value for name, value in moments_under(path, found[group]).items() if name.startswith(start)}
        for path, group in ((f"{case}/together", 1), (f"{case}/{way}", ranks))
    )
    assert several.keys() == expected.keys()
    assert expected
    for name, value in expected.items():
        torch.testing.assert_close(
            several[name], value, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("case", ["in turn", "uneven", "sorted"])
def test_soft_hgr_and_its_gradients_are_those_of_one_rank(found: Found, case: str, ranks: int) -> None:
    """Also where a rank has one clip, none, or no pair at all."""
    assert found[1][f"{case}/together/loss"].abs() > 0.1
    assert found[1][f"{case}/together/label"].abs().max() > 0.01
    assert_equal_to_one_rank(found, case, "together", ranks, 1e-6)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("case", ["in turn", "uneven", "sorted"])
def test_contrast_and_its_gradients_are_those_of_one_rank(found: Found, case: str, ranks: int) -> None:
    """Each clip is compared with those of all ranks, whatever the ranks hold."""
    assert found[1][f"contrast {case}/together/loss"].abs() > 0.1
    assert found[1][f"contrast {case}/together/audio"].abs().max() > 0.01
    assert_equal_to_one_rank(found, f"contrast {case}", "together", ranks, 1e-6)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("case", ["in turn", "uneven", "sorted", "contrast in turn", "contrast uneven"])
def test_the_mean_of_the_ranks_own_losses_fails_the_same_test(found: Found, case: str, ranks: int) -> None:
    with pytest.raises(AssertionError, match="not close"):
        assert_equal_to_one_rank(found, case, "apart", ranks, 1e-2)


@pytest.mark.parametrize("way", ["together", "in pieces"])
@pytest.mark.parametrize("ranks", RANKS)
def test_training_with_all_objectives_is_that_of_one_rank(found: Found, ranks: int, way: str) -> None:
    """Parts, gradient norms and weights over several steps with dropout, in one micro-batch or three per rank."""
    curve = {name: value for name, value in found[1].items() if name.startswith("network/together/curve")}
    for part in ("hgr/audio_label", "contrastive", "ladder/video", "pseudo_label/audio", "sure", "norm"):
        assert curve[f"network/together/curve {part}"].abs().max() > 0, part
    assert_equal_to_one_rank(found, "network", way, ranks, 1e-6, "curve")
    assert_equal_to_one_rank(found, "network", way, ranks, 1e-5, "weights")


@pytest.mark.parametrize("ranks", [2, 4])
def test_training_on_moments_of_the_own_clips_fails_the_same_test(found: Found, ranks: int) -> None:
    with pytest.raises(AssertionError, match="not close"):
        assert_equal_to_one_rank(found, "network", "apart", ranks, 1e-4)
