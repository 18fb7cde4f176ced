"""Aliases of a registered model: how they move, and how they come back."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest

from vavl.errors import InputError, PromotionError
from vavl.promotion.champion import Throne
from vavl.promotion.promotion_lock import HeldLock, LockSettings, promotion_lock


@pytest.fixture
def throne(tracking_client: Any, request: pytest.FixtureRequest) -> Throne:
    """A model of four versions without champion."""
    tracking_client.create_registered_model(request.node.name)
    for _ in range(4):
        tracking_client.create_model_version(request.node.name, source="made up")
    return Throne(tracking_client, request.node.name, "champion", "previous")


def locked(throne: Throne) -> AbstractContextManager[HeldLock]:
    return promotion_lock(throne.client, throne.model, LockSettings())


def crown(throne: Throne, *versions: str) -> None:
    for version in versions:
        with locked(throne) as lock:
            throne.crown(version, throne.champion(), lock)


def aliases(throne: Throne) -> dict[str, str]:
    found = throne.client.get_registered_model(throne.model).aliases
    return {name: str(version) for name, version in found.items()}


def test_the_first_champion_has_none_before_it(throne: Throne) -> None:
    assert throne.champion() is None
    assert throne.champions() == []
    crown(throne, "2")
    assert aliases(throne) == {"champion": "2"}
    with pytest.raises(InputError, match="version 2 is the first champion"), locked(throne) as lock:
        throne.roll_back(lock)


def test_rollbacks_walk_back_through_all_champions(throne: Throne) -> None:
    crown(throne, "1", "2", "3", "2")
    assert aliases(throne) == {"champion": "2", "previous": "3"}
    for left, now in (("2", "3"), ("3", "2"), ("2", "1")):
        with locked(throne) as lock:
            assert throne.roll_back(lock) == (left, now)
        assert throne.champion() == now
    assert aliases(throne) == {"champion": "1"}
    crown(throne, "4")
    assert throne.champions() == ["1", "4"]


def test_a_champion_that_has_changed_is_not_replaced(throne: Throne) -> None:
    crown(throne, "1", "2")
    with (
        pytest.raises(PromotionError, match="is version 2 now, the challenger was compared with 1") as fault,
        locked(throne) as lock,
    ):
        throne.crown("3", "1", lock)
    assert "compare again" in fault.value.fix
    assert aliases(throne) == {"champion": "2", "previous": "1"}
    with pytest.raises(PromotionError, match="compared with none"), locked(throne) as lock:
        throne.crown("3", None, lock)


def test_an_alias_moved_by_hand_is_the_champion(throne: Throne) -> None:
    crown(throne, "1", "2")
    throne.client.set_registered_model_alias(throne.model, "champion", "4")
    assert throne.champions() == ["1", "2", "4"]
    with locked(throne) as lock:
        assert throne.roll_back(lock) == ("4", "2")


def test_a_process_killed_between_list_and_alias_leaves_the_champion_that_people_load(throne: Throne) -> None:
    crown(throne, "1", "2")
    throne._list(["1", "2", "3"])
    assert throne.champions() == ["1", "2"]
    assert throne.previous() == "1"
    crown(throne, "4")
    assert throne.champions() == ["1", "2", "4"]


def test_a_deleted_version_is_passed_over(throne: Throne) -> None:
    crown(throne, "1", "2", "3")
    throne.client.delete_model_version(throne.model, "2")
    assert throne.previous() == "1"
    with locked(throne) as lock:
        assert throne.roll_back(lock) == ("3", "1")
    assert aliases(throne) == {"champion": "1"}


def test_an_unknown_model_is_named(tracking_client: Any) -> None:
    with pytest.raises(InputError, match="models:/nobody: there is no such registered model"):
        Throne(tracking_client, "nobody", "champion", "previous").champion()
