"""Changes of a configuration that stand in another one."""

from __future__ import annotations

import pytest

from vavl.config.changes import leaves, with_changes
from vavl.errors import ConfigError

BASE = {"a": {"b": 1, "c": {"d": 2}}, "e": None}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"a.b": 5}, {"a": {"b": 5, "c": {"d": 2}}, "e": None}),
        ({"a": {"c.d": 3}}, {"a": {"b": 1, "c": {"d": 3}}, "e": None}),
        ({"a.c": None}, {"a": {"b": 1, "c": None}, "e": None}),
        ({"a.c": {}}, {"a": {"b": 1, "c": {}}, "e": None}),
        ({"e.f": 1}, {"a": {"b": 1, "c": {"d": 2}}, "e": {"f": 1}}),
        ({"a.b": 5, "a": {"b": 6}}, {"a": {"b": 6, "c": {"d": 2}}, "e": None}),
        ({}, BASE),
    ],
)
def test_dotted_keys_and_sections_mean_the_same(changes: dict[str, object], wanted: dict[str, object]) -> None:
    assert with_changes(BASE, changes, "here") == wanted
    assert BASE == {"a": {"b": 1, "c": {"d": 2}}, "e": None}


def test_a_value_is_no_section() -> None:
    with pytest.raises(ConfigError, match="`b` is not a section"):
        with_changes(BASE, {"a.b.c": 1}, "objective_sets.x")


def test_leaves_name_every_value() -> None:
    found = dict(leaves({"a.b": 1, "c": {"d": {"e.f": None}}}))
    assert found == {("a", "b"): 1, ("c", "d", "e", "f"): None}
