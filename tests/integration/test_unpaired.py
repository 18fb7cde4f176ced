"""Unpaired data cannot hang: real Ray workers and DeepSpeed, ranks that lack a modality, all objectives on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from tiny_plans import tiny_plan

from vavl.data.sampler import FILLER, Sampler
from vavl.ray_session import join_ray
from vavl.training.launch import launch_training
from vavl.training.records import Report
from vavl.training.run_data import open_run_data
from vavl.training.run_directory import claim_run_directory
from vavl.training.settings import TrainingPlan
from vavl.training.worker import read_outcome, train_on_worker

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS = 8
STAGES = (0, 1, 2, 3)
TIME_LIMIT_S = 600
# Dealt in turn to two ranks, the last row and with it every video-only clip goes to the first one.
TWO_RANKS = {"paired_labelled": 3, "audio_only_labelled": 1, "paired_unlabelled": 1,
             "audio_only_unlabelled": 1, "video_only_unlabelled": 1}  # fmt: skip
# Of three ranks one gets both pairs and two get no video in any step; 7 rows do not divide by 3.
THREE_RANKS = {"video_only_labelled": 1, "audio_only_labelled": 2, "paired_labelled": 1, "audio_only_unlabelled": 2,
               "paired_unlabelled": 1}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    join_ray(threads=1)  # in the main thread, where Ray may set its signal handlers
    yield
    ray.shutdown()


def launch_within(seconds: int, plan: TrainingPlan, sink: Report) -> None:
    """Train, or raise when the time is over: a collective that waits for ever must fail the test.

    Ray waits in native code, where no signal reaches it: hence a thread, which ``ray.shutdown`` ends.
    """
    done: Future[None] = Future()

    def launch() -> None:
        try:
            done.set_result(launch_training(plan, claim_run_directory(plan), sink))
        except BaseException as error:  # noqa: BLE001  raised again in the test's thread
            done.set_exception(error)

    threading.Thread(target=launch, daemon=True).start()
    try:
        done.result(timeout=seconds)
    except BaseException:
        ray.shutdown()  # also frees what a failed training still holds
        raise


Curves = dict[str, np.ndarray]
Train = Callable[[TrainingPlan], dict[int, Curves]]


@pytest.fixture
def curves(file_sink: type[Any]) -> Train:
    """Return a function that trains and gives the losses of every step by ZeRO stage and name."""

    def train(plan: TrainingPlan) -> dict[int, Curves]:
        sink = file_sink(plan.output_dir.with_suffix(".jsonl"))
        launch_within(TIME_LIMIT_S, plan, sink)
        found: dict[int, dict[int, dict[str, float]]] = {}
        for record in sink.records():
            if record["kind"] == "step":
                stage = record.get("stage", plan.training.zero_stage)
                found.setdefault(stage, {})[record["step"]] = record["metrics"]
        return {stage: _curves_of(steps) for stage, steps in found.items()}

    return train


def _curves_of(steps: dict[int, dict[str, float]]) -> Curves:
    assert sorted(steps) == list(range(STEPS))
    names = [name for name in steps[0] if name.startswith(("train/loss/", "train/pseudo_label/"))]
    return {name: np.array([steps[step][name] for step in range(STEPS)]) for name in names}


def train_at_every_stage(plan: TrainingPlan, run_id: str) -> dict[str, Any]:
    """Train one run after the other in the same workers: their start costs more than all runs."""
    from vavl.training.ray_worker import RayContext

    context = RayContext(plan)
    for stage in STAGES:

        def report_stage(records: Sequence[dict[str, Any]], stage: int = stage) -> None:
            context.report([{**record, "stage": stage} for record in records])

        training = plan.training.model_copy(update={"zero_stage": stage})
        folder = plan.output_dir / f"stage{stage}"
        end = train_on_worker(plan.model_copy(update={"training": training, "output_dir": folder}), report_stage)
    return end


def has_by_rank(plan: TrainingPlan) -> np.ndarray:
    """Return (steps, ranks, audio only | video only | video at all): clips that each rank gets."""
    data, ranks = open_run_data(plan), plan.training.workers
    sampler = Sampler(data.partitioned.clips, dict(data.composition), data.collection.lengths, plan.training.seed)
    has_audio, has_video = (data.collection.has(modality) for modality in ("audio", "video"))
    dealt = [[rows[rows != FILLER] for rows in sampler.slots(step, ranks)] for step in range(STEPS)]
    kinds = (has_audio & ~has_video, has_video & ~has_audio, has_video)
    return np.array([[[kind[rows].sum() for kind in kinds] for rows in step] for step in dealt])


Make = Callable[..., TrainingPlan]


@pytest.fixture
def plan(small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path: Path) -> Make:
    """Return a function that makes a short run with all objectives."""

    def make(name: str, rows: dict[str, int], corpus: dict[str, Any] | None = None, **training: Any) -> TrainingPlan:
        mixed = {"without_audio": (0, 5), "without_video": (1, 6), "without_label": (1, 2, 5)}
        pairs = {} if corpus is None else {"audio_video": 0, "video_label": 0}
        usual = {
            "launcher": "ray", "engine": "deepspeed", "max_epochs": 99, "max_steps": STEPS, "average_decay": 0.8,
            "cpus_per_worker": 0.5,
        }  # fmt: skip
        return tiny_plan(
            tmp_path / name,
            small_store(small_corpus(clips_per_speaker=20, **(mixed if corpus is None else corpus))),
            data={
                "composition": {"rows_per_step": rows},
                "augmentation": {"audio": {"noise": 0.3}, "modality_dropout": 0.2},
            },
            model={"preset": "small", "width": 16, "head_widths": (16, 12), "correlation_size": 2},
            objectives={
                "hgr": {"weight": 0.5, **pairs},
                "ladder": {"weight": 0.3, "lateral": "both", "detach_target": False},
                "pseudo_label": {"weight": 0.5},
            },
            training=usual | training,
            evaluation={"select_by": ["validation/audio/uar"]},
        )

    return make


ALONE = {"launcher": "in_process", "engine": "torch"}


def assert_same_curves(found: Curves, expected: Curves) -> None:
    assert found.keys() == expected.keys()
    assert np.ptp(expected["train/loss/total"]) > 0.1
    assert expected["train/pseudo_label/sure"].sum() > 0
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_every_stage_trains_where_one_rank_never_gets_a_video_only_clip(
    plan: Make, curves: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = curves(plan("alone", TWO_RANKS, **ALONE))[0]
    chosen = plan("stages", TWO_RANKS, workers=2)
    has = has_by_rank(chosen)
    assert (has[:, 0, 1] == 1).all()
    assert not has[:, 1, 1].any()
    monkeypatch.setattr("vavl.training.launch.train_on_ray_worker", train_at_every_stage)
    found = curves(chosen)
    assert sorted(found) == list(STAGES)
    for stage in STAGES:
        assert_same_curves(found[stage], expected)
        assert read_outcome(chosen.output_dir / f"stage{stage}")["zero_stage"] == stage


def test_three_workers_train_on_a_batch_that_does_not_divide_and_two_of_them_without_video(
    plan: Make, curves: Train
) -> None:
    chosen = plan("three", THREE_RANKS, workers=3, zero_stage=3)
    has = has_by_rank(chosen)
    assert (has[:, :, 2] == [3, 0, 0]).all()
    assert_same_curves(curves(chosen)[3], curves(plan("alone", THREE_RANKS, **ALONE))[0])


def test_a_modality_that_no_clip_has_trains_where_weights_are_sharded(plan: Make, curves: Train) -> None:
    """Every partition with video is empty; the parts that only it feeds stay frozen."""
    only_audio = {"without_video": range(10), "without_label": (1, 2, 5)}
    rows = {"audio_only_labelled": 4, "audio_only_unlabelled": 3}
    chosen = plan("no_video", rows, only_audio, workers=2, zero_stage=3)
    assert not has_by_rank(chosen)[..., 2].any()
    assert_same_curves(curves(chosen)[3], curves(plan("alone", rows, only_audio, **ALONE))[0])
    assert set(read_outcome(chosen.output_dir)["frozen_parts"]) >= {"video_path", "fusion_head", "ladder.video"}
