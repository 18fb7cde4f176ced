"""Changes of a configuration file that stand in another one."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from vavl.errors import ConfigError


def with_changes(content: Mapping[str, Any], changes: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return a copy of ``content`` with ``changes`` applied in their order.

    Args:
        content: a configuration as nested mappings.
        changes: dotted keys or nested mappings, mixed as one likes; null switches a section off.
        source: where the changes stand, for messages.

    Raises:
        ConfigError: a key leads through a value that is no section.
    """
    changed = copy.deepcopy(dict(content))
    for keys, value in leaves(changes):
        place = changed
        for key in keys[:-1]:
            if place.get(key) is None:
                place[key] = {}
            place = place[key]
            if not isinstance(place, dict):
                raise ConfigError(source, ".".join(keys), f"`{key}` is not a section", "check the dotted key")
        place[keys[-1]] = copy.deepcopy(value)
    return changed


def value_at(content: Mapping[str, Any], path: str) -> Any:
    """Return what stands at a dotted path of nested mappings, None where nothing does."""
    value: Any = content
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def leaves(changes: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value that is no section, with the keys that lead to it; an empty section is a value."""
    for dotted, value in changes.items():
        keys = (*above, *str(dotted).split("."))
        if isinstance(value, Mapping) and value:
            yield from leaves(value, keys)
        else:
            yield keys, value
