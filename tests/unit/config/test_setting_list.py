"""The list of settings behind ``--help`` and ``jobs/configs/REFERENCE.md``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vavl.config.base import FrozenConfig
from vavl.config.setting_list import help_text, list_settings


class View(FrozenConfig):
    noise: float = Field(0.0, ge=0, lt=1, description="standard deviations")
    kind: Literal["a", "b"] = "a"


class Views(FrozenConfig):
    strong: View = View()
    weak: View = View()
    other: View = View(noise=0.5)
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, int] | None = None


def test_types_bounds_and_defaults_are_written_as_in_yaml():
    found = {one.key: (one.kind, one.default) for one in list_settings(Views)}
    assert found["strong.noise"] == ("float, >= 0, < 1", "0.0")
    assert found["strong.kind"] == ("a | b", "a")
    assert found["sizes"] == ("list of int", "[1, 2]")
    assert found["pair"] == ("[int, int] | null", "null")


def test_an_equal_section_is_named_and_not_repeated_while_one_with_other_defaults_is_listed():
    found = {one.key: one for one in list_settings(Views)}
    assert found["weak"].same_as == "strong"
    assert "weak.noise" not in found
    assert found["other.noise"].default == "0.5"
    assert "  weak.*  # as strong.*" in help_text(Views)
