"""Read a YAML file with dotted overrides into a settings class, naming all that is wrong; write settings back."""

from __future__ import annotations

import copy
import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from vavl.config.base import FrozenConfig
from vavl.config.files import write_text
from vavl.config.places import portable, root_directory
from vavl.config.plugins import hint
from vavl.errors import ConfigError

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
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _count_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values ``node`` holds with its anchors written out.

    ``known``: counts of the nodes seen so far by identity; 0 while a node's own count is not complete.
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
        _set(changed, keys, copy.deepcopy(value), source)
    return changed


def _set(content: dict[str, Any], keys: Sequence[str], value: Any, source: str) -> None:
    place = content
    for key in keys[:-1]:
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
        if not isinstance(place, dict):
            raise ConfigError(source, ".".join(keys), f"`{key}` is not a section", "check the dotted key")
    place[keys[-1]] = value


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


Settings = TypeVar("Settings", bound=FrozenConfig)

_MOST_BYTES = 4 << 20
_CREDENTIALS = re.compile(r"://[^/@\s]*@")
_SIGNATURE = re.compile(r"(://[^\s'\"?#]*)([?#])[^\s'\"]*")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def read_config(settings: type[Settings], path: Path | str, overrides: Sequence[str] = ()) -> Settings:
    """Read ``path``, apply ``dotted.key=value`` overrides and validate.

    ``${NAME}`` and ``${NAME:-default}`` in a text value are taken from the environment. Settings with a
    ``directory_key`` may be given a directory, a file of one of their own kinds, or an address as a text, instead.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds wrong settings; every error is
            listed with its dotted key, and an unknown key with the nearest known name.
    """
    directory = _directory_meant(settings, path) if settings.directory_key else None
    content = {str(settings.directory_key): str(directory)} if directory else read_yaml_mapping(Path(path))
    for override in overrides:
        _apply_override(content, override)
    return validate(settings, content, source=str(path))


def validate(settings: type[Settings], content: Mapping[str, Any], source: str) -> Settings:
    """Validate ``content`` as ``settings``; ``source`` names the file in messages.

    Raises:
        ConfigError: with all errors.
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
    except ValidationError as error:
        lines = [_describe(settings, one) for one in error.errors()]
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
    except OSError as error:
        raise ConfigError(str(path), "", f"cannot be read: {error.strerror or error}", "check the path") from None
    if len(read) > _MOST_BYTES:
        raise ConfigError(str(path), "", f"larger than {_MOST_BYTES} bytes", "check that it is the right file")
    try:
        content = parse_yaml(read.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "", f"not UTF-8 text: {error}", "save the file as UTF-8") from None
    except ValueError as error:
        raise ConfigError(str(path), "", f"not valid YAML: {error}", "correct the line named above") from None
    if not isinstance(content, dict):
        raise ConfigError(str(path), "", f"holds {type(content).__name__}, not a mapping", "write `key: value` lines")
    return content


def _directory_meant(settings: type[FrozenConfig], path: Path | str) -> Path | str | None:
    """Return the directory that ``path`` names, from the current directory or else from ``VAVL_ROOT``; or an address.

    A file counts like a directory where its ending is one that the settings take; also one that is not there.
    """
    if isinstance(path, str):
        return path
    places = [base / path for base in (Path.cwd(), root_directory()) if base is not None]
    if path.suffix.lower() in settings.directory_key_suffixes:
        return next((place for place in places if place.exists()), places[0])
    return next((place for place in places if place.is_dir()), None)


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError("command line", override, "not of the form dotted.key=value", "write e.g. data.fold=0")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ConfigError("command line", key, f"value is not valid YAML: {error}", "quote the value") from None
    _set(content, key.split("."), value, "command line")


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


def save_config(config: FrozenConfig, path: Path) -> None:
    """Write the resolved settings as YAML; reading the file again gives an equal configuration."""
    write_text(path, settings_yaml(config))


def settings_yaml(config: FrozenConfig) -> str:
    """Return the resolved settings as YAML; places below ``VAVL_ROOT`` are relative to it."""
    return yaml.safe_dump(resolved_settings(config), sort_keys=False, allow_unicode=True)


def resolved_settings(config: FrozenConfig) -> dict[str, Any]:
    """Return the settings as nested plain values; places below ``VAVL_ROOT`` are relative to it."""
    return portable(config, root_directory()).model_dump(mode="json")


def flat_settings(config: FrozenConfig) -> dict[str, Any]:
    """Return the settings as one level of dotted keys, as tracking servers want them."""
    return {".".join(keys): value for keys, value in leaves(resolved_settings(config))}
