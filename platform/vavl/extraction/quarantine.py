"""Clips that could not be read: a list with reasons beside the store."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from vavl.config.files import write_text
from vavl.errors import ClipError, InputError

FILE_NAME = "quarantine.jsonl"


@dataclass(frozen=True)
class Quarantined:
    """One modality of one clip that is left out of the store.

    Attributes:
        clip_id: of the manifest.
        modality: "audio" or "video"; the clip's other modality is not touched.
        file: relative to the corpus folder.
        reason: what a person should know.
        exception: type and text of the fault underneath.
    """

    clip_id: str
    modality: str
    file: str
    reason: str
    exception: str

    @classmethod
    def of(cls, clip_id: str, modality: str, file: str, fault: Exception) -> Self:
        """Describe a clip by the exception that its extraction raised."""
        reason = fault.problem if isinstance(fault, ClipError) else "unexpected fault of the extractor"
        cause = fault.__cause__ or fault
        text = cause.problem if isinstance(cause, ClipError) else str(cause)
        return cls(clip_id, modality, file, reason, f"{type(cause).__name__}: {text}")


def write_quarantine(folder: Path, quarantined: Iterable[Quarantined]) -> Path:
    """Write quarantine.jsonl, one record per line in the given order; an empty file when all is well."""
    path = folder / FILE_NAME
    write_text(
        path,
        "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in quarantined),
    )
    return path


def read_quarantine(folder: Path) -> list[Quarantined]:
    """Read quarantine.jsonl.

    Raises:
        InputError: the file is missing or broken.
    """
    path = folder / FILE_NAME
    try:
        lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        return [Quarantined(**line) for line in lines]
    except (OSError, ValueError, TypeError) as fault:
        raise InputError(
            str(path), "", f"not readable: {fault}", "run jobs/prepare_corpus.py CONFIG again"
        ) from None
