"""The file of a run's pseudo-labels: whole, the same for any number of workers, and resumed; and the alarm."""

from __future__ import annotations

import re
from functools import partial

import pyarrow.parquet as pq
import pytest
from forked_ranks import run_ranks_of_test

from vavl.training.loop import train
from vavl.training.pseudo_labels import ALARM_STEPS, KeptAlarm
from vavl.training.run import prepare_run
from vavl.training.worker import train_on_worker

VOTES = ("vote_audio_video", "vote_audio", "vote_video")
GIVEN = {"objectives": {"pseudo_label": {"kind": "hard", "threshold": 0.4}}}
SOFT = {"objectives": {"pseudo_label": {}}}


def file_of(plan):
    return pq.read_table(plan.directory / "pseudo_labels.parquet")


@pytest.fixture
def whole(plan, train_from):
    made = plan("whole", **GIVEN)
    _, _, _, seen = train_from(made)
    return made, seen


def test_it_holds_every_unlabeled_clip_of_every_step(whole):
    made, seen = whole
    table = file_of(made)
    assert table.column_names == ["step", "clip_id", "label", "confidence", "kept", *VOTES, "weight"]
    steps = [record["metrics"] for record in seen.of("step")]
    rows = table.to_pylist()
    for step, metrics in enumerate(steps):
        here = [row for row in rows if row["step"] == step]
        assert len(here) == metrics["train/pseudo_label/unlabelled"]
        assert sum(row["kept"] for row in here) == metrics["train/pseudo_label/sure"]
    assert {row["kept"] for row in rows} == {True, False}
    assert all(row["weight"] == row["kept"] for row in rows)
    assert all(row["kept"] == (row["confidence"] >= 0.4) for row in rows)
    unlabeled = {f"s{speaker}_{number:04d}" for speaker in range(4) for number in (1, 2)}
    assert {row["clip_id"] for row in rows} <= {
        f"s{speaker}_{number:04d}" for speaker in range(4) for number in range(10)
    }
    assert {row["clip_id"] for row in rows} == unlabeled
    for row in rows:
        # Clips whose number ends with 1 have no video.
        assert (row["vote_video"] is None) == row["clip_id"].endswith("1")
        assert (row["vote_audio_video"] is None) == row["clip_id"].endswith("1")
        assert row["label"] in {row[vote] for vote in VOTES}


def test_soft_labels_all_count_and_may_be_no_vote(plan, train_from):
    made = plan("soft", **SOFT)
    _, _, state, seen = train_from(made)
    rows = file_of(made).to_pylist()
    assert rows
    assert all(row["weight"] == 1 and row["kept"] for row in rows)
    assert 1 / 3 < max(row["confidence"] for row in rows) < 1
    assert all(record["metrics"]["train/pseudo_label/sure"] > 0 for record in seen.of("step"))
    assert sum(state.teacher_mean) == pytest.approx(1)


def test_of_attributes_it_holds_values_and_weights(plan, train_from):
    data = {"store": plan().data.store, "target": "attributes"}
    made = plan("attributes", data=data, **SOFT, evaluation={"select_by": ["validation/audio/ccc_mean"]})
    train_from(made)
    table = file_of(made)
    names = [f"predicted_{name}" for name in ("arousal", "valence", "dominance")]
    assert table.column_names == ["step", "clip_id", *names, "weight"]
    rows = table.to_pylist()
    # Clips whose number ends with 1 have no video: there is nothing that could differ.
    assert {row["weight"] for row in rows if row["clip_id"].endswith("1")} == {1.0}
    assert all(0 < row["weight"] < 1 for row in rows if not row["clip_id"].endswith("1"))


@pytest.mark.parametrize("given", [GIVEN, SOFT], ids=["hard", "soft"])
def test_micro_batches_and_ranks_write_the_same_file(plan, train_from, given):
    expected_plan = plan("one", **given)
    train_from(expected_plan)
    expected = file_of(expected_plan).to_pydict()
    small = plan("small", **given, training={"clips_per_forward": 3})
    run = prepare_run(small)
    train(run, run.start, lambda records: None)
    two = plan("two", **given)
    run_ranks_of_test(2, partial(train_on_worker, two, print))
    for made in (small, two):
        found = file_of(made).to_pydict()
        assert found.pop("confidence") == pytest.approx(expected["confidence"], abs=1e-5)
        assert found == {name: column for name, column in expected.items() if name != "confidence"}


def test_a_resumed_run_holds_each_step_once(plan, train_from, whole):
    broken = plan("broken", **GIVEN, training={"checkpoint_every_steps": 3})
    train_from(broken, die_at=8)
    before = file_of(broken)
    assert set(before["step"].to_pylist()) == set(range(6))
    _, start, _, _ = train_from(broken)
    assert start.step == 6
    assert file_of(broken).equals(file_of(whole[0]))


def test_what_lies_there_of_later_steps_is_dropped(plan, train_from, whole):
    """A run goes back to an older checkpoint where the newest is torn."""
    broken = plan("broken", **GIVEN, training={"checkpoint_every_steps": 3, "keep_checkpoints": 5})
    train_from(broken, die_at=8)
    newest = max(broken.directory.rglob("step-*/rank-000.safetensors"))
    newest.write_bytes(b"torn")
    _, start, _, _ = train_from(broken)
    assert start.step == 4  # the end of the first epoch
    assert file_of(broken).equals(file_of(whole[0]))


def test_without_pseudo_labels_there_is_none(plan, train_from):
    train_from(made := plan(training={"max_steps": 2}))
    assert not (made.directory / "pseudo_labels.parquet").exists()


def test_an_address_gets_it_and_a_resumed_run_takes_it_from_there(plan, train_from, whole, s3, tmp_path):
    address = f"{s3}/run"
    made = plan(**GIVEN, training={"checkpoint_every_steps": 3}).model_copy(update={"output_dir": address})
    train_from(made, die_at=8)
    run, start, _, _ = train_from(made)
    assert start.step == 6
    run.output.storage.fetch(["pseudo_labels.parquet"], tmp_path)
    assert pq.read_table(tmp_path / "pseudo_labels.parquet").equals(file_of(whole[0]))


@pytest.mark.parametrize(
    ("kept", "message"),
    [(0, r"0.0% of the pseudo-labels of the last 200 steps were kept: they teach nothing; lower"),
     (10, r"100.0% .* were kept: wrong ones are kept too; raise")],
)  # fmt: skip
def test_the_alarm_is_raised_once_and_again_after_it_was_between(kept, message):
    alarm = KeptAlarm()
    said = [alarm.after(kept, 10, 5) for _ in range(2 * ALARM_STEPS)]
    assert said[: ALARM_STEPS - 1] == [None] * (ALARM_STEPS - 1)
    assert said.count(None) == len(said) - 1
    assert re.match(message, said[ALARM_STEPS - 1])
    assert [alarm.after(5, 10, 5) for _ in range(ALARM_STEPS)] == [None] * ALARM_STEPS
    assert [one for _ in range(ALARM_STEPS) if (one := alarm.after(kept, 10, 5))] != []


@pytest.mark.parametrize("kept", [0.2, 5, 9])
def test_no_alarm_while_some_are_kept(kept):
    alarm = KeptAlarm()
    assert {alarm.after(kept, 10, 5) for _ in range(3 * ALARM_STEPS)} == {None}


def test_a_long_epoch_is_waited_for():
    alarm = KeptAlarm()
    said = [alarm.after(0, 10, 300) for _ in range(300)]
    assert [number for number, one in enumerate(said) if one] == [299]


def test_the_alarm_is_an_event_of_the_run(plan, records, monkeypatch):
    monkeypatch.setattr("vavl.training.pseudo_labels.ALARM_STEPS", 6)
    made = plan(
        objectives={"pseudo_label": {"kind": "hard", "threshold": 1.0, "start_step": 2}}, training={"max_steps": 9}
    )
    run, seen = prepare_run(made), records()
    train(run, run.start, seen)
    (found,) = seen.of("event")
    assert found["what"] == "pseudo_labels"
    assert found["step"] == 7
    assert found["message"].startswith("0.0% of the pseudo-labels of the last 6 steps were kept")
