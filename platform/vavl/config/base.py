"""The base of every settings class."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class FrozenConfig(BaseModel):
    """Settings that cannot change after they were read, and that refuse unknown keys.

    Bounds belong in the field (``Field(gt=0)``), units in the name (``hop_ms``), the meaning in
    ``Field(description=...)``: ``--help`` and the error messages print them.
    """

    directory_key: ClassVar[str | None] = None
    """Key of a job's setting that a directory on the command line gives; None: it takes a file only."""

    directory_key_suffixes: ClassVar[Set[str]] = frozenset()
    """Endings of files, in lower case, that the command line takes for ``directory_key`` as well, e.g. ``.mp4``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


COUNTS_IF_USED = "counts for a hash if it is used"
"""Marks a field that came after its class: ``Annotated[int | None, COUNTS_IF_USED]``; see ``counted``."""


def counted(settings: FrozenConfig) -> dict[str, Any]:
    """Return the settings in plain values for a hash: fields marked ``COUNTS_IF_USED`` only where not the default.

    So a field that is added later leaves the hashes of earlier configurations as they are.
    """
    content = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if COUNTS_IF_USED in field.metadata and value == field.default:
            del content[name]
        elif isinstance(value, FrozenConfig):
            content[name] = counted(value)
        elif isinstance(value, dict):
            content[name] |= {key: counted(one) for key, one in value.items() if isinstance(one, FrozenConfig)}
    return content
