"""The loop in one process with the plain engine: budget, best epoch, early stopping, reports, faults."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from vavl.data.loader import StepLoader
from vavl.errors import TrainingError
from vavl.models.saved_model import load_model
from vavl.training import loop
from vavl.training.loop import BEST_DIRECTORY, train, train_step
from vavl.training.run import prepare_run
from vavl.training.step import StepResult


@pytest.fixture
def start(records):
    """Return a function that trains a plan from its first step; gives run, final state and records."""

    def run_it(plan, change=lambda run: run):
        run, seen = change(prepare_run(plan)), records()
        return run, train(run, run.start, seen).state, seen

    return run_it


def test_the_loss_falls_and_every_step_and_epoch_is_reported_once(plan, start):
    run, state, seen = start(plan(training={"max_epochs": 12, "optimizer": {"learning_rate": 1e-2}}))
    assert (run.steps_per_epoch, run.total_steps) == (4, 48)
    assert [record["step"] for record in seen.of("step")] == list(range(48))
    assert [(record["epoch"], record["step"]) for record in seen.of("epoch")] == [(n, 4 * n) for n in range(1, 13)]
    assert (state.step, state.epoch, state.trained_clips) == (48, 12, 480)
    losses = seen.losses()
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    assert seen.of("epoch")[-1]["metrics"]["validation/audio_video/accuracy"] > 0.6


def test_records_hold_what_a_page_needs_and_are_json(plan, start):
    _, _, seen = start(plan(training={"max_epochs": 1, "gradient_norms_every_steps": 200}))
    step, epoch = seen.of("step")[0], seen.of("epoch")[0]
    parts = {
        f"train/loss/{name}"
        for name in (
            "total", "supervised/audio_video", "supervised/audio", "supervised/video", "reconstruction/audio",
            "reconstruction/video",
        )
    }  # fmt: skip
    norms = {name.replace("/loss/", "/gradient_norm/") for name in parts} - {"train/gradient_norm/total"}
    weights = {"train/weight/supervised", "train/weight/reconstruction"}
    assert parts | norms | weights | {"train/learning_rate", "train/gradient_norm"} == step["metrics"].keys()
    assert step["metrics"]["train/gradient_norm"] < sum(step["metrics"][name] for name in norms)
    # Measured now and then only: each costs a backward.
    assert not norms & seen.of("step")[1]["metrics"].keys()
    for condition in ("audio_video", "audio", "video"):
        for metric in ("accuracy", "f1_macro", "f1_micro", "uar", "loss", "clips"):
            assert f"validation/{condition}/{metric}" in epoch["metrics"]
    assert epoch["metrics"]["train/clips_per_second"] > 0
    assert json.loads(json.dumps(seen.all, allow_nan=False)) == seen.all


def test_the_total_is_the_weighted_sum_of_its_parts(plan, start):
    _, _, seen = start(plan(training={"max_epochs": 1}, objectives={"reconstruction": {"weight": 3}}))
    for record in seen.of("step"):
        losses = {name.split("/", 2)[2]: value for name, value in record["metrics"].items() if "/loss/" in name}
        parts = sum(value * (3 if name.startswith("rec") else 1) for name, value in losses.items() if "/" in name)
        assert losses["total"] == pytest.approx(parts)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(plan, start):
    dropped = {"dropout": 0.2, "head_dropout": 0.2}
    first, second, other = (
        start(plan(name, model={**plan().model.model_dump(), **dropped}, training={"max_epochs": 2, "seed": seed}))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first[2].losses() == second[2].losses()
    assert first[2].losses() != other[2].losses()
    for name, value in first[0].engine.full_weights().items():
        assert torch.equal(value, second[0].engine.full_weights()[name]), name


@pytest.mark.parametrize("target", ["label", "soft_label", "attributes"])
def test_micro_batches_do_not_change_the_curve(plan, start, target):
    """Gradient accumulation is exact, for CCC too; 10 rows do not divide by 3."""
    chosen = {"store": plan().data.store, "target": target, "composition": {"batch_size": 10}}
    select = {"select_by": ["validation/audio/ccc_mean" if target == "attributes" else "validation/audio/uar"]}
    curves = [
        start(
            plan(
                f"{count}",
                data=chosen,
                evaluation=select,
                training={"max_epochs": 2, "clips_per_forward": -(-10 // count)},
            )
        )[2]
        for count in (1, 2, 3)
    ]
    assert np.ptp(curves[0].losses()) > 0.1
    for other in curves[1:]:
        np.testing.assert_allclose(other.losses(), curves[0].losses(), rtol=1e-5)
        norms = [[record["metrics"]["train/gradient_norm"] for record in one.of("step")] for one in (other, curves[0])]
        np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4)


@pytest.mark.parametrize(("max_steps", "epochs"), [(1, 1), (4, 1), (6, 2), (100, 3)])
def test_the_budget_is_counted_in_steps(plan, start, max_steps, epochs):
    _, state, seen = start(plan(training={"max_epochs": 3, "max_steps": max_steps}))
    assert state.step == len(seen.losses()) == min(max_steps, 12)
    assert state.epoch == len(seen.of("epoch")) == epochs


def test_the_best_epoch_is_kept_with_the_weights_that_it_had(plan, start):
    """A rate far too high spoils what the first epochs learn: the kept model is not the last."""
    chosen = plan(training={"max_epochs": 8, "optimizer": {"learning_rate": 0.05}})
    run, state, seen = start(chosen)
    scores = [record["metrics"]["validation/audio_video/accuracy"] for record in seen.of("epoch")]
    assert state.best_score == max(scores)
    assert state.best_epoch == 1 + scores.index(max(scores))
    assert [record["best_epoch"] for record in seen.of("epoch")][-1] == state.best_epoch
    kept = load_model(chosen.output_dir / BEST_DIRECTORY)
    until_best = chosen.model_copy(
        update={
            "output_dir": chosen.output_dir.with_name("again"),
            "training": chosen.training.model_copy(update={"max_steps": state.best_epoch * run.steps_per_epoch}),
        }
    )
    again, _, _ = start(until_best)
    for name, value in kept.network.state_dict().items():
        assert torch.equal(value, again.weights()[name]), name


def test_the_mean_of_several_metrics_chooses(plan, start):
    names = ["validation/audio/accuracy", "validation/video/uar"]
    _, state, seen = start(plan(evaluation={"select_by": names}, training={"max_epochs": 5}))
    means = [np.mean([record["metrics"][name] for name in names]) for record in seen.of("epoch")]
    assert state.best_score == pytest.approx(max(means))
    assert state.best_epoch == 1 + int(np.argmax(means))


def test_early_stopping_ends_the_run_and_a_resumed_run_stays_ended(plan, start, records):
    chosen = plan(training={"max_epochs": 50, "early_stopping_epochs": 2, "optimizer": {"learning_rate": 1e-9}})
    run, state, seen = start(chosen)
    assert state.best_epoch == 1
    assert state.epoch == 3
    assert len(seen.losses()) == 12
    more = records()
    assert train(run, state, more).state == state
    assert not more.all


def test_a_metric_that_is_not_measured_is_a_fault_that_names_those_that_are(plan, start):
    with pytest.raises(TrainingError, match=r"validation/audio/ccc_mean is not measured\n.*validation/audio/uar"):
        start(plan(evaluation={"select_by": ["validation/audio/ccc_mean"]}, training={"max_epochs": 1}))


NO_SKIPS = {"faults": {"skipped_steps": 0}}


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_part_and_the_clips(plan, start):
    def spoil(run):
        with torch.no_grad():
            run.engine.network.video_path.head[-1].bias[0] = float("nan")
        return run

    with pytest.raises(
        TrainingError,
        match=r"step 0: loss: loss is not finite: .*'supervised/video': 'nan'.*1 steps were skipped, 0 are allowed: "
        r"\[0\]; clips of this batch: \w+.*\n.*skipped_steps",
    ):
        start(plan(training=NO_SKIPS), spoil)
    assert not list((plan().output_dir / "checkpoints").glob("*"))


def spoilt_features(at):
    """Return a change of a run that puts an infinite feature into some of its steps."""

    def spoil(run):
        class Spoilt(StepLoader):
            def load(self, step):
                batches = super().load(step)
                if step in at:
                    batches[0].audio.values[0, 0, 0] = float("inf")
                return batches

        return replace(
            run, loader=Spoilt(**{field.name: getattr(run.loader, field.name) for field in fields(run.loader)})
        )

    return spoil


def leaving_out(steps):
    """Return a training step that does nothing at some steps but to say that they were skipped."""
    requests = dict.fromkeys(("stop", "report", "unsaved"), False)
    nothing = StepResult({}, 0, (), 0.0, math.nan, {}, None, 0.0, 0.0, is_skipped=True, requests=requests)

    def step_or_nothing(run, step, *arguments):
        return nothing if step in steps else train_step(run, step, *arguments)

    return step_or_nothing


@pytest.mark.parametrize(
    ("engine", "micro_batches"),
    [
        ({"engine": "torch"}, 1),
        ({"engine": "torch"}, 2),
        ({"engine": "deepspeed", "zero_stage": 0}, 2),
        ({"engine": "deepspeed", "zero_stage": 1}, 1),
        ({"engine": "deepspeed", "zero_stage": 2, "precision": "bf16"}, 2),
        ({"engine": "deepspeed", "zero_stage": 3}, 1),
        pytest.param({"engine": "deepspeed", "zero_stage": 2}, 1, marks=pytest.mark.slow),
        pytest.param({"engine": "deepspeed", "zero_stage": 3}, 2, marks=pytest.mark.slow),
        pytest.param({"engine": "deepspeed", "precision": "bf16"}, 1, marks=pytest.mark.slow),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(plan, start, engine, micro_batches, monkeypatch):
    """The steps around it are those of a run in which the step is left out altogether."""
    settings = {**engine, "clips_per_forward": -(-10 // micro_batches), "max_epochs": 2, "average_decay": 0.9}
    objectives = {"pseudo_label": {"teacher": "average"}}
    model = {**plan().model.model_dump(), "dropout": 0.2}
    sections = {"model": model, "training": settings, "objectives": objectives}
    run, state, seen = start(plan("bad", **sections), spoilt_features({1, 5}))
    assert state.skipped == (1, 5)
    events = seen.of("event")
    assert [(one["what"], one["step"]) for one in events] == [("skipped_step", 1), ("skipped_step", 5)]
    assert len(events[0]["clips"]) == 10
    assert [record["step"] for record in seen.of("step")] == [0, 2, 3, 4, 6, 7]
    assert np.isfinite(seen.losses()).all()
    monkeypatch.setattr(loop, "train_step", leaving_out({1, 5}))
    run_without = start(plan("without", **sections))
    assert run_without[2].losses() == seen.losses()
    for name, value in run.engine.full_weights().items():
        assert torch.equal(value, run_without[0].engine.full_weights()[name]), name
    for name, value in run.average.weights().items():
        assert torch.equal(value, run_without[0].average.weights()[name]), name
    assert state.teacher_mean == run_without[1].teacher_mean
    assert state.teacher_mean != run.start.teacher_mean


def test_more_steps_that_are_not_finite_than_allowed_stop_the_run(plan, start):
    with pytest.raises(TrainingError, match=r"step 7: loss: .*3 steps were skipped, 2 are allowed: \[1, 5, 7\]"):
        start(plan(training={"faults": {"skipped_steps": 2}}), spoilt_features({1, 5, 7}))


def test_what_the_clips_cannot_feed_stays_as_it_was(plan, start):
    """Weight decay alone would move an audio-only run's video path."""
    chosen = plan(corpus={"without_video": range(10)}, evaluation={"select_by": ["validation/audio/accuracy"]},
                  training={"optimizer": {"learning_rate": 1e-2, "weight_decay": 0.5}})  # fmt: skip
    before = {}

    def remember(run):
        before.update(run.engine.full_weights())
        return run

    run, _, seen = start(chosen, remember)
    assert set(run.frozen) == {"video_path", "fusion_head"}
    for name, value in run.engine.full_weights().items():
        assert torch.equal(value, before[name]) == (name.startswith(run.frozen) or "correlate" in name), name
    assert "validation/video/accuracy" not in seen.of("epoch")[-1]["metrics"]


def test_bf16_trains_to_nearly_the_same_losses(plan, start):
    exact, rough = (
        start(plan(kind, training={"max_epochs": 2, "precision": kind}))[2].losses() for kind in ("fp32", "bf16")
    )
    np.testing.assert_allclose(rough, exact, rtol=0.05)
    assert rough != exact


def test_a_batch_of_one_class_is_named_once_and_makes_no_nan(plan, start, caplog):
    """Two labeled rows a step: some batches hold one class only."""
    composition = {"rows_per_step": {"paired_labelled": 2, "paired_unlabelled": 4}}
    corpus = {"without_label": (1, 2)}
    chosen = plan(corpus=corpus, objectives={"hgr": {"weight": 1}, "ladder": {}}, training={"max_steps": 30})
    data = {"store": chosen.data.store, "composition": composition}
    with caplog.at_level("WARNING"):
        _, _, seen = start(chosen.model_validate({**chosen.model_dump(), "data": data}))
    assert caplog.text.count("HGR's label terms teach nothing") == 1
    assert np.isfinite(seen.losses()).all()


def test_weights_that_grew_out_of_bounds_end_the_run_at_validation(plan, start):
    """Every later step is skipped; without validation nobody would notice for ten steps."""
    with pytest.raises(
        TrainingError, match=r"validation: audio_video: the prediction of \d+ of \d+ clips is not finite"
    ):
        start(plan(training={"max_epochs": 1, "optimizer": {"learning_rate": 1e30, "gradient_clipping": 0}}))
