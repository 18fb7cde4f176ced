"""Checkpoints: whole or skipped; a resumed run equals the uninterrupted one."""

from __future__ import annotations

import errno
import json
import logging
import re
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vavl.config.files import sha256_of_file
from vavl.errors import TrainingError
from vavl.store.remote_files import PassingError, RemoteDirectory
from vavl.training import checkpoint_files
from vavl.training.checkpoint import Checkpoints, checkpoint_names, remove_old
from vavl.training.checkpoint_files import CheckpointValues, LoopState, Snapshot, shares
from vavl.training.engine import TorchEngine
from vavl.training.settings import TrainingSettings
from vavl.training.storage import RunStorage

FRESH = LoopState(config_hash="c", store_hash="s", workers=1, zero_stage=0)


@pytest.fixture
def engine():
    """Return a function that makes a small engine which has taken some steps."""

    def make(steps: int = 0) -> TorchEngine:
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 2)
        made = TorchEngine(network, TrainingSettings(engine="torch"), torch.device("cpu"))
        for _ in range(steps):
            made.backward(network(torch.ones(1, 3)).square().sum())
            made.step(0.1)
        return made

    return make


@pytest.fixture
def folder(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path, keep=3)


def at(step: int, **changes) -> LoopState:
    return FRESH.model_copy(update={"step": step, **changes})


def save(folder, engine, state, records=()):
    """Write in this thread, as ``finish`` waits for the write and not for the removal of old ones."""

    def submit(pending):
        pending()
        remove_old(folder._root, folder._keep)

    folder.save(engine, None, state, records, submit)
    folder.finish()


def loaded(folder, engine) -> tuple[LoopState, TorchEngine]:
    found, fresh = folder.newest(Path("unused")), engine()
    values = CheckpointValues(found.directory)
    fresh.network.load_state_dict(values.weights({"weight": (2, 3), "bias": (2,)}))
    fresh.load(values)
    return found.state, fresh


def test_without_a_checkpoint_there_is_nothing_to_resume(folder):
    assert folder.newest(Path("unused")) is None


def test_what_was_saved_comes_back(folder, engine):
    before = engine(steps=3)
    state = at(3, epoch=2, best_epoch=1, best_score=0.25, epochs_without_gain=1, trained_seconds=1.5, skipped=(1,))
    save(folder, before, state, [{"kind": "step", "step": 2}])
    found, after = loaded(folder, engine)
    assert found == state
    assert folder.newest(Path("unused")).records == [{"kind": "step", "step": 2}]
    for name, value in before.full_weights().items():
        assert torch.equal(value, after.full_weights()[name])
    assert after.optimizer_steps == 3
    # The optimizer's moments too: the next step is the same.
    for one in (before, after):
        one.backward(one.network(torch.ones(1, 3)).sum())
        one.step(0.1)
    assert torch.equal(before.network.weight, after.network.weight)


def test_training_goes_on_while_a_checkpoint_is_written(folder, engine, monkeypatch):
    """What is written is the state at the call, whatever happens to the weights meanwhile."""
    may_write, real_write = threading.Event(), Snapshot.write

    def slow_write(*arguments):
        assert may_write.wait(10)
        real_write(*arguments)

    monkeypatch.setattr(Snapshot, "write", slow_write)
    busy = engine(1)
    before = busy.network.weight.detach().clone()
    folder.save(busy, None, at(1))
    busy.backward(busy.network(torch.ones(1, 3)).sum())
    busy.step(0.1)
    assert folder.newest(Path("unused")) is None
    may_write.set()
    folder.finish()
    _, after = loaded(folder, engine)
    assert torch.equal(after.network.weight, before)
    assert not torch.equal(after.network.weight, busy.network.weight)


def names(tmp_path):
    return sorted(int(path.name.removeprefix("step-")) for path in (tmp_path / "checkpoints").glob("step-*"))


def test_the_newest_is_resumed_and_old_ones_go(folder, engine, tmp_path):
    for step in (1, 2, 3, 4, 5):
        save(folder, engine(step), at(step))
    assert folder.newest(Path("unused")).state.step == 5
    assert names(tmp_path) == [3, 4, 5]


def test_saving_the_same_step_again_replaces_it(folder, engine, tmp_path):
    save(folder, engine(1), at(4, epoch=1))
    save(folder, engine(2), at(4, epoch=2))
    assert folder.newest(Path("unused")).state.epoch == 2
    assert names(tmp_path) == [4]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def remove(path):
    path.unlink()


def of_another_attempt(path):
    path.write_text(path.read_text().replace('"token": "', '"token": "f'))


RANK = "rank-000.safetensors"
DAMAGES = [
    ("rank-000.json", truncate, "an entry of its files cannot be read"),
    (RANK, truncate, f"files are missing or have another size: ['{RANK}']"),
    (RANK, flip_a_byte, f"checksums differ: ['{RANK}']"),
    (RANK, remove, f"files are missing or have another size: ['{RANK}']"),
    ("records.json", truncate, "files are missing or have another size: ['records.json']"),
    ("loop.json", flip_a_byte, "checksums differ: ['loop.json']"),
    ("loop.json", remove, "files are missing or have another size: ['loop.json']"),
    ("rank-001.json", of_another_attempt, "holds files of different attempts"),
]


@pytest.mark.parametrize(
    ("file", "damage", "message"), DAMAGES, ids=lambda value: getattr(value, "__name__", str(value))[:24]
)
def test_a_torn_checkpoint_is_skipped_with_a_message_and_the_one_before_is_used(
    folder, engine, tmp_path, caplog, file, damage, message
):
    save(folder, engine(1), at(1))
    save(folder, engine(2), at(2))
    directory = tmp_path / "checkpoints" / "step-00000002"
    if file == "rank-001.json":
        entry = json.loads((directory / "rank-000.json").read_text())
        for rank in range(2):
            (directory / f"rank-00{rank}.json").write_text(json.dumps({**entry, "ranks": 2}))
    damage(directory / file)
    with caplog.at_level(logging.WARNING):
        (told,) = folder.newest(Path("unused")).torn
    state, after = loaded(folder, engine)
    assert state.step == 1
    assert torch.equal(after.network.weight, engine(1).network.weight)
    line = caplog.records[0].getMessage()
    assert "step-00000002 is skipped" in line
    assert message in line
    assert message in told
    assert names(tmp_path) == [1]  # it crowds out no whole one, and stays to be looked at
    assert len(list((tmp_path / "checkpoints").glob("torn-step-00000002-*"))) == 1


def test_object_storage_that_is_away_for_a_moment_tears_no_checkpoint(engine, tmp_path, monkeypatch):
    folder = Checkpoints(f"memory://{tmp_path.name}/run", keep=3)
    save(folder, engine(1), at(1))
    save(folder, engine(2), at(2))
    read = RemoteDirectory.read_if_there

    def away(directory, name):
        if directory.address.endswith("step-00000002") and name == "rank-000.json":
            raise PassingError(directory.address, "", "cannot be read: a server that is busy", "try again")
        return read(directory, name)

    with monkeypatch.context() as patched:
        patched.setattr(RemoteDirectory, "read_if_there", away)
        patched.setattr("vavl.store.checked_files._PAUSES_S", (0.0, 0.0))
        with pytest.raises(PassingError):
            folder.newest(tmp_path)
    assert folder.newest(tmp_path).state.step == 2


def test_when_all_are_torn_the_run_starts_anew(folder, engine, tmp_path):
    save(folder, engine(1), at(1))
    truncate(tmp_path / "checkpoints/step-00000001" / RANK)
    assert folder.newest(Path("unused")) is None


def test_what_a_killed_save_left_is_in_nobodys_way(folder, engine, tmp_path):
    save(folder, engine(1), at(1))
    left = tmp_path / "checkpoints" / "step-00000002"
    left.mkdir()
    (left / RANK).write_bytes(b"half")
    again = Checkpoints(tmp_path, keep=3)
    again.open()
    assert not left.exists()
    save(again, engine(2), at(2))
    assert again.newest(Path("unused")).state.step == 2
    assert names(tmp_path) == [1, 2]


def test_a_full_disk_is_an_error_that_leaves_the_last_checkpoint_whole(folder, engine, tmp_path, monkeypatch):
    save(folder, engine(1), at(1))

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_files, "save_file", full)
    folder.save(engine(2), None, at(2))
    with pytest.raises(TrainingError, match=r"could not be written: .*No space left.*\n.*free space"):
        folder.finish()
    assert folder.failed
    assert folder.newest(Path("unused")).state.step == 1


@pytest.mark.parametrize("change", ["config_hash", "store_hash"])
def test_a_checkpoint_of_something_else_is_refused(plan, train_from, change):
    chosen = plan(training={"max_epochs": 1})
    train_from(chosen)
    (path,) = (chosen.output_dir / "checkpoints").glob("step-*")
    state = json.loads((path / "loop.json").read_text())
    (path / "loop.json").write_text(json.dumps({**state, change: "other"}))
    seal_again(path)
    with pytest.raises(
        TrainingError, match=rf"{change}: the checkpoint has other, this run .*\n.*training.resume=never"
    ):
        train_from(chosen)


def seal_again(path):
    """Make the checksums fit the files again."""
    entry = json.loads((path / "rank-000.json").read_text())
    for name in entry["files"]:
        file = path / name
        entry["files"][name] = {"bytes": file.stat().st_size, "sha256": sha256_of_file(file)}
    (path / "rank-000.json").write_text(json.dumps(entry))


def test_a_checkpoint_of_another_version_is_refused_with_a_way_out(plan, train_from):
    chosen = plan(training={"max_epochs": 1})
    train_from(chosen)
    (path,) = (chosen.output_dir / "checkpoints").glob("step-*")
    (path / "loop.json").write_text(json.dumps({"format": 99}))
    seal_again(path)
    with pytest.raises(TrainingError, match=r"was written by another version.*\n.*training.resume=never"):
        train_from(chosen)


def test_a_checkpoint_holds_tensors_and_json_only(folder, engine, tmp_path):
    save(folder, engine(2), at(2))
    found = {path.name for path in (tmp_path / "checkpoints/step-00000002").iterdir()}
    assert found == {RANK, "rank-000.json", "loop.json", "records.json"}
    with safe_open(tmp_path / "checkpoints/step-00000002" / RANK, "pt") as file:
        assert set(file.keys()) == {
            f"{kind}/{name}" for kind in ("weight", "exp_avg", "exp_avg_sq") for name in ("weight", "bias")
        }


@pytest.mark.parametrize(
    ("engine_name", "stage", "precision"),
    [
        ("torch", 0, "fp32"),
        ("deepspeed", 1, "fp32"),
        ("deepspeed", 3, "fp32"),
        ("deepspeed", 2, "bf16"),
        *(pytest.param("deepspeed", *how, marks=pytest.mark.slow) for how in ((0, "fp32"), (2, "fp32"), (0, "bf16"))),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_last_bit(plan, train_from, engine_name, stage, precision):
    """With dropout, views, warm-up, decay and two micro-batches; killed within the second epoch."""
    sections = {
        "model": {**plan().model.model_dump(), "dropout": 0.2, "head_dropout": 0.2},
        "data": {**plan().data.model_dump(), "augmentation": {"audio": {"noise": 0.3, "tempo": 0.2}}},
        "training": {
            "engine": engine_name, "zero_stage": stage, "precision": precision, "clips_per_forward": 5, "max_epochs": 2,
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
    # The first attempt had reported nothing yet; the checkpoint brings its steps back.
    assert not first_seen.all
    kept = [one["metrics"]["train/loss/total"] for one in run.restored.records if one["kind"] == "step"]
    assert kept + second_seen.losses() == whole_seen.losses()
    scores = [
        {name: value for name, value in seen.of("epoch")[-1]["metrics"].items() if "clips_per_second" not in name}
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
    found = sorted(path.name for path in (chosen.output_dir / "checkpoints").iterdir())
    assert found == ["step-00000008", "step-00000016", "step-00000020"]
    state = json.loads((chosen.output_dir / "checkpoints/step-00000016/loop.json").read_text())
    assert (state["step"], state["epoch"], state["trained_clips"]) == (16, 4, 160)


def test_checkpoints_of_attempts_on_ray_are_found_by_their_step(tmp_path, engine):
    for attempt, step in (("b", 3), ("a", 9), ("", 6)):
        save(Checkpoints(tmp_path, 9, attempt), engine(1), at(step))
    assert checkpoint_names(RunStorage(tmp_path / "checkpoints")) == [
        "b/step-00000003", "step-00000006", "a/step-00000009",
    ]  # fmt: skip
    assert Checkpoints(tmp_path, 9, "c").newest(Path("unused")).state.step == 9
    remove_old(RunStorage(tmp_path / "checkpoints"), 2)
    assert not list((tmp_path / "checkpoints/b").glob("step-*"))


def test_ranks_write_about_as_much_each_and_everything_once():
    sizes = {f"p{number}": size for number, size in enumerate((7, 3, 9, 1, 4, 4, 2))}
    dealt = shares(sizes, 3)
    assert dealt.keys() == sizes.keys()
    loads = [sum(sizes[name] for name, rank in dealt.items() if rank == one) for one in range(3)]
    assert max(loads) - min(loads) <= 2
    assert dealt == shares(dict(reversed(sizes.items())), 3)


def test_a_checkpoint_of_version_0_1_is_read(tmp_path, engine):
    """Flat shards that are cut anywhere, and a manifest over all files."""
    before, path = engine(3), tmp_path / "checkpoints/step-00000003"
    path.mkdir(parents=True)
    tensors = {name: value.flatten() for name, value in before.snapshot(lambda _: True).tensors.items()}
    for rank, cut in enumerate((slice(0, 1), slice(1, None))):
        starts = json.dumps({"weight": rank, "bias": rank})
        save_file(
            {name: value[cut].clone() for name, value in tensors.items()}, path / f"rank-{rank:03d}.safetensors",
            {"starts": starts, "optimizer_steps": "3"},
        )  # fmt: skip
        (path / f"rank-{rank:03d}.json").write_text("{}")
    (path / "loop.json").write_text(at(3).model_dump_json())
    (path / "records.json").write_text("[]")
    sums = {one.name: {"bytes": one.stat().st_size, "sha256": sha256_of_file(one)} for one in path.iterdir()}
    (path / "manifest.json").write_text(json.dumps(sums))
    state, after = loaded(Checkpoints(tmp_path, 3), engine)
    assert state.step == 3
    for name, value in before.snapshot(lambda _: True).tensors.items():
        assert torch.equal(value, after.snapshot(lambda _: True).tensors[name]), name
    assert after.optimizer_steps == 3


def test_a_load_reads_what_it_copies(tmp_path):
    """Tensors are mapped: looking at one of four touches a quarter of the file."""
    sizes = {f"weight/p{number}": torch.ones(2**21) for number in range(4)}
    metadata = {"starts": json.dumps({name.partition("/")[2]: 0 for name in sizes}), "optimizer_steps": "1"}
    save_file(sizes, tmp_path / "rank-000.safetensors", metadata)
    with CheckpointValues(tmp_path) as values:
        assert values.whole("p1", "weight").sum() == 2**21
        maps = Path("/proc/self/smaps").read_text().split("rank-000.safetensors")[1:]
        resident = sum(int(re.search(r"Rss: +(\d+) kB", part)[1]) for part in maps)
        assert 2**13 <= resident < 2 * 2**13 + 1024
