"""YAML that somebody else wrote: plain values alone, no key twice, no size that explodes."""

from __future__ import annotations

from typing import Any

import yaml

_MOST_VALUES = 100_000
_MERGE = "tag:yaml.org,2002:merge"


def parse_yaml(text: str) -> Any:
    """Return the plain value of a YAML text; tags that build other objects are refused.

    Raises:
        ValueError: not YAML, a key stands twice, an anchor refers to itself, nested too deeply, or more
            than 100,000 values when its anchors are written out.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as fault:
        raise ValueError(str(fault)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _count_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values ``node`` holds with its anchors written out.

    Args:
        node: to look at.
        known: counts of the nodes seen so far by identity; 0 while a node's own count is not complete.
    """
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError(f"an anchor refers to itself{_line(node)}")
        return known[id(node)]
    known[id(node)] = 0
    total = 1
    for child in _children(node):
        total += _count_values(child, known)
        if total > _MOST_VALUES:
            raise ValueError(f"more than {_MOST_VALUES} values{_line(node)}: anchors that refer to anchors?")
    known[id(node)] = total
    return total


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
            if (key.tag, key.value) in seen:
                raise ValueError(f"the key `{key.value}` stands twice{_line(key)}")
            seen.add((key.tag, key.value))
    return [part for pair in node.value for part in pair]


def _line(node: yaml.Node) -> str:
    return f" in line {node.start_mark.line + 1}" if node.start_mark else ""
