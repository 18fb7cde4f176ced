"""Where the paths of a configuration count from, and which files it may name.

Results, stores and corpora count from the directory named by ``VAVL_ROOT``, by default the current one: a job
that was submitted to Ray runs in a temporary copy of the project. Cards and configurations belong to the
project and count from the current directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from vavl.config.base import FrozenConfig
from vavl.errors import ConfigError

Settings = TypeVar("Settings", bound=FrozenConfig)

ROOT_VARIABLE = "VAVL_ROOT"
CACHE_VARIABLE = "VAVL_CACHE"
"""Environment variable: the directory for copies of stores, runs and models that lie at addresses."""
# Set by Ray for the process that a job was submitted as.
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# Also with one slash: what a path makes of an address.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


@dataclass(frozen=True)
class _Place:
    """A mark in the annotation of a path setting: ``Annotated[Path, FROM_ROOT]``.

    A setting that takes paths only refuses addresses: ``Path("s3://bucket/run")`` is a directory named ``s3:``.
    """

    meaning: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Put the refusal before the validation of a path."""
        schema = handler(source)
        if source is not Path and set(get_args(source)) != {Path, type(None)}:
            return schema
        return core_schema.no_info_before_validator_function(_refuse_address, schema)


FROM_ROOT = _Place("result, store or corpus; counts from VAVL_ROOT")
FROM_PROJECT = _Place("file of the project; counts from the current directory and may not lie outside")


def root_directory(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the directory that results and stores count from, None for the current one.

    Raises:
        ConfigError: ``VAVL_ROOT`` is not an absolute path; workers run in another directory.
    """
    named = environment.get(ROOT_VARIABLE)
    if not named:
        return None
    if not Path(named).is_absolute():
        raise ConfigError(
            "environment", ROOT_VARIABLE, f"{named} is not absolute", f"export {ROOT_VARIABLE}=/directory"
        )
    return Path(named)


def is_lost_with_the_job(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether relative results would go into the temporary directory of a submitted job."""
    return _SUBMITTED in environment and not environment.get(ROOT_VARIABLE)


def anchored(config: Settings, root: Path | None) -> Settings:
    """Return the settings with every path marked ``FROM_ROOT`` counted from ``root``; addresses stay."""

    def below_root(path: Any) -> Any:
        is_address = "://" in str(path)
        # A text stays a text, a path a path.
        return path if root is None or is_address else type(path)(os.fspath(root / path))

    return _with_places(config, below_root)


def portable(config: Settings, root: Path | None) -> Settings:
    """Return the settings with the paths below ``root`` relative again, as they are saved with a run."""

    def relative(path: Any) -> Any:
        if root is None or not Path(path).is_relative_to(root):
            return path
        return type(path)(os.fspath(Path(path).relative_to(root)))

    return _with_places(config, relative)


def check_project_files(
    config: FrozenConfig, source: Path, overrides: Sequence[str] = (), root: Path | None = None
) -> None:
    """Refuse files marked ``FROM_PROJECT`` that lie elsewhere, links followed.

    Allowed are the current directory, the directory of the configuration and ``root``. What stands on the
    command line was said by the person who starts the job, and is not checked.

    Args:
        config: the settings.
        source: the file that they were read from.
        overrides: ``dotted.key=value`` of the command line.
        root: directory that results count from.

    Raises:
        ConfigError: names the key and the place that it leads to.
    """
    said = {override.partition("=")[0] for override in overrides}
    directories = [directory.resolve() for directory in (Path.cwd(), source.parent, root) if directory is not None]
    for key, path in _marked(config, FROM_PROJECT):
        is_below = path is not None and any(Path(path).resolve().is_relative_to(one) for one in directories)
        if path is not None and key not in said and not is_below:
            problem = f"{path} leads to {Path(path).resolve()}, outside the directories that a configuration may read"
            fix = f"put the file below {directories[0]} or next to the configuration, or say it yourself: {key}={path}"
            raise ConfigError(str(source), key, problem, fix)


def marked_settings(settings: type[BaseModel], mark: _Place, above: str = "") -> Iterator[str]:
    """Yield the dotted keys of the settings that carry ``mark``."""
    for name, field in settings.model_fields.items():
        if mark in field.metadata:
            yield f"{above}{name}"
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from marked_settings(field.annotation, mark, f"{above}{name}.")


def _refuse_address(value: Any) -> Any:
    if isinstance(value, (str, Path)) and _ADDRESS.match(str(value)):
        raise ValueError(
            "is an address, and this setting takes a path of this machine; write a path, e.g. runs/demo "
            "(addresses are for stores and for the output_dir of train_model)"
        )
    return value


def _marked(config: FrozenConfig, mark: _Place) -> Iterator[tuple[str, Any]]:
    for key in marked_settings(type(config), mark):
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        yield key, value


def _with_places(config: Settings, change: Callable[[Any], Any]) -> Settings:
    updates: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if FROM_ROOT in field.metadata and value is not None:
            is_many = isinstance(value, tuple)
            updates[name] = tuple(change(one) for one in value) if is_many else change(value)
        elif isinstance(value, FrozenConfig):
            updates[name] = _with_places(value, change)
        elif isinstance(value, tuple):
            updates[name] = tuple(_with_places(one, change) if isinstance(one, FrozenConfig) else one for one in value)
    return config.model_copy(update=updates)
