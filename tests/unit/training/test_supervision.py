"""The supervisor's decisions, with attempts that do what a test says."""

from __future__ import annotations

import time

import pytest
from vavl.training.supervision import LostWorkersError, Supervisor

from vavl.errors import InputError, TrainingError
from vavl.training.settings import TrainingSettings
from vavl.training.stop import TrainingStopped, ask_to_stop, note_left, stop_reason


@pytest.fixture
def supervise(tmp_path, records):
    """Return a function that supervises scripted attempts.

    An attempt is a step that a checkpoint reaches and what happens then: an exception to raise, a reason
    to leave for, or None for the end of the run.
    """

    def run_it(*script, places=(2,), workers=2, **faults):
        attempts, there, seen, started = iter(script), iter(places), records(), []

        def attempt(count):
            started.append(count)
            step, ending = next(attempts)
            if step:
                (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True, exist_ok=True)
            if isinstance(ending, Exception):
                raise ending
            if ending is not None:
                note_left(tmp_path, ending, step)

        last = []

        def places_now():
            last[:] = [next(there, last[0] if last else 0)]
            return last[0]

        settings = TrainingSettings.model_validate(
            {"workers": workers, "faults": {"grow_after_seconds": 0.05, **faults}}
        )
        Supervisor(settings, tmp_path, attempt, places_now, seen, look_seconds=0.01).run()
        return started, seen

    return run_it


LOST = LostWorkersError("worker 1: died")


def test_a_run_without_faults_is_one_attempt_and_no_event(supervise):
    started, seen = supervise((0, None))
    assert started == [2]
    assert not seen.all


def test_lost_workers_are_replaced_as_long_as_the_run_gets_on(supervise):
    started, seen = supervise(
        (10, LOST), (20, LOST), (30, LOST), (40, LOST), (50, None), restarts_without_progress=1
    )
    assert started == [2] * 5
    assert [(one["what"], one["step"]) for one in seen.all] == [
        ("restarted", step) for step in (10, 20, 30, 40)
    ]
    assert "worker 1: died" in seen.all[0]["message"]


def test_losses_without_progress_end_the_run_and_say_so(supervise):
    with pytest.raises(
        TrainingError, match=r"workers were lost: worker 1: died\n3 times in a row .* 2 are allowed"
    ):
        supervise((10, LOST), (10, LOST), (10, LOST), (10, LOST), restarts_without_progress=2)


def test_a_fault_of_the_run_is_not_tried_again(supervise):
    with pytest.raises(InputError, match="no such fold"):
        supervise((0, InputError("store", "fold", "no such fold", "choose another")), (0, None))


@pytest.mark.parametrize("reason", ["preemption", "resize"])
def test_workers_that_left_with_a_checkpoint_are_started_again(supervise, tmp_path, reason):
    started, seen = supervise((10, reason), (10, reason), (10, None), restarts_without_progress=0)
    assert len(started) == 3
    assert [one["what"] for one in seen.all] == [reason, reason]


def test_a_stop_that_was_asked_for_ends_the_run_with_a_way_on(supervise):
    with pytest.raises(TrainingStopped, match=r"a checkpoint holds step 10\n.*start the same command again"):
        supervise((10, "stop"), (20, None))


def test_workers_lost_while_stopping_are_not_started_again(supervise, tmp_path):
    ask_to_stop(tmp_path, "stop", "SIGTERM")
    with pytest.raises(TrainingStopped, match="holds step 10"):
        supervise((10, LOST), (20, None))


def test_a_stop_is_heard_while_waiting_for_machines(supervise, tmp_path):
    ask_to_stop(tmp_path, "stop", "SIGTERM")
    with pytest.raises(TrainingStopped, match="holds step 0"):
        supervise(places=[0])


def test_an_elastic_run_shrinks_to_what_is_left(tmp_path, records):
    started, there = [], [4]

    def attempt(count):
        started.append(count)
        there[0] -= 1
        if count > 2:
            raise LOST

    settings = TrainingSettings.model_validate({"workers": [2, 4]})
    Supervisor(settings, tmp_path, attempt, lambda: there[0], records(), look_seconds=0.01).run()
    assert started == [4, 3, 2]


def test_a_run_waits_for_its_least_number_of_workers_and_gives_up_in_time(supervise):
    started, _ = supervise((0, None), places=[0, 1, 1, 2])
    assert started == [2]
    with pytest.raises(TrainingError, match="place for 1 of 2 workers after"):
        supervise((0, None), places=[1], wait_for_workers_seconds=0.05)


def test_a_run_leaves_to_grow_when_there_is_place_for_long_enough(tmp_path, records):
    """The attempt leaves when it is asked to, as workers do."""
    settings = TrainingSettings.model_validate({"workers": [1, 3], "faults": {"grow_after_seconds": 0.1}})
    started, there = [], [1]

    def attempt(count):
        started.append(count)
        there[0] = 3
        if count == 3:
            return
        for _ in range(500):
            if stop_reason(tmp_path) == "resize":
                note_left(tmp_path, "resize", 7)
                return
            time.sleep(0.01)

    seen = records()
    Supervisor(settings, tmp_path, attempt, lambda: there[0], seen, look_seconds=0.01).run()
    assert started == [1, 3]
    assert [one["what"] for one in seen.all] == ["resize"]
    assert "step 7" in seen.all[0]["message"]


def test_the_stacks_of_a_step_that_hung_are_in_the_message(tmp_path, records):
    def attempt(count):
        for rank in range(2):
            path = tmp_path / "stacks" / f"rank-{rank}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f'Timeout (0:00:05)!\nThread 1:\n  File "step.py", line {rank}')
        raise LOST

    settings = TrainingSettings.model_validate({"workers": 3, "faults": {"restarts_without_progress": 0}})
    with pytest.raises(
        TrainingError,
        match=r"(?s)rank 0 ---\n.*line 0\n--- rank 1 ---.*line 1\n--- rank 2 ---\nleft no stack",
    ):
        Supervisor(settings, tmp_path, attempt, lambda: 3, records(), look_seconds=0.01).run()
