"""The rows of a prediction: their columns, and one clip's answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from vavl.errors import VavlError
from vavl.features import MODALITIES
from vavl.metrics.names import CONDITIONS
from vavl.models.saved_model import Prediction
from vavl.models.settings import ClassTask, Task


@dataclass(frozen=True)
class Fault:
    """What is wrong with a clip or with one side of it.

    Attributes:
        side: "audio", "video", or empty for the whole clip.
        file: as the input names it.
        problem: for a person.
    """

    side: str
    file: str
    problem: str

    @classmethod
    def of(cls, side: str, file: str, fault: Exception) -> Fault:
        """Describe what was raised; anything but an error of ours is named by its class."""
        if isinstance(fault, VavlError):
            # The field of an error about a clip is its side, or "clip" where the time limit rang.
            return cls(fault.field if fault.field in MODALITIES else side, file, fault.problem)
        return cls(side, file, f"unexpected fault: {type(fault).__name__}: {fault}")

    def __str__(self) -> str:
        return f"{self.side}: {self.problem}" if self.side else self.problem


@dataclass(frozen=True)
class ClipAnswer:
    """Everything that is known of a clip after its turn.

    Attributes:
        key: of the clip and all that its prediction depends on.
        predictions: of each condition that was asked for and that the clip allows.
        faults: of the clip and its sides.
        seconds: length by side, where it is known.
    """

    key: str
    predictions: Sequence[Prediction]
    faults: Sequence[Fault]
    seconds: Mapping[str, float | None]


def value_columns(task: Task) -> tuple[str, ...]:
    """Return the names of the columns of numbers: ``probability_<class>``, or the attributes."""
    return (
        tuple(f"probability_{name}" for name in task.classes)
        if isinstance(task, ClassTask)
        else task.attributes
    )


def part_schema(task: Task) -> pa.Schema:
    """Return the columns of a part's file."""
    return pa.schema(
        [
            ("key", pa.string()),
            ("rank", pa.int8()),  # order of the rows of one clip
            ("condition", pa.string()),
            ("label", pa.string()),
            *((name, pa.float64()) for name in value_columns(task)),
            ("error", pa.string()),
            ("audio_seconds", pa.float64()),
            ("video_seconds", pa.float64()),
            ("faults", pa.string()),  # JSON
        ]
    )


def rows_of(answer: ClipAnswer, task: Task) -> list[dict[str, Any]]:
    """Return the rows of a clip: one for each prediction, or one that says why there is none."""
    common = {
        "key": answer.key,
        "error": "; ".join(map(str, answer.faults)) or None,
        "audio_seconds": answer.seconds.get("audio"),
        "video_seconds": answer.seconds.get("video"),
        "faults": json.dumps([asdict(fault) for fault in answer.faults], ensure_ascii=False),
    }
    names = value_columns(task)
    rows = []
    for found in answer.predictions:
        values = found.probabilities or tuple(found.attributes.values())
        told = {
            "condition": found.condition,
            "label": found.label or None,
            "rank": CONDITIONS.index(found.condition),
        }
        rows.append({**common, **told, **dict(zip(names, values, strict=True))})
    return rows or [{**common, "rank": 0}]


def is_finite(prediction: Prediction) -> bool:
    """Tell whether every number of a prediction is one."""
    return all(math.isfinite(value) for value in (*prediction.probabilities, *prediction.attributes.values()))
