"""Training with all objectives: engines, stages and micro-batches agree, and a resumed run repeats itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_fixtures import MIXED

from vavl.models.draws import DrawKey
from vavl.objectives.total import Objective
from vavl.training.loop import train_step
from vavl.training.run import prepare_run

LAYERED = {**MIXED, "layers": 3}
STEPS = 6
SHARDED = {"label": [{"zero_stage": 1}, {"zero_stage": 3, "clips_per_forward": 5}], "attributes": [{"zero_stage": 3}]}
HGR = {"weight": 0.5, "audio_video": 0.3, "start_step": 1, "ramp_steps": 2}
LADDER = {"weight": 0.3, "lateral": "both", "detach_target": False, "start_step": 2, "ramp_steps": 2}
PSEUDO_LABEL = {"weight": 0.5, "teacher": "average", "ramp_steps": 3}
CONTRASTIVE = {"weight": 0.3, "size": 6, "start_step": 1}
EVERY_OBJECTIVE = {"hgr": HGR, "contrastive": CONTRASTIVE, "ladder": LADDER, "pseudo_label": PSEUDO_LABEL}
VIEWS = {"audio": {"noise": 0.3}, "video": {"noise": 0.3}, "modality_dropout": 0.3}
BOTH_ENGINES = [("torch", 0), pytest.param("deepspeed", 2, marks=pytest.mark.slow)]
CONDITIONS = ("audio_video", "audio", "video")
PARTS = {
    *(f"{part}/{condition}" for part in ("supervised", "pseudo_label") for condition in CONDITIONS),
    *(f"{part}/{modality}" for part in ("reconstruction", "ladder") for modality in ("audio", "video")),
    "contrastive",
    *(f"hgr/{pair}" for pair in ("audio_video", "audio_label", "video_label")),
}


@pytest.fixture
def full_plan(plan):
    """Return a function that makes a plan with all objectives, weighted layers and an average of the weights."""

    def make(name, target="label", **training):
        metric = "uar" if target == "label" else "ccc_mean"
        return plan(
            name,
            data={**plan(corpus=LAYERED).data.model_dump(), "target": target, "augmentation": VIEWS},
            model={**plan().model.model_dump(), "correlation_size": 3, "layer_weights": True},
            objectives=EVERY_OBJECTIVE,
            training={
                "max_steps": STEPS, "average_decay": 0.8,
                "optimizer": {"learning_rate": 3e-3, "warmup_steps": 3}, **training,
            },
            evaluation={"select_by": [f"validation/audio/{metric}"]},
        )  # fmt: skip

    return make


@pytest.fixture
def go(train_from):
    """Return a function that trains a plan and gives run, last state and records."""

    def train_it(plan):
        run, _, state, seen = train_from(plan)
        return run, state, seen

    return train_it


def curves(seen) -> dict[str, np.ndarray]:
    """Return every number of every step by name; NaN where a step did not measure it."""
    steps = [record["metrics"] for record in seen.of("step")]
    names = sorted({name for step in steps for name in step if name != "train/gradient_norm"})
    return {name: np.array([step.get(name, np.nan) for step in steps]) for name in names}


def assert_same_training(found, expected, name):
    """Hold curves, weights and their average to those of another run, within float32."""
    (run, state, seen), (other_run, other_state, other_seen) = found, expected
    mine, theirs = curves(seen), curves(other_seen)
    assert mine.keys() == theirs.keys()
    for key, values in theirs.items():
        np.testing.assert_allclose(mine[key], values, rtol=1e-5, atol=1e-6, err_msg=f"{name}: {key}")
    for one, other in ((run.engine.full_weights(), other_run.engine.full_weights()),
                       (run.average.weights(), other_run.average.weights())):  # fmt: skip
        assert one.keys() == other.keys()
        for key, value in other.items():
            torch.testing.assert_close(one[key], value, rtol=1e-3, atol=2e-5, msg=f"{name}: {key}")
    assert state.best_score == pytest.approx(other_state.best_score)


@pytest.mark.parametrize("target", ["label", "attributes"])
def test_stages_and_micro_batches_give_the_same_curves(full_plan, go, target):
    expected = go(full_plan("torch", target))
    curve = curves(expected[2])
    assert np.ptp(curve["train/loss/total"]) > 0.1  # it moves: equality of constants would show nothing
    if target == "label":
        assert {name.removeprefix("train/loss/") for name in curve if "/loss/" in name} == PARTS | {"total"}
        assert (curve["train/pseudo_label/sure"] == curve["train/pseudo_label/unlabelled"]).all()
    else:  # clips count the less, the more their conditions differ
        assert 0 < curve["train/pseudo_label/sure"].sum() < curve["train/pseudo_label/unlabelled"].sum()
    for part in PARTS & {name.removeprefix("train/loss/") for name in curve}:
        assert np.abs(curve[f"train/loss/{part}"]).max() > 0, part
    for changes in ({"clips_per_forward": 4}, *({"engine": "deepspeed", **one} for one in SHARDED[target])):
        assert_same_training(go(full_plan(str(changes), target, **changes)), expected, str(changes))


def test_the_students_own_labels_are_the_same_where_weights_are_sharded(full_plan, go):
    """Its weak pass runs through the engine, without the ladder's decoders."""

    def own(name, **training):
        plan = full_plan(name, **training)
        pseudo = plan.objectives.pseudo_label.model_copy(update={"teacher": "self"})
        return plan.model_copy(update={"objectives": plan.objectives.model_copy(update={"pseudo_label": pseudo})})

    expected = go(own("torch"))
    found = go(own("sharded", engine="deepspeed", zero_stage=3, clips_per_forward=5))
    assert_same_training(found, expected, "stage 3")


def test_every_trainable_tensor_moves(full_plan, go):
    """Within three steps: a decoder starts as the identity of its lateral input, where some gradients are 0."""
    plan = full_plan("three", max_steps=3, optimizer={"learning_rate": 1e-3, "weight_decay": 0})
    no_ramp = {
        name: getattr(plan.objectives, name).model_copy(update={"start_step": 0, "ramp_steps": 0})
        for name in EVERY_OBJECTIVE
    }
    plan = plan.model_copy(update={"objectives": plan.objectives.model_copy(update=no_ramp)})
    before = prepare_run(plan).engine.full_weights()
    run, _, _ = go(plan)
    assert not run.frozen
    assert all(parameter.requires_grad for parameter in run.engine.network.parameters())
    still = [name for name, value in run.engine.full_weights().items() if torch.equal(value, before[name])]
    assert not still


@pytest.mark.parametrize(("engine", "stage"), BOTH_ENGINES)
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_last_bit(full_plan, train_from, engine, stage):
    """With dropout, views, noise, aligned soft labels and averaged weights; killed within the second epoch."""

    def dropped(name):
        plan = full_plan(name, engine=engine, zero_stage=stage, clips_per_forward=5, max_steps=6)
        model = plan.model.model_copy(update={"dropout": 0.2, "head_dropout": 0.2})
        return plan.model_copy(update={"model": model})

    whole, _, whole_state, whole_seen = train_from(dropped("whole"))
    broken = dropped("broken")
    _, _, died, first = train_from(broken, die_at=6)
    assert died is None
    run, _, state, second = train_from(broken)
    assert not first.all
    assert len(second.losses()) == 6 - 4
    timeless = {"trained_seconds": 0.0}
    assert state.teacher_mean != run.start.teacher_mean
    restored = [record for record in run.restored.records if record["kind"] == "step"]
    assert state.model_copy(update=timeless) == whole_state.model_copy(update=timeless)
    together = replace_times(restored + second.of("step"))
    assert together == replace_times(whole_seen.of("step"))
    for kind in (lambda run: run.engine.full_weights(), lambda run: run.average.weights()):
        weights = kind(run)
        assert all(torch.equal(weights[name], value) for name, value in kind(whole).items())
    best = [(one.plan.output_dir / "best/model.safetensors").read_bytes() for one in (whole, run)]
    assert best[0] == best[1]


def replace_times(steps):
    """Leave out when a step was done, and the words that the first one of an attempt brings for the log."""
    return [{name: value for name, value in record.items() if name != "setup"} | {"time": 0} for record in steps]


@pytest.mark.parametrize(("engine", "stage"), BOTH_ENGINES)
def test_bf16_leaves_soft_hgr_in_float32_and_stays_near(full_plan, go, engine, stage):
    exact = go(full_plan("exact", max_steps=5))[2].losses()
    run, _, seen = go(full_plan("rough", precision="bf16", engine=engine, zero_stage=stage, max_steps=5))
    np.testing.assert_allclose(seen.losses(), exact, rtol=0.05)
    assert seen.losses() != exact
    (batch,) = run.loader.load(0)
    output = run.engine.forward(batch, DrawKey(0, 0))
    assert output.audio.logits.dtype == torch.bfloat16
    assert output.label_correlation.dtype == torch.float32
    for values in (output.audio.correlation, output.video.correlation):
        assert values.dtype == torch.float32
        assert not torch.equal(values, values.bfloat16().float())


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_the_second_pass_has_the_random_draws_of_the_first(full_plan, monkeypatch, engine):
    """Dropout, noise and views: else the gradient would be that of moments that nobody computed."""
    plan = full_plan("draws", engine=engine, clips_per_forward=5)
    model = plan.model.model_copy(update={"dropout": 0.3, "head_dropout": 0.3})
    run = prepare_run(plan.model_copy(update={"model": model}))
    seen, real = [], Objective.moments

    def moments(*arguments):
        seen.append(real(*arguments))
        return seen[-1]

    monkeypatch.setattr(Objective, "moments", moments)
    for step in range(2):
        seen.clear()
        train_step(run, step, run.loader.load(step), run.start.teacher_mean)
        assert len(seen) == 4
        for first, second in zip(seen[:2], seen[2:], strict=True):
            assert not any(value.requires_grad for value in first.values())
            assert second["hgr/squares"].requires_grad
            assert all(torch.equal(value, second[name]) for name, value in first.items())
        assert not torch.equal(seen[0]["hgr/squares"], seen[1]["hgr/squares"])
