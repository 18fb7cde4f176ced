"""The resolved configuration of a run, as a file and as flat parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vavl.config.base import FrozenConfig
from vavl.config.files import write_text


def save_config(config: FrozenConfig, path: Path) -> None:
    """Write the resolved settings as YAML; reading the file again gives an equal configuration."""
    write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def flat_settings(config: FrozenConfig) -> dict[str, Any]:
    """Return the settings as one level of dotted keys, as tracking servers want them."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                visit(f"{prefix}.{key}" if prefix else key, item)
        else:
            flat[prefix] = value

    visit("", config.model_dump(mode="json"))
    return flat
