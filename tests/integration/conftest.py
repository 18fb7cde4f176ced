"""What tests on real Ray workers share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class FileSink:
    """Collects the reported records in a file: the controller is another process."""

    path: Path

    def __call__(self, records: Sequence[dict[str, Any]]) -> None:
        with self.path.open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture(scope="session")
def file_sink() -> type[FileSink]:
    """Return the class of the sink: test modules cannot import this file."""
    return FileSink
