"""The parts of an extraction, and what a message says of one that was begun otherwise."""

from __future__ import annotations

import pyarrow as pa

from vavl.extraction.plan import part_bounds
from vavl.features import changed_settings


def parts_of(ids: list[str], clips: int | None = None) -> list[tuple[str, ...]]:
    column = pa.chunked_array([ids], pa.string())
    return [tuple(ids[start:end]) for start, end in part_bounds(column, clips or len(ids))]


def test_parts_hold_every_clip_once_and_are_neither_tiny_nor_huge():
    ids = [f"clip_{number:05d}" for number in range(5000)]
    parts = parts_of(ids)
    assert [clip_id for part in parts for clip_id in part] == ids
    lengths = [len(part) for part in parts[:-1]]
    assert min(lengths) >= 16
    assert max(lengths) <= 256
    assert 40 < sum(lengths) / len(lengths) < 120
    assert parts_of([]) == []


def test_a_new_clip_changes_the_parts_around_it_alone():
    ids = [f"clip_{number:05d}" for number in range(1140)]
    before, after = set(parts_of(ids)), set(parts_of(sorted([*ids, "clip_00500_b"])))
    assert len(before) > 20
    assert len(before - after) <= 2
    assert len(after - before) <= 3


def test_parts_of_a_large_corpus_are_large():
    ids = [f"clip_{number:05d}" for number in range(1000)]
    assert len(parts_of(ids, clips=200_000)) < len(parts_of(ids)) / 4


def test_hundreds_of_channel_names_do_not_hide_the_setting_that_changed():
    old = {"extractor": "log_mel", "settings": {"hop_ms": 20.0}, "channels": ["a", "b"]}
    new = {"extractor": "log_mel", "settings": {"hop_ms": 10.0}, "channels": [f"c{n}" for n in range(400)]}
    found = changed_settings(old, new)
    assert "hop_ms 20.0 -> 10.0" in found
    assert "channels ['a', 'b'] -> (400 entries)" in found
