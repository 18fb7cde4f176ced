"""The lock of a promotion: one holder over processes, given back at the end, broken by a person only."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rival_promotion import RIVALS, make_models, race

from vavl.errors import InputError, TrackingError
from vavl.promotion.promotion_lock import (
    LockHolder,
    LockSettings,
    break_lock,
    lock_holder,
    lock_name,
    promotion_lock,
)
from vavl.tracking.settings import TrackingSettings

NO_WAIT = LockSettings(wait_seconds=0)


@pytest.fixture
def model(tracking_client: Any, request: pytest.FixtureRequest) -> str:
    """A name of the test's own in the shared store; the lock needs no model behind it."""
    return request.node.name


def leave_behind(client: Any, model: str, **changes: Any) -> LockHolder:
    """Make the lock that a process left which was killed."""
    holder = replace(LockHolder.this_process(), **changes)
    client.create_registered_model(lock_name(model), tags=holder.tags)
    return holder


def test_one_holds_it_and_the_next_one_may_have_it_afterwards(tracking_client: Any, model: str) -> None:
    with promotion_lock(tracking_client, model, NO_WAIT) as lock:
        lock.check()
        holder = lock_holder(tracking_client, model)
        assert holder is not None
        assert (holder.pid, holder.host, holder.state) == (os.getpid(), socket.gethostname(), "alive")
        with (
            pytest.raises(
                TrackingError, match=r"another promotion is at work: .* process \d+ .*alive"
            ) as fault,
            promotion_lock(tracking_client, model, NO_WAIT),
        ):
            pass
        assert "break_lock" not in fault.value.fix
    assert lock_holder(tracking_client, model) is None
    with promotion_lock(tracking_client, model, NO_WAIT):
        pass


def test_it_is_given_back_after_a_failure(tracking_client: Any, model: str) -> None:
    with pytest.raises(KeyError, match="lost"), promotion_lock(tracking_client, model, NO_WAIT):
        raise KeyError("lost")
    assert lock_holder(tracking_client, model) is None


def test_a_lock_left_behind_stays_until_a_person_breaks_it(tracking_client: Any, model: str) -> None:
    left = leave_behind(tracking_client, model, pid=2**22 + 1)  # above what Linux gives to processes
    with (
        pytest.raises(TrackingError, match="gone") as fault,
        promotion_lock(tracking_client, model, NO_WAIT),
    ):
        pass
    assert f"break_lock={left.token}" in fault.value.fix
    with pytest.raises(InputError, match="there is no lock other; now: ") as refused:
        break_lock(tracking_client, model, "other")
    assert f"break_lock={left.token}" in refused.value.fix
    assert break_lock(tracking_client, model, left.token) == left
    with promotion_lock(tracking_client, model, NO_WAIT):
        pass
    with pytest.raises(InputError, match=f"there is no lock {left.token}; now: free"):
        break_lock(tracking_client, model, left.token)


@pytest.mark.parametrize(("minutes", "may_be_broken"), [(1, False), (11, True)])
def test_a_lock_of_another_machine_counts_as_left_behind_by_its_age(
    tracking_client: Any, model: str, minutes: float, may_be_broken: bool
) -> None:
    leave_behind(tracking_client, model, host="elsewhere", time=time.time() - 60 * minutes)
    with (
        pytest.raises(TrackingError, match="on elsewhere") as fault,
        promotion_lock(tracking_client, model, NO_WAIT),
    ):
        pass
    assert ("break_lock=" in fault.value.fix) is may_be_broken


def test_a_living_holder_cannot_be_broken(tracking_client: Any, model: str) -> None:
    living = leave_behind(tracking_client, model)
    with pytest.raises(InputError, match="is held by a living process"):
        break_lock(tracking_client, model, living.token)


def test_a_broken_lock_moves_nothing(tracking_client: Any, model: str) -> None:
    with promotion_lock(tracking_client, model, NO_WAIT) as lock:
        tracking_client.delete_registered_model(lock_name(model))
        thief = leave_behind(tracking_client, model, host="elsewhere")
        with pytest.raises(
            TrackingError, match=r"the lock of this promotion was broken; now: .* on elsewhere"
        ):
            lock.check()
    # The end of the block leaves the other's lock alone.
    assert lock_holder(tracking_client, model) == thief


def test_a_request_that_was_repeated_finds_its_own_lock(
    tracking_client: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = type(tracking_client).create_registered_model

    def twice(client: Any, *words: Any, **more: Any) -> Any:
        create(client, *words, **more)
        return create(client, *words, **more)

    monkeypatch.setattr(type(tracking_client), "create_registered_model", twice)
    with promotion_lock(tracking_client, model, NO_WAIT) as lock:
        lock.check()


def test_two_processes_cannot_both_win(
    private_tracking: TrackingSettings, client_of: Callable[[TrackingSettings], Any], tmp_path: Path
) -> None:
    client = client_of(private_tracking)
    models = [f"rivals-{number}" for number in range(8)]
    make_models(client, models)
    second, third = race(str(private_tracking.uri), models, tmp_path)
    for model in models:
        answers = dict(zip(RIVALS, (second[model], third[model]), strict=True))
        winner = str(client.get_registered_model(model).aliases["champion"])
        assert answers.pop(winner) == "won"
        assert list(answers.values()) == [f"is version {winner} now, the challenger was compared with 1"]
        assert lock_holder(client, model) is None
