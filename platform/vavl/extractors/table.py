"""A table of ready features as one modality: one frame per clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vavl.corpora.csv_table import FeatureTable
from vavl.errors import ClipError
from vavl.extractors.extracted import Extracted
from vavl.media.sound import sound_seconds
from vavl.store.statistics import ModalityInfo

VERSION = "1"


@dataclass(frozen=True)
class TableExtractor:
    """Looks up the rows of a feature table.

    Attributes:
        file: name of the table, for messages.
        table: its keys and values.
    """

    file: str
    table: FeatureTable

    @cached_property
    def _row_of(self) -> Mapping[str, int]:
        return {key: row for row, key in enumerate(self.table.keys)}

    def extract(self, key: str, sound: Path | None) -> Extracted:
        """Return the row of ``key`` as one frame in the middle of the clip.

        Args:
            key: of the row.
            sound: the clip's sound file, whose length is the clip's; without one the frame is at 0 s.

        Raises:
            ClipError: no such row, or a value of it is missing.
        """
        row = self._row_of.get(key)
        if row is None:
            raise ClipError(self.file, key, "the table has no such row", "add the row, or leave the clip out")
        values: NDArray[np.float32] = self.table.values[row : row + 1]
        is_bad = ~np.isfinite(values[0])
        if is_bad.any():
            columns = ", ".join(np.asarray(self.table.columns)[is_bad][:5])
            raise ClipError(
                self.file, key, f"{int(is_bad.sum())} features are NaN or infinite: {columns}",
                "complete the row, or leave the clip out",
            )  # fmt: skip
        seconds = sound_seconds(sound) if sound is not None else None
        return Extracted(values, np.array([(seconds or 0.0) / 2], dtype=np.float32))


def table_info(table: FeatureTable) -> ModalityInfo:
    """Return the provenance of table features: the file itself."""
    return ModalityInfo(
        extractor=f"table:{table.file_hash[:16]}",
        version=VERSION,
        settings={},
        frame_rate_hz=None,
        width=len(table.columns),
        channels=table.columns,
    )
