"""Aliases of a registered model: how they move, and how they come back."""

from __future__ import annotations

import time
from typing import Any

import pytest
from rival_promotion import champions_and_winners, make_models, race, reasons

from vavl.errors import InputError, PromotionError
from vavl.promotion.promotion import ModelAliases


@pytest.fixture
def model(tracking_client, request):
    """A model of four versions without champion."""
    tracking_client.create_registered_model(request.node.name)
    for _ in range(4):
        tracking_client.create_model_version(request.node.name, source="made up")
    return ModelAliases(tracking_client, request.node.name, "champion", "previous")


def promote(model: ModelAliases, *versions: str) -> None:
    for version in versions:
        model.move_to(version, model.champion())


def aliases(model: ModelAliases) -> dict[str, str]:
    found = model.client.get_registered_model(model.model).aliases
    return {name: str(version) for name, version in found.items()}


def test_the_first_champion_has_none_before_it(model):
    assert model.champion() is None
    assert model.champions() == []
    promote(model, "2")
    assert aliases(model) == {"champion": "2"}
    with pytest.raises(InputError, match="version 2 is the first champion"):
        model.roll_back()


def test_rollbacks_walk_back_through_all_champions(model):
    promote(model, "1", "2", "3", "2")
    assert aliases(model) == {"champion": "2", "previous": "3"}
    for left, now in (("2", "3"), ("3", "2"), ("2", "1")):
        assert model.roll_back() == (left, now)
        assert model.champion() == now
    assert aliases(model) == {"champion": "1"}
    promote(model, "4")
    assert model.champions() == ["1", "4"]


def test_a_champion_that_has_changed_is_not_replaced(model):
    promote(model, "1", "2")
    with pytest.raises(PromotionError, match="is version 2 now, the challenger was compared with 1") as fault:
        model.move_to("3", "1")
    assert "compare again" in fault.value.fix
    assert aliases(model) == {"champion": "2", "previous": "1"}
    with pytest.raises(PromotionError, match="compared with none"):
        model.move_to("3", None)


def test_an_alias_moved_by_hand_is_the_champion(model):
    promote(model, "1", "2")
    model.client.set_registered_model_alias(model.model, "champion", "4")
    assert model.champions() == ["1", "2", "4"]
    assert model.roll_back() == ("4", "2")


def test_a_process_killed_between_list_and_alias_leaves_the_champion_that_people_load(model):
    promote(model, "1", "2")
    model._list(["1", "2", "3"])
    assert model.champions() == ["1", "2"]
    assert model.previous() == "1"
    promote(model, "4")
    assert model.champions() == ["1", "2", "4"]


def test_a_deleted_version_is_passed_over(model):
    promote(model, "1", "2", "3")
    model.client.delete_model_version(model.model, "2")
    assert model.previous() == "1"
    assert model.roll_back() == ("3", "1")
    assert aliases(model) == {"champion": "1"}


def test_an_unknown_model_is_named(tracking_client):
    with pytest.raises(InputError, match="models:/nobody: there is no such registered model"):
        ModelAliases(tracking_client, "nobody", "champion", "previous").champion()


def test_two_moves_at_once_are_a_conflict_that_moves_nothing(model):
    promote(model, "1")
    with model._moving("2"):
        with pytest.raises(PromotionError, match="is being moved to version 2 at this moment"):
            model.move_to("3", "1")
        while_two_moves = aliases(model)
        model.client.set_registered_model_alias(model.model, "champion", "2")
    assert while_two_moves == {"champion": "1"}
    model.move_to("3", "2")
    assert aliases(model) == {"champion": "3", "previous": "2"}


def test_an_announcement_that_a_killed_process_left_is_passed_over(model):
    promote(model, "1")
    model.client.set_model_version_tag(model.model, "2", "vavl.alias_moves", repr(time.time() - 601))
    promote(model, "3")
    assert model.champion() == "3"


def test_an_alias_that_somebody_else_sets_at_the_same_moment_is_told(model, monkeypatch):
    promote(model, "1")
    point = ModelAliases._point

    def point_and_lose(self: ModelAliases, champions: list[str]) -> None:
        point(self, champions)
        self.client.set_registered_model_alias(self.model, self.alias, "4")

    monkeypatch.setattr(ModelAliases, "_point", point_and_lose)
    with pytest.raises(PromotionError, match="was moved to version 4 by somebody else"):
        model.move_to("2", "1")


def test_a_rollback_that_somebody_else_has_made_meanwhile_goes_no_further(model, monkeypatch):
    promote(model, "1", "2", "3")
    ways = iter([["1", "2"], ["1"]])
    monkeypatch.setattr(ModelAliases, "after_rollback", lambda self: next(ways))
    with pytest.raises(PromotionError, match="by somebody else"):
        model.roll_back()
    assert model.champion() == "3"


def test_an_announcement_that_cannot_be_withdrawn_changes_no_decision(model, monkeypatch):
    from mlflow.exceptions import MlflowException

    def away(*_: Any) -> None:
        raise MlflowException("away")

    monkeypatch.setattr(type(model.client), "delete_model_version_tag", away)
    model.move_to("2", None)
    assert model.champion() == "2"


def test_two_processes_cannot_both_win(private_tracking, client_of, tmp_path):
    client = client_of(private_tracking)
    models = [f"rivals-{number}" for number in range(8)]
    make_models(client, models)
    said = race(str(private_tracking.uri), models, tmp_path)
    champions, winners = champions_and_winners(client, models, said)
    assert champions == winners  # one won at most
    assert all("is version" in text or "is being moved" in text for text in reasons(said)), said
