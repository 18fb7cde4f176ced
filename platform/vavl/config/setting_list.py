"""The settings of a job as a list: for ``--help``, and for ``jobs/configs/REFERENCE.md``."""

from __future__ import annotations

import enum
import inspect
import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vavl.config.load import leaves, models_in, read_yaml_mapping

_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_PLAIN = {Path: "path", str: "text", type(None): "null"}


@dataclass(frozen=True)
class Setting:
    """One key a person may write."""

    key: str  # dotted, from the top of the file
    kind: str  # type and bounds, in words
    default: str  # as YAML, or "required"
    meaning: str  # one line; empty where the name says it
    section: type[BaseModel] | None = None  # settings class that this key opens, if it is a whole section
    same_as: str | None = None  # key of an earlier section with the same settings and defaults


def list_settings(
    settings: type[BaseModel], known: dict[tuple[type[BaseModel], str], str] | None = None
) -> list[Setting]:
    """Return all settings of a job; a section that was listed before is named once more and not repeated.

    ``known``: sections listed already, by class and defaults, with their names; those of this job are added.
    """
    return list(_settings(settings, None, "", {} if known is None else known))


def help_text(settings: type[BaseModel], config: Path | None = None) -> str:
    """Return the settings part of ``--help``: first what ``config`` sets, then all settings by section.

    Raises:
        ConfigError: ``config`` cannot be read.
    """
    lines: list[str] = []
    if config is not None:
        given = leaves(read_yaml_mapping(config))
        lines += [f"set in {config}:", *(f"  {'.'.join(keys)} = {_written(value)}" for keys, value in given), ""]
    lines.append("all settings (dotted key = default  # type; meaning):")
    heading = ""
    for one in list_settings(settings):
        top = one.key.partition(".")[0] if "." in one.key or one.section else "others"
        if top != heading:
            lines += ["", f"{top}:"]
            heading = top
        lines.append(f"  {_help_line(one)}")
    return "\n".join(lines)


def _help_line(one: Setting) -> str:
    if one.same_as is not None:
        return f"{one.key}.*  # as {one.same_as}.*" + (f"; {one.meaning}" if one.meaning else "")
    if one.default == "required":
        return f"{one.key}  # required; " + "; ".join(filter(None, (one.kind, one.meaning)))
    return f"{one.key} = {one.default}  # " + "; ".join(filter(None, (one.kind, one.meaning)))


def _settings(
    settings: type[BaseModel], instance: BaseModel | None, prefix: str, known: dict[tuple[type[BaseModel], str], str]
) -> Iterator[Setting]:
    for name, field in settings.model_fields.items():
        key = f"{prefix}{name}"
        value = getattr(instance, name) if instance is not None else _default(field)
        sections = list(dict.fromkeys(models_in(field.annotation)))
        meaning = field.description or _from_docstring(settings, field, sections)
        if not sections:
            yield Setting(key, _kind(field), _written(value), meaning)
            continue
        if not isinstance(value, BaseModel) and value is not ...:
            yield Setting(key, _kind(field), _written(value), meaning, sections[0])
        for section in sections:
            inner = value if isinstance(value, section) else None
            yield from _section(key, section, inner, meaning, known)


def _section(
    key: str,
    section: type[BaseModel],
    inner: BaseModel | None,
    meaning: str,
    known: dict[tuple[type[BaseModel], str], str],
) -> Iterator[Setting]:
    identity = section, _written(inner.model_dump(mode="json")) if inner is not None else ""
    if (same := known.get(identity)) is not None:
        yield Setting(key, "section", "", meaning, section, same)
        return
    known[identity] = key
    yield from _settings(section, inner, f"{key}.", known)


def _from_docstring(settings: type[BaseModel], field: FieldInfo, sections: list[type[BaseModel]]) -> str:
    """Say of a section what its class is for, and of the name that chooses a class what that class is for."""
    is_choice = typing.get_origin(field.annotation) is typing.Literal and len(typing.get_args(field.annotation)) == 1
    described = sections[0] if sections else settings if is_choice else None
    first = inspect.cleandoc(vars(described).get("__doc__") or "") if described is not None else ""
    return first.partition("\n\n")[0].partition(". ")[0].rstrip(".").replace("\n", " ")


def _default(field: FieldInfo) -> Any:
    return ... if field.is_required() else field.get_default(call_default_factory=True)


def _written(value: Any) -> str:
    """Return a default as a person would write it in YAML."""
    if value is ...:
        return "required"
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, str | Path):
        return str(value) or '""'
    return json.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _kind(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(one, name):g}"
        for one in field.metadata
        for name, sign in _BOUNDS.items()
        if isinstance(getattr(one, name, None), int | float)
    ]
    return ", ".join([_type_name(field.annotation), *bounds])


def _type_name(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(str(part) for part in parts)
    if origin is typing.Annotated:
        return _type_name(parts[0])
    kinds = list(dict.fromkeys(_type_name(part) for part in parts if part is not Ellipsis))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(kinds)
    if origin is tuple and Ellipsis not in parts:
        return f"[{', '.join(_type_name(part) for part in parts)}]"
    if parts:
        return f"{{{': '.join(kinds)}}}" if len(kinds) > 1 else f"list of {kinds[0]}"
    return _plain_name(annotation)


def _plain_name(annotation: Any) -> str:
    if not isinstance(annotation, type):
        return str(annotation)
    if issubclass(annotation, BaseModel):
        return "section"
    if issubclass(annotation, enum.Enum):
        return " | ".join(str(one.value) for one in annotation)
    return _PLAIN.get(annotation, annotation.__name__)
