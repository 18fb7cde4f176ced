"""Read a YAML file with dotted overrides into a settings class; report every fault at once."""

from __future__ import annotations

import os
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vavl.config.base import FrozenConfig
from vavl.config.places import root_folder
from vavl.config.plugins import hint
from vavl.config.yaml_text import parse_yaml
from vavl.errors import ConfigError

Settings = TypeVar("Settings", bound=FrozenConfig)

_MOST_BYTES = 4 << 20
_CREDENTIALS = re.compile(r"://[^/@\s]*@")
_SIGNATURE = re.compile(r"(://[^\s'\"?#]*)([?#])[^\s'\"]*")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def read_config(settings: type[Settings], path: Path | str, overrides: Sequence[str] = ()) -> Settings:
    """Read ``path``, apply ``dotted.key=value`` overrides and validate.

    ``${NAME}`` and ``${NAME:-default}`` in a text value are taken from the environment. Settings with a
    ``folder_key`` may be given a directory, a file of one of their own kinds, or an address as a text, instead.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds wrong settings; every fault is
            listed with its dotted key, and an unknown key with the nearest known name.
    """
    folder = _folder_meant(settings, path) if settings.folder_key else None
    content = {str(settings.folder_key): str(folder)} if folder else read_yaml_mapping(Path(path))
    for override in overrides:
        _apply_override(content, override)
    return validate(settings, content, source=str(path))


def validate(settings: type[Settings], content: Mapping[str, Any], source: str) -> Settings:
    """Validate ``content`` as ``settings``; ``source`` names the file in messages.

    Raises:
        ConfigError: with all faults.
    """
    missing: list[str] = []
    expanded = _expand_variables(content, missing)
    if missing:
        names = ", ".join(sorted(set(missing)))
        raise ConfigError(
            source, names, "environment variable not set", f"set it first: export {names.split(', ')[0]}=VALUE"
        )
    try:
        return settings.model_validate(expanded)
    except ValidationError as fault:
        lines = [_describe(settings, error) for error in fault.errors()]
        problem = f"{len(lines)} wrong setting{'s' if len(lines) > 1 else ''}\n" + "\n".join(
            f"  - {line}" for line in lines
        )
        raise ConfigError(source, "", problem, "correct the keys above; --help lists all settings") from None


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping at its top.

    Raises:
        ConfigError: missing file, broken YAML or another top-level type.
    """
    try:
        if path.is_fifo() or path.is_socket() or path.is_char_device():
            raise ConfigError(str(path), "", "not a regular file", "write the settings into a file")
        with path.open("rb") as stream:
            read = stream.read(_MOST_BYTES + 1)
    except OSError as fault:
        raise ConfigError(str(path), "", f"cannot be read: {fault.strerror or fault}", "check the path") from None
    if len(read) > _MOST_BYTES:
        raise ConfigError(str(path), "", f"larger than {_MOST_BYTES} bytes", "check that it is the right file")
    try:
        content = parse_yaml(read.decode("utf-8-sig"))
    except UnicodeDecodeError as fault:
        raise ConfigError(str(path), "", f"not UTF-8 text: {fault}", "save the file as UTF-8") from None
    except ValueError as fault:
        raise ConfigError(str(path), "", f"not valid YAML: {fault}", "correct the line named above") from None
    if not isinstance(content, dict):
        raise ConfigError(str(path), "", f"holds {type(content).__name__}, not a mapping", "write `key: value` lines")
    return content


def _folder_meant(settings: type[FrozenConfig], path: Path | str) -> Path | str | None:
    """Return the directory that ``path`` names, from the current directory or else from ``VAVL_ROOT``; or an address.

    A file counts like a directory where its ending is one that the settings take; also one that is not there.
    """
    if isinstance(path, str):
        return path
    places = [base / path for base in (Path.cwd(), root_folder()) if base is not None]
    if path.suffix.lower() in settings.folder_key_suffixes:
        return next((place for place in places if place.exists()), places[0])
    return next((place for place in places if place.is_dir()), None)


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError("command line", override, "not of the form dotted.key=value", "write e.g. data.fold=0")
    try:
        value = parse_yaml(text)
    except ValueError as fault:
        raise ConfigError("command line", key, f"value is not valid YAML: {fault}", "quote the value") from None
    *parents, leaf = key.split(".")
    place = content
    for parent in parents:
        if place.get(parent) is None:
            place[parent] = {}
        place = place[parent]
        if not isinstance(place, dict):
            raise ConfigError("command line", key, f"`{parent}` is not a section", "check the dotted key")
    place[leaf] = value


def _expand_variables(value: Any, missing: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _expand_variables(item, missing) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand_variables(item, missing) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        default: str | None = match[2]
        found = os.environ.get(match[1], default)
        if found is None:
            missing.append(match[1])
            return ""
        return found

    return _VARIABLE.sub(replace, value)


def _describe(settings: type[BaseModel], error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _known_keys(settings, error["loc"][:-1])
        return f"{key}: unknown key; {hint(str(error['loc'][-1]), known)}"
    # An address may hold a password: what is printed ends up in logs.
    found = "" if error["type"] == "missing" else without_secrets(f" (found {error['input']!r})")
    return f"{key}: {error['msg']}{found}"


def without_secrets(text: str) -> str:
    """Return ``text`` without the credentials and the signatures of the addresses in it."""
    return _SIGNATURE.sub(r"\1\2***", _CREDENTIALS.sub("://***@", text))


def _known_keys(settings: type[BaseModel], parents: Iterable[Any]) -> list[str]:
    """Names that the section at ``parents`` knows; several when the section may be of several types."""
    sections: list[type[BaseModel]] = [settings]
    for parent in parents:
        deeper = [model for section in sections for model in _models_of_field(section, parent)]
        # List positions and union tags are parts of the place that name no field.
        sections = deeper or sections
    return [name for section in sections for name in section.model_fields]


def _models_of_field(section: type[BaseModel], name: Any) -> list[type[BaseModel]]:
    field = section.model_fields.get(str(name))
    return list(models_in(field.annotation)) if field else []


def models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    """Yield the settings classes that a field's annotation names, within unions and collections too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, list, tuple, dict, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from models_in(part)
