"""YAML of somebody else: what it may hold, and what is refused before it costs time or memory."""

from __future__ import annotations

import os
import re

import pytest

from vavl.config.load import read_yaml_mapping
from vavl.config.yaml_text import parse_yaml
from vavl.errors import ConfigError


def bomb(levels: int = 12) -> str:
    """Nine to the power of ``levels`` values in a few lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join(lines)


def test_plain_values_and_small_anchors_are_read():
    assert parse_yaml("a: &x [1, 2]\nb: *x\nc: {d: null}") == {"a": [1, 2], "b": [1, 2], "c": {"d": None}}
    assert parse_yaml("base: &b {a: 1}\nown: {<<: *b, c: 2}")["own"] == {"a": 1, "c": 2}
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (bomb(), "more than 100000 values"),
        ("a: &a [*a]", "an anchor refers to itself in line 1"),
        ("a: &a {b: {c: *a}}", "an anchor refers to itself"),
        ("a: 1\nb: 2\na: 3", "the key `a` stands twice in line 3"),
        ("b:\n  {c: 1, c: 1}", "the key `c` stands twice in line 2"),
        ("[" * 3000, "nested too deeply"),
        ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("a: !other 1", "could not determine a constructor"),
        ("a: 2026-13-45", "month must be"),
        ("a: " + "9" * 5000, "Exceeds the limit"),
        ("a: [", "expected the node content"),
        ("a: 1\n--- \nb: 2", "another document"),
        ("{[1, 2]: 3}", "unhashable key"),
        ("a: b\0c", "special characters"),
    ],
)
def test_what_no_card_needs_is_refused(text, problem):
    with pytest.raises(ValueError, match=re.escape(problem)):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("name: Björn".encode("latin-1"), "not UTF-8 text"),
        ("name: x".encode("utf-16"), "not UTF-8 text"),
        (b"name: x\n" + b"#" * (4 << 20), "larger than 4194304 bytes"),
        (b"- a", "holds list, not a mapping"),
        (b"", "holds NoneType, not a mapping"),
    ],
)
def test_a_file_that_is_no_mapping_of_text_is_refused_by_its_name(tmp_path, content, problem):
    path = tmp_path / "card.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_yaml_mapping(path)
    assert caught.value.file == str(path)


def test_a_pipe_named_like_a_card_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "card.yaml")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_yaml_mapping(tmp_path / "card.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "card.yaml").write_bytes(b"\xef\xbb\xbfname: x\r\n")
    assert read_yaml_mapping(tmp_path / "card.yaml") == {"name": "x"}
