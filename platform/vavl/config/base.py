"""The base of every settings class."""

from __future__ import annotations

from collections.abc import Set
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class FrozenConfig(BaseModel):
    """Settings that cannot change after they were read, and that refuse unknown keys.

    Bounds belong in the field (``Field(gt=0)``), units in the name (``hop_ms``), the meaning in
    ``Field(description=...)``: ``--help`` and the error messages print them.
    """

    folder_key: ClassVar[str | None] = None
    """Key of a job's setting that a directory on the command line gives; None: it takes a file only."""

    folder_key_suffixes: ClassVar[Set[str]] = frozenset()
    """Endings of files, in lower case, that the command line takes for ``folder_key`` as well, e.g. ``.mp4``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)
