"""Checkpoints: whole or skipped; a resumed run equals the uninterrupted one."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from killed_training import Killed

from vavl.errors import TrainingError
from vavl.training.checkpoint import CheckpointFolder, LoopState
from vavl.training.engine import TorchEngine
from vavl.training.settings import TrainingSettings

FRESH = LoopState(config_hash="c", store_hash="s", workers=1, zero_stage=0)


@pytest.fixture
def engine():
    """Return a function that makes a small engine which has taken some steps."""

    def make(steps: int = 0) -> TorchEngine:
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 2)
        made = TorchEngine(network, TrainingSettings(engine="torch"))
        for _ in range(steps):
            made.backward(network(torch.ones(1, 3)).square().sum())
            made.step(0.1)
        return made

    return make


@pytest.fixture
def folder(tmp_path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "checkpoints", keep=3)


def at(step: int, **changes) -> LoopState:
    return FRESH.model_copy(update={"step": step, **changes})


def test_without_a_checkpoint_there_is_nothing_to_resume(folder, engine):
    assert folder.resume({"engine": engine()}, FRESH) is None


def test_what_was_saved_comes_back(folder, engine):
    before = engine(steps=3)
    state = at(3, epoch=2, best_epoch=1, best_score=0.25, epochs_without_gain=1, trained_seconds=1.5)
    folder.save({"engine": before}, state)
    after = engine()
    assert folder.resume({"engine": after}, FRESH) == state
    for name, value in before.full_weights().items():
        assert torch.equal(value, after.full_weights()[name])
    # The optimizer's moments too: the next step is the same.
    for one in (before, after):
        one.backward(one.network(torch.ones(1, 3)).sum())
        one.step(0.1)
    assert torch.equal(before.network.weight, after.network.weight)


def test_the_newest_is_resumed_and_old_ones_go(folder, engine, tmp_path):
    for step in (1, 2, 3, 4, 5):
        folder.save({"engine": engine(step)}, at(step))
    assert folder.resume({"engine": engine()}, FRESH).step == 5
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000004", "step-00000005"]


def test_saving_the_same_step_again_replaces_it(folder, engine):
    folder.save({"engine": engine(1)}, at(4, epoch=1))
    folder.save({"engine": engine(2)}, at(4, epoch=2))
    assert folder.resume({"engine": engine()}, FRESH).epoch == 2


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def remove(path):
    path.unlink()


def add_beside(path):
    path.with_name("stranger.pt").write_bytes(b"pickle of someone else")


DAMAGES = [
    ("manifest.json", remove, "does not exist"),
    ("manifest.json", truncate, "not valid JSON"),
    ("engine/torch.pt", truncate, "checksums differ: ['engine/torch.pt']"),
    ("engine/torch.pt", flip_a_byte, "checksums differ: ['engine/torch.pt']"),
    ("engine/torch.pt", remove, "files differ from the manifest: ['engine/torch.pt']"),
    ("engine/torch.pt", add_beside, "files differ from the manifest: ['engine/stranger.pt']"),
    ("loop.json", flip_a_byte, "checksums differ: ['loop.json']"),
    ("loop.json", remove, "files differ from the manifest: ['loop.json']"),
]


@pytest.mark.parametrize(
    ("file", "damage", "message"), DAMAGES, ids=lambda value: getattr(value, "__name__", str(value))[:24]
)
def test_a_torn_checkpoint_is_skipped_with_a_message_and_the_one_before_is_used(
    folder, engine, tmp_path, caplog, file, damage, message
):
    folder.save({"engine": engine(1)}, at(1))
    folder.save({"engine": engine(2)}, at(2))
    damage(tmp_path / "checkpoints" / "step-00000002" / file)
    after = engine()
    with caplog.at_level(logging.WARNING):
        assert folder.resume({"engine": after}, FRESH).step == 1
    assert torch.equal(after.network.weight, engine(1).network.weight)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "step-00000002 is skipped" in line
    assert message in line


def test_when_all_are_torn_the_run_starts_anew(folder, engine, tmp_path):
    folder.save({"engine": engine(1)}, at(1))
    truncate(tmp_path / "checkpoints/step-00000001/engine/torch.pt")
    assert folder.resume({"engine": engine()}, FRESH) is None


def test_a_save_that_was_killed_leaves_the_one_before(folder, engine, tmp_path):
    folder.save({"engine": engine(1)}, at(1))

    class Dying:
        def save(self, place):
            place.mkdir()
            (place / "half.pt").write_bytes(b"half")
            raise Killed

    with pytest.raises(Killed):
        folder.save({"engine": Dying()}, at(2))
    assert folder.resume({"engine": engine()}, FRESH).step == 1
    folder.save({"engine": engine(2)}, at(2))  # what the dead left behind is in nobody's way
    assert folder.resume({"engine": engine()}, FRESH).step == 2
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.parametrize(
    "change", [{"config_hash": "other"}, {"store_hash": "other"}, {"workers": 2}, {"zero_stage": 1}]
)
def test_a_checkpoint_of_something_else_is_refused(folder, engine, change):
    folder.save({"engine": engine(1)}, at(1))
    (name,) = change
    with pytest.raises(
        TrainingError, match=rf"{name}: the checkpoint has .*, this run .*\n.*training.resume=never"
    ):
        folder.resume({"engine": engine()}, FRESH.model_copy(update=change))


def test_a_checkpoint_of_the_plain_engine_holds_tensors_only(folder, engine, tmp_path):
    folder.save({"engine": engine(2)}, at(2))
    state = torch.load(tmp_path / "checkpoints/step-00000002/engine/torch.pt", weights_only=True)
    assert state.keys() == {"network", "optimizer"}


@pytest.mark.parametrize(
    ("engine_name", "stage", "precision"),
    [("torch", 0, "fp32"), ("deepspeed", 0, "fp32"), ("deepspeed", 1, "fp32"),
     ("deepspeed", 2, "fp32"), ("deepspeed", 3, "fp32"), ("deepspeed", 0, "bf16"), ("deepspeed", 2, "bf16")],
)  # fmt: skip
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_last_bit(
    plan, train_from, engine_name, stage, precision
):
    """With dropout, views, warm-up, decay and two micro-batches; killed within the second epoch."""
    sections = {
        "model": {**plan().model.model_dump(), "dropout": 0.2, "head_dropout": 0.2},
        "data": {**plan().data.model_dump(), "augmentation": {"audio": {"noise": 0.3, "tempo": 0.2}}},
        "training": {
            "engine": engine_name, "zero_stage": stage, "precision": precision, "micro_batches": 2, "max_epochs": 2,
            "optimizer": {"learning_rate": 1e-2, "warmup_steps": 5, "final_share": 0.1},
        },
    }  # fmt: skip
    whole, _, whole_state, whole_seen = train_from(plan("whole", **sections))
    broken = plan("broken", **sections)
    _, _, died, first_seen = train_from(broken, die_at=7)
    assert died is None
    run, start, state, second_seen = train_from(broken)
    assert (start.step, start.epoch) == (4, 1)
    timeless = {"trained_seconds": 0.0}
    assert state.model_copy(update=timeless) == whole_state.model_copy(update=timeless)
    assert first_seen.losses()[:4] + second_seen.losses() == whole_seen.losses()
    scores = [
        {
            name: value
            for name, value in seen.of("epoch")[-1]["metrics"].items()
            if "clips_per_second" not in name
        }
        for seen in (whole_seen, second_seen)
    ]
    assert scores[0] == scores[1]
    weights = run.engine.full_weights()
    for name, value in whole.engine.full_weights().items():
        assert torch.equal(value, weights[name]), name
    best = [(one.output_dir / "best/model.safetensors").read_bytes() for one in (whole.plan, run.plan)]
    assert best[0] == best[1]


def test_checkpoints_come_every_few_epochs_and_at_the_end(plan, train_from):
    chosen = plan(training={"max_epochs": 5, "checkpoint_every_epochs": 2, "keep_checkpoints": 9})
    train_from(chosen)
    names = sorted(path.name for path in (chosen.output_dir / "checkpoints").iterdir())
    assert names == ["step-00000008", "step-00000016", "step-00000020"]
    state = json.loads((chosen.output_dir / "checkpoints/step-00000016/loop.json").read_text())
    assert (state["step"], state["epoch"], state["trained_clips"]) == (16, 4, 160)
