"""Changes of a training configuration, as experiments state them: dotted keys or sections, mixed as one likes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from vavl.config.load import leaves


def _empty_for_null(value: Any) -> Any:
    # `name:` with nothing behind it changes nothing.
    return {} if value is None else value


Changes = Annotated[dict[str, Any], BeforeValidator(_empty_for_null)]


def is_prefix(first: str, second: str) -> bool:
    """Tell whether the setting ``second`` is ``first`` or lies in it."""
    return f"{second}.".startswith(f"{first}.")


def changes_of_own_keys(section: str, changes: Mapping[str, Any], own: Sequence[str], owner: str) -> Iterator[str]:
    """Yield what is wrong with every change of a setting that an experiment, ``owner``, gives its runs itself."""
    for keys, _ in leaves(changes):
        key = ".".join(keys)
        if any(is_prefix(one, key) for one in own):
            yield f"{section}: {key} belongs to the {owner} and cannot be changed here"
