"""The resolved configuration of a run, as a file and as flat parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vavl.config.base import FrozenConfig
from vavl.config.files import write_text
from vavl.config.places import portable, root_folder


def save_config(config: FrozenConfig, path: Path) -> None:
    """Write the resolved settings as YAML; reading the file again gives an equal configuration."""
    write_text(path, settings_yaml(config))


def settings_yaml(config: FrozenConfig) -> str:
    """Return the resolved settings as YAML; places below ``VAVL_ROOT`` are relative to it."""
    return yaml.safe_dump(resolved_settings(config), sort_keys=False, allow_unicode=True)


def resolved_settings(config: FrozenConfig) -> dict[str, Any]:
    """Return the settings as nested plain values; places below ``VAVL_ROOT`` are relative to it."""
    return portable(config, root_folder()).model_dump(mode="json")


def flat_settings(config: FrozenConfig) -> dict[str, Any]:
    """Return the settings as one level of dotted keys, as tracking servers want them."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                visit(f"{prefix}.{key}" if prefix else key, item)
        else:
            flat[prefix] = value

    visit("", resolved_settings(config))
    return flat
