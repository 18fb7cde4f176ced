"""The running average of the weights."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from vavl.models.saved_model import load_model
from vavl.training.average import WeightAverage
from vavl.training.engine import TorchEngine
from vavl.training.loop import BEST_DIRECTORY, train
from vavl.training.run import prepare_run
from vavl.training.settings import TrainingSettings


@pytest.fixture
def engine():
    return TorchEngine(torch.nn.Linear(2, 1, bias=False), TrainingSettings(engine="torch"), torch.device("cpu"))


def built():
    return torch.nn.Linear(2, 1, bias=False)


def set_weight(engine, value):
    with torch.no_grad():
        engine.network.weight.fill_(value)


def test_the_average_follows_slowly_after_a_quick_start(engine):
    set_weight(engine, 0)
    average = WeightAverage(engine, 0.9, built)
    set_weight(engine, 1)
    average.update(0)  # 1 / 10 of the old
    torch.testing.assert_close(average.network().weight.detach(), torch.full((1, 2), 0.9))
    average.update(1000)
    torch.testing.assert_close(average.network().weight.detach(), torch.full((1, 2), 0.91))
    assert engine.network.weight.tolist() == [[1, 1]]


def test_it_comes_back_as_it_was(engine, tmp_path):
    average = WeightAverage(engine, 0.9, built)
    set_weight(engine, 3)
    other = WeightAverage(engine, 0.9, built)
    save_file(average.weights(), tmp_path / "average.safetensors")
    other.load(tmp_path / "average.safetensors")
    assert torch.equal(other.network().weight, average.network().weight)
    assert not torch.equal(other.network().weight, engine.network.weight)


@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_what_is_saved_and_measured_is_the_average(plan, records, stage):
    engine = {"engine": "torch"} if stage is None else {"engine": "deepspeed", "zero_stage": stage}
    chosen = plan(training={"max_steps": 6, "average_decay": 0.8, **engine})
    run = prepare_run(chosen)
    seen, steps = records(), []
    update = run.average.update

    def remember(step):
        update(step)
        steps.append(run.engine.full_weights())

    run.average.update = remember
    first = run.average.weights()
    train(run, run.start, seen)
    expected = first
    for step, weights in enumerate(steps):
        share = 1 - min(0.8, (1 + step) / (10 + step))
        expected = {name: value + share * (weights[name] - value) for name, value in expected.items()}
    saved = load_model(chosen.output_dir / BEST_DIRECTORY).network.state_dict()
    best = seen.of("epoch")[-1]["best_epoch"]
    for name, value in run.average.weights().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
        if best == len(seen.of("epoch")):
            assert torch.equal(saved[name], value)
