"""A model that a journal records, and what registers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelNote:
    """A model folder to register.

    Attributes:
        folder: holds model.json and model.safetensors.
        name: registered model.
        record: names the journal record; registering the same record again gives the same version, and so
            does another record of the same run with the same files: a run whose process died between the
            registration and its end records its model a second time.
        tags: facts shown with the version (hashes, metrics, split protocol, label target).
    """

    folder: Path
    name: str
    record: str
    tags: Mapping[str, Any] = field(default_factory=dict)


Register = Callable[[Any, str, ModelNote], str]
"""Registers a model as an output of a run: client, MLflow's run id, model -> version. See ``vavl.serving.registry``."""
