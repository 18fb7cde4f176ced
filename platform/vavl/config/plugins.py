"""Plug-ins: objectives and extractors that other installed distributions bring, found by Python entry points.

Nothing is imported before a configuration, a store or a model names it.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Any, TypeVar

from vavl.config.base import FrozenConfig

Plugin = TypeVar("Plugin")


def load_plugin(group: str, name: str, kind: type[Plugin], known: Collection[str] = ()) -> Plugin:
    """Return what the entry point ``name`` of ``group`` holds.

    Args:
        group: of entry points, e.g. ``vavl.objectives``.
        name: of the entry point.
        kind: class of what it has to hold.
        known: names that the package itself has, for the message.

    Raises:
        ValueError: there is none of this name, there are several, the name is no identifier, or it cannot be
            imported; pydantic names the key.
    """
    entry = _entry(group, name, known)
    try:
        found = entry.load()
    except Exception as error:  # a module of somebody else may raise anything
        raise ValueError(f"the plug-in {entry.value} of {_origin(entry)} cannot be imported: {error!r}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{entry.value} of {_origin(entry)} is {found!r}, not an object of {kind.__name__}")
    return found


def plugin_distribution(group: str, name: str) -> str:
    """Return the name of the distribution that brings a plug-in, as pip takes it; raises as ``load_plugin``."""
    return _origin(_entry(group, name, ()))


def missing_plugin(provenance: Mapping[str, Any]) -> str | None:
    """Say which distribution features need that is not installed here; None where nothing is missing.

    Args:
        provenance: ``extractor`` and ``settings``, as a store or a model keeps them.
    """
    settings = provenance.get("settings", {})
    if parts := settings.get("parts"):
        return next(filter(None, map(missing_plugin, parts)), None)
    distribution = settings.get("distribution")
    if distribution is None:
        return None
    try:
        version(distribution)
    except PackageNotFoundError:
        return f"are made by the plug-in `{provenance['extractor']}` of {distribution}, which is not installed here"
    return None


def check_keys(settings: type[FrozenConfig], content: Any, name: str) -> None:
    """Refuse keys that the settings of the plug-in ``name`` do not have; the nearest one is named.

    Raises:
        ValueError: ``content`` is a mapping with such a key.
    """
    for key in sorted(content.keys() - settings.model_fields.keys()) if isinstance(content, dict) else ():
        raise ValueError(f"{name}.{key}: unknown key; {hint(str(key), settings.model_fields)}")


def hint(name: str, known: Iterable[str]) -> str:
    """Say which known name an unknown one may mean."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(names)}"


def _entry(group: str, name: str, known: Collection[str]) -> EntryPoint:
    installed = entry_points(group=group)
    found = [entry for entry in installed if entry.name == name]
    if not found:
        plugins = ", ".join(sorted({f"{entry.name} ({_origin(entry)})" for entry in installed})) or "none"
        problem = f"`{name}` is not known; {hint(name, [*known, *installed.names])}"
        raise ValueError(f"{problem.removesuffix('; known here: ')}; installed plug-ins ({group}): {plugins}")
    if len({entry.value for entry in found}) > 1:
        origins = ", ".join(sorted(map(_origin, found)))
        raise ValueError(f"several distributions bring a plug-in `{name}` ({group}): {origins}; uninstall all but one")
    if not name.isidentifier():  # it stands in names of metrics, files and settings
        raise ValueError(
            f"the entry point `{name}` ({group}) of {_origin(found[0])} has no name of letters, digits and _; rename "
            "it in the pyproject.toml of that distribution"
        )
    return found[0]


def _origin(entry: EntryPoint) -> str:
    return "an unknown distribution" if entry.dist is None else entry.dist.name
