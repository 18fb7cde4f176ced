"""Engines: one contract, the same steps, whatever the stage and the number of micro-batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vavl.errors import InputError
from vavl.models.conformer import ConformerBlocks, frames_of, number_streams, without_padding
from vavl.models.draws import DrawKey, keys_of_rows
from vavl.training.deepspeed_engine import DeepSpeedEngine
from vavl.training.engine import TorchEngine, compile_blocks, make_optimizer
from vavl.training.loop import train
from vavl.training.run import make_engine, prepare_run
from vavl.training.settings import OptimizerSettings, TrainingSettings

STAGES = (0, 1, 2, 3)
SOME_STAGES = (0, 3, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (1, 2)))
CPU = torch.device("cpu")
STEPS = 6


def settings(**changes) -> TrainingSettings:
    return TrainingSettings.model_validate({"engine": "deepspeed", "launcher": "in_process", **changes})


def test_the_optimizer_has_the_settings_and_leaves_frozen_parts_out():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    network[0].requires_grad_(requires_grad=False)
    chosen = OptimizerSettings(learning_rate=0.1, betas=(0.5, 0.6), weight_decay=0.3)
    optimizer = make_optimizer(network, settings(optimizer=chosen.model_dump()))
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.1, (0.5, 0.6), 0.3)
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in network[1].parameters()]


def test_the_settings_choose_the_engine(tiny_network):
    assert isinstance(make_engine(tiny_network(), settings(engine="torch"), CPU, 4), TorchEngine)
    assert isinstance(make_engine(tiny_network(), settings(), CPU, 4), DeepSpeedEngine)


def quadratic_engine(limit: float) -> tuple[TorchEngine, torch.nn.Linear]:
    network = torch.nn.Linear(3, 1, bias=False)
    torch.nn.init.ones_(network.weight)
    chosen = settings(engine="torch", optimizer={"gradient_clipping": limit, "weight_decay": 0})
    return TorchEngine(network, chosen, CPU), network


def test_gradients_of_micro_batches_add_up_and_are_cleared_by_the_step():
    engine, network = quadratic_engine(limit=0)
    for _ in range(3):
        engine.backward((network.weight * torch.tensor([1.0, 2.0, 2.0])).sum())
    assert network.weight.grad.tolist() == [[3, 6, 6]]
    assert float(engine.step(learning_rate=1e-3)) == pytest.approx(9.0)
    assert network.weight.grad is None
    assert (network.weight < 1).all()


def test_the_learning_rate_of_the_step_counts():
    engine, network = quadratic_engine(limit=0)
    engine.backward(network.weight.sum())
    engine.step(learning_rate=0.25)
    torch.testing.assert_close(network.weight.detach(), torch.full((1, 3), 0.75), atol=1e-5, rtol=0)
    engine.backward(network.weight.sum())
    engine.step(learning_rate=0.0)
    torch.testing.assert_close(network.weight.detach(), torch.full((1, 3), 0.75), atol=1e-5, rtol=0)


GRADIENTS = [[3.0, -1.0, 2.0], [0.1, 0.2, 0.3], [float("nan"), 1.0, 1.0], [-2.0, 0.5, 9.0], [float("inf")] * 3]


def states(optimizer):
    return [value for state in optimizer.state.values() for name, value in sorted(state.items()) if name != "step"]


def test_updates_are_those_of_a_loop_that_looks_at_the_norm_first_to_the_last_bit():
    """The decision to skip is left to the fused kernel; its count of updates must not notice it either."""
    engine, network = quadratic_engine(limit=1.0)
    _, plain = quadratic_engine(limit=1.0)
    optimizer, updates = make_optimizer(plain, settings(optimizer={"weight_decay": 0})), 0
    for gradient in GRADIENTS * 3:
        engine.backward((network.weight * torch.tensor(gradient)).sum())
        norm = engine.step(learning_rate=0.01)
        plain.weight.grad = torch.tensor([gradient])
        expected = torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        assert torch.equal(norm, expected) or not expected.isfinite()
        assert norm.isfinite() == expected.isfinite()
        if expected.isfinite():
            optimizer.param_groups[0]["lr"] = 0.01
            optimizer.step()
            updates += 1
        assert torch.equal(network.weight, plain.weight)
        assert network.weight.grad is None
        assert engine.optimizer_steps == updates
    assert updates == 9
    assert all(map(torch.equal, states(engine._optimizer), states(optimizer)))


def test_a_first_gradient_that_is_not_finite_leaves_a_new_optimizer_as_it_was():
    engine, network = quadratic_engine(limit=0)
    engine.backward((network.weight * float("nan")).sum())
    assert engine.step(learning_rate=0.1).isnan()
    assert network.weight.tolist() == [[1, 1, 1]]
    assert engine.optimizer_steps == 0
    held = engine.snapshot(lambda _: True).tensors
    assert not any(value.any() for name, value in held.items() if not name.startswith("weight/"))


@pytest.fixture
def run_of(plan, records):
    """Return a function that trains a plan and gives losses, gradient norms and final weights."""

    def train_it(name, target="label", **training):
        metric = "ccc_mean" if target == "attributes" else "uar"
        chosen = plan(
            name,
            data={"store": plan().data.store, "target": target, "composition": {"batch_size": 10}},
            training={"max_steps": STEPS, "max_epochs": 20, **training},
            evaluation={"select_by": [f"validation/audio/{metric}"]},
        )
        run, seen = prepare_run(chosen), records()
        state = train(run, run.start, seen).state
        norms = [record["metrics"].get("train/gradient_norm") for record in seen.of("step")]
        return np.array(seen.losses()), norms, run.engine.full_weights(), state

    return train_it


@pytest.mark.parametrize("limit", [1.0, 0.0])
def test_all_engines_stages_and_micro_batches_give_the_same_curve(run_of, limit):
    """The loss curve, the gradient norm and the weights after some steps; dropout is 0."""
    optimizer = {"learning_rate": 3e-3, "gradient_clipping": limit, "warmup_steps": 3, "weight_decay": 0.1}
    expected, norms, weights, best = run_of("torch", optimizer=optimizer)
    assert np.ptp(expected) > 0.1  # the curve moves: equality of constants would show nothing
    assert min(norms) > 1  # so does clipping: every step of the clipped run is clipped
    for stage, count in zip(STAGES, (2, 1, 2, 2), strict=True) if limit else [(1, 2)]:
        name = f"stage {stage}, {count} micro-batches"
        found = run_of(
            f"{stage}-{count}",
            engine="deepspeed",
            zero_stage=stage,
            clips_per_forward=-(-10 // count),
            optimizer=optimizer,
        )
        np.testing.assert_allclose(found[0], expected, rtol=1e-5, err_msg=name)
        if None not in found[1]:
            np.testing.assert_allclose(found[1], norms, rtol=1e-4, err_msg=name)
        assert found[2].keys() == weights.keys()
        for key, value in weights.items():
            torch.testing.assert_close(found[2][key], value, rtol=1e-3, atol=2e-5, msg=f"{name}: {key}")
        assert found[3].best_score == pytest.approx(best.best_score)


@pytest.mark.parametrize("stage", SOME_STAGES)
def test_concordance_is_exact_over_micro_batches_at_every_stage(run_of, stage):
    """The first pass without gradient must not disturb the engine's own hooks."""
    expected = run_of("torch", target="attributes", max_steps=5)[0]
    found = run_of("ds", target="attributes", engine="deepspeed", zero_stage=stage, clips_per_forward=5, max_steps=5)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.ptp(expected) > 0.05


@pytest.mark.parametrize("stage", SOME_STAGES)
def test_bf16_stays_near_fp32_at_every_stage_and_exports_float32(run_of, stage):
    expected = run_of("torch", max_steps=5)[0]
    losses, _, weights, _ = run_of("ds", engine="deepspeed", zero_stage=stage, precision="bf16", max_steps=5)
    np.testing.assert_allclose(losses, expected, rtol=0.05)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    # Masters in float32: small updates are not rounded away.
    rounded = [torch.equal(value, value.bfloat16().float()) for value in weights.values()]
    assert not all(rounded)


@pytest.mark.parametrize("stage", STAGES)
def test_parts_that_no_clip_feeds_stay_as_they_were_at_every_stage(plan, records, stage):
    chosen = plan(
        corpus={"without_video": range(10)},
        training={"engine": "deepspeed", "zero_stage": stage, "max_steps": 3,
                  "optimizer": {"learning_rate": 1e-2, "weight_decay": 0.5}},
        evaluation={"select_by": ["validation/audio/uar"]},
    )  # fmt: skip
    run = prepare_run(chosen)
    before = run.engine.full_weights()
    train(run, run.start, records())
    after = run.engine.full_weights()
    for name, value in after.items():
        assert value.shape == before[name].shape
        is_frozen = name.startswith(("video_path", "fusion_head")) or "correlate" in name
        assert torch.equal(value, before[name]) == is_frozen, name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_first_update_of_every_stage_is_that_of_adamw(stage, precision):
    """As large as the learning rate, without decay: DeepSpeed has not taken a step before."""
    network = torch.nn.Linear(4, 3)
    chosen = settings(zero_stage=stage, precision=precision, optimizer={"weight_decay": 0.5})
    engine = DeepSpeedEngine(network, chosen, CPU, rows_per_slot=1)
    assert engine.optimizer_steps == 0
    before = engine.full_weights()
    assert engine.network.weight.dtype == torch.float32
    engine.backward(engine._engine(torch.ones(1, 4)).float().sum())
    engine.step(learning_rate=1e-3)
    assert engine.optimizer_steps == 1
    for name, value in engine.full_weights().items():
        expected = before[name] * (1 - 1e-3 * 0.5) - 1e-3
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("stage", "offload"), [(1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "optimizer_and_weights")]
)
def test_what_is_offloaded_lies_in_main_memory_and_trains(stage, offload):
    engine = DeepSpeedEngine(torch.nn.Linear(4, 3), settings(zero_stage=stage, offload=offload), CPU, 1)
    assert engine._engine.zero_offload_optimizer().device == "cpu"
    assert (engine._engine.zero_offload_param() is not None) == (offload == "optimizer_and_weights")
    before = engine.full_weights()
    engine.backward(engine._engine(torch.ones(1, 4)).sum())
    assert engine.step(learning_rate=1e-2) > 0
    assert all(not torch.equal(value, before[name]) for name, value in engine.full_weights().items())
    assert all(value.abs().sum() > 0 for value in engine.snapshot(lambda _: True).tensors.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_updates_nothing_and_the_next_one_does(precision, value):
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    engine = DeepSpeedEngine(network, settings(precision=precision), CPU, rows_per_slot=1)
    clips = torch.ones(1, 3, dtype=network.weight.dtype)
    before = engine.full_weights()
    engine.backward(engine.network(clips * value).sum())
    assert not np.isfinite(float(engine.step(learning_rate=0.1)))
    for name, weight in engine.full_weights().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)
    engine.backward(engine.network(clips).sum())
    assert float(engine.step(learning_rate=0.1)) == pytest.approx(8**0.5, rel=0.01)
    assert engine.optimizer_steps == 1
    assert not torch.equal(engine.full_weights()["weight"], before["weight"])


class TestCompiled:
    @pytest.mark.filterwarnings(
        "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
    )  # of the tracer
    @pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
    def test_blocks_share_one_graph_over_steps_of_any_length_and_key(self, tiny_settings, backend):
        """And give the numbers of the plain way. The slow backend traces as inductor does, and generates no code."""
        torch.compiler.reset()
        torch.manual_seed(0)
        settings = tiny_settings(dropout=0.3)
        blocks = ConformerBlocks(2, settings).train()
        number_streams(blocks)

        def step(number: int) -> list[torch.Tensor]:
            frames = torch.randn(4, 8 + 3 * number, settings.width, generator=torch.Generator().manual_seed(number))
            lengths = torch.tensor([frames.shape[1], 1, 5, 8])
            is_real = torch.arange(frames.shape[1]) < lengths.unsqueeze(1) if number % 3 else None
            about = frames_of(frames, settings.width // settings.attention_heads, is_real)
            rows = keys_of_rows(DrawKey(0, number), torch.arange(4), 0)
            blocks.zero_grad()
            *_, top = blocks(frames.requires_grad_(), is_real, rows, [None, None], about)
            shown = without_padding(top, is_real)
            shown.square().sum().backward()
            return [shown.detach(), frames.grad, *(weight.grad.clone() for weight in blocks.parameters())]

        expected, graphs = [step(number) for number in range(20)], []
        compile_blocks(blocks, backend=backend)
        for number, wanted in enumerate(expected):
            for found, one in zip(step(number), wanted, strict=True):
                torch.testing.assert_close(found, one, rtol=1e-3, atol=1e-4)
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        torch.compiler.reset()
        assert graphs[0] > 0
        assert graphs[-1] == graphs[1], graphs

    def test_a_machine_without_a_compiler_is_refused(self, tiny_network, monkeypatch):
        monkeypatch.setattr("shutil.which", lambda _: None)
        with pytest.raises(InputError, match=r"training: compile: needs a compiler"):
            compile_blocks(tiny_network())
