"""Aliases of a registered model: how they move, and how they come back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rival_promotion import check_race, make_models, race

from vavl.errors import InputError, PromotionError
from vavl.promotion.champion import Throne
from vavl.tracking.settings import TrackingSettings


@pytest.fixture
def throne(tracking_client: Any, request: pytest.FixtureRequest) -> Throne:
    """A model of four versions without champion."""
    tracking_client.create_registered_model(request.node.name)
    for _ in range(4):
        tracking_client.create_model_version(request.node.name, source="made up")
    return Throne(tracking_client, request.node.name, "champion", "previous")


def crown(throne: Throne, *versions: str) -> None:
    for version in versions:
        throne.crown(version, throne.champion())


def aliases(throne: Throne) -> dict[str, str]:
    found = throne.client.get_registered_model(throne.model).aliases
    return {name: str(version) for name, version in found.items()}


def test_the_first_champion_has_none_before_it(throne: Throne) -> None:
    assert throne.champion() is None
    assert throne.champions() == []
    crown(throne, "2")
    assert aliases(throne) == {"champion": "2"}
    with pytest.raises(InputError, match="version 2 is the first champion"):
        throne.roll_back()


def test_rollbacks_walk_back_through_all_champions(throne: Throne) -> None:
    crown(throne, "1", "2", "3", "2")
    assert aliases(throne) == {"champion": "2", "previous": "3"}
    for left, now in (("2", "3"), ("3", "2"), ("2", "1")):
        assert throne.roll_back() == (left, now)
        assert throne.champion() == now
    assert aliases(throne) == {"champion": "1"}
    crown(throne, "4")
    assert throne.champions() == ["1", "4"]


def test_a_champion_that_has_changed_is_not_replaced(throne: Throne) -> None:
    crown(throne, "1", "2")
    with pytest.raises(PromotionError, match="is version 2 now, the challenger was compared with 1") as fault:
        throne.crown("3", "1")
    assert "compare again" in fault.value.fix
    assert aliases(throne) == {"champion": "2", "previous": "1"}
    with pytest.raises(PromotionError, match="compared with none"):
        throne.crown("3", None)


def test_an_alias_moved_by_hand_is_the_champion(throne: Throne) -> None:
    crown(throne, "1", "2")
    throne.client.set_registered_model_alias(throne.model, "champion", "4")
    assert throne.champions() == ["1", "2", "4"]
    assert throne.roll_back() == ("4", "2")


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
    assert throne.roll_back() == ("3", "1")
    assert aliases(throne) == {"champion": "1"}


def test_an_unknown_model_is_named(tracking_client: Any) -> None:
    with pytest.raises(InputError, match="models:/nobody: there is no such registered model"):
        Throne(tracking_client, "nobody", "champion", "previous").champion()


def test_two_moves_at_once_are_a_conflict_that_moves_nothing(throne: Throne) -> None:
    crown(throne, "1")
    with throne._moving("2"):
        with pytest.raises(PromotionError, match="is being moved to version 2 at this moment"):
            throne.crown("3", "1")
        crown_of_two = aliases(throne)
        throne.client.set_registered_model_alias(throne.model, "champion", "2")
    assert crown_of_two == {"champion": "1"}
    throne.crown("3", "2")
    assert aliases(throne) == {"champion": "3", "previous": "2"}


def test_an_announcement_that_a_killed_process_left_is_passed_over(throne: Throne) -> None:
    crown(throne, "1")
    throne.client.set_model_version_tag(throne.model, "2", "vavl.alias_moves", repr(time.time() - 601))
    crown(throne, "3")
    assert throne.champion() == "3"


def test_an_alias_that_somebody_else_sets_at_the_same_moment_is_told(
    throne: Throne, monkeypatch: Any
) -> None:
    crown(throne, "1")
    point = Throne._point

    def point_and_lose(self: Throne, champions: list[str]) -> None:
        point(self, champions)
        self.client.set_registered_model_alias(self.model, self.alias, "4")

    monkeypatch.setattr(Throne, "_point", point_and_lose)
    with pytest.raises(PromotionError, match="was moved to version 4 by somebody else"):
        throne.crown("2", "1")


def test_a_rollback_that_somebody_else_has_made_meanwhile_goes_no_further(
    throne: Throne, monkeypatch: Any
) -> None:
    crown(throne, "1", "2", "3")
    ways = iter([["1", "2"], ["1"]])
    monkeypatch.setattr(Throne, "way_back", lambda self: next(ways))
    with pytest.raises(PromotionError, match="by somebody else"):
        throne.roll_back()
    assert throne.champion() == "3"


def test_an_announcement_that_cannot_be_withdrawn_changes_no_decision(
    throne: Throne, monkeypatch: Any
) -> None:
    from mlflow.exceptions import MlflowException

    def away(*_: Any) -> None:
        raise MlflowException("away")

    monkeypatch.setattr(type(throne.client), "delete_model_version_tag", away)
    throne.crown("2", None)
    assert throne.champion() == "2"


def test_two_processes_cannot_both_win(
    private_tracking: TrackingSettings, client_of: Callable[[TrackingSettings], Any], tmp_path: Path
) -> None:
    client = client_of(private_tracking)
    models = [f"rivals-{number}" for number in range(8)]
    make_models(client, models)
    check_race(client, models, race(str(private_tracking.uri), models, tmp_path))
