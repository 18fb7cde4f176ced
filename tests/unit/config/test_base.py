"""What of settings counts for a hash."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vavl.config.base import COUNTS_IF_USED, FrozenConfig, counted


class Part(FrozenConfig):
    size: int = 1
    later: Annotated[int | None, COUNTS_IF_USED] = None


class Whole(FrozenConfig):
    part: Part = Part()
    named: Annotated[dict[str, Part], COUNTS_IF_USED] = Field({})
    other: Part | None = None


def test_a_field_that_came_later_counts_where_it_is_used():
    assert counted(Whole()) == {"part": {"size": 1}, "other": None}
    used = Whole(part=Part(later=2), named={"a": Part()}, other=Part(later=0))
    assert counted(used) == {
        "part": {"size": 1, "later": 2}, "named": {"a": {"size": 1}}, "other": {"size": 1, "later": 0}
    }  # fmt: skip
