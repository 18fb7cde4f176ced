"""Features that a corpus brings ready: rows of a table, or intervals of a container of the CMU Multimodal SDK."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vavl.config.files import sha256_of_file
from vavl.corpora.card_sources import CsdSource, TableSource
from vavl.errors import ClipError, CorpusError
from vavl.extractors.extracted import Extracted
from vavl.features import ModalityInfo
from vavl.media.csd import Segment, open_container, read_segments
from vavl.media.csv_table import place_inside, read_header, read_number_columns, read_text_columns
from vavl.media.patterns import whole_match
from vavl.media.sound import sound_seconds

VERSION = "1"


@dataclass(frozen=True)
class FeatureTable:
    """Ready features of one modality, one frame per clip.

    Attributes:
        file: of the table, for messages.
        keys: one key per row, each once.
        columns: names of the features, in the order of the file.
        values: (row, feature) float32; NaN where the file has none.
        file_hash: SHA-256 of the file.
    """

    file: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float32]
    file_hash: str

    @cached_property
    def _row_of(self) -> Mapping[str, int]:
        return {key: row for row, key in enumerate(self.keys)}

    @property
    def info(self) -> ModalityInfo:
        """Provenance: the file itself."""
        name = f"table:{self.file_hash[:16]}"
        return ModalityInfo(name, VERSION, {}, None, len(self.columns), self.columns)

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
        values = self.values[row : row + 1]
        is_bad = ~np.isfinite(values[0])
        if is_bad.any():
            columns = ", ".join(np.asarray(self.columns)[is_bad][:5])
            raise ClipError(
                self.file,
                key,
                f"{int(is_bad.sum())} features are NaN or infinite: {columns}",
                "complete the row, or leave the clip out",
            )
        seconds = sound_seconds(sound) if sound is not None else None
        return Extracted(values, np.array([(seconds or 0.0) / 2], dtype=np.float32))


def read_feature_table(source: TableSource, root: Path) -> FeatureTable:
    """Read the whole table of ready features that a card names.

    Raises:
        CorpusError: the table is missing, empty or broken, a key is repeated, or the number of feature
            columns differs from ``width``.
    """
    path = place_inside(root, source.file)
    columns = feature_columns(path, source.feature_columns, source.width)
    (keys,) = read_text_columns(root, source.file, (source.key_column,))
    if len(set(keys)) != len(keys):
        repeated = next(key for key, count in Counter(keys).items() if count > 1)
        raise CorpusError(
            str(path), source.key_column, f"key {repeated!r} occurs twice", "keep one row per clip"
        )
    values = read_number_columns(root, source.file, columns).astype(np.float32)
    return FeatureTable(source.file, tuple(keys), columns, values, sha256_of_file(path))


def feature_columns(path: Path, expression: str, width: int) -> tuple[str, ...]:
    """Return the columns of a table whose names the card's expression matches.

    Raises:
        CorpusError: their number is not ``width``, or the table has no readable header.
    """
    header = read_header(path)
    columns = tuple(name for name in header if whole_match(expression, name, "video.feature_columns"))
    if len(columns) != width:
        raise CorpusError(
            str(path),
            "video.feature_columns",
            f"{len(columns)} columns match {expression}, the card says width {width}; "
            f"the table has {', '.join(header[:12])} ...",
            "correct feature_columns or width in the card, or restore the table",
        )
    return columns


@dataclass(frozen=True)
class CsdClips:
    """Cuts clips out of a container (.csd) of features.

    Attributes:
        root: absolute corpus directory.
        source: of the card.
        segments: key -> interval of the clip.
    """

    root: Path
    source: CsdSource
    segments: dict[str, Segment] = field(repr=False)

    @classmethod
    def open(cls, root: Path, source: CsdSource) -> CsdClips:
        """Read the intervals of all clips.

        Raises:
            CorpusError: the container of the segments is missing or broken.
        """
        return cls(root, source, read_segments(root, source.segments.file, source.segments.sequence))

    def extract(self, key: str) -> Extracted:
        """Return the frames whose middle lies in the clip; times count from the clip's start.

        Raises:
            ClipError: no such segment, no frame in it, another width, or values that are not finite
                where the card refuses them.
        """
        file, width = self.source.file, self.source.width
        segment = self.segments.get(key)
        if segment is None:
            raise ClipError(
                self.source.segments.file, key, "there is no such segment", "prepare the corpus anew"
            )
        values, times = self._frames(segment)
        if values.shape[1] != width:
            problem = f"{values.shape[1]} features per frame, the card says {width}"
            raise ClipError(file, key, problem, "correct width in the card")
        is_bad = ~np.isfinite(values)
        bad = int(is_bad.sum())
        if bad and self.source.non_finite == "refuse":
            problem = f"{bad} of {is_bad.size} values are NaN or infinite"
            raise ClipError(file, key, problem, "leave the clip out, or write non_finite: zero into the card")
        return Extracted(
            np.where(is_bad, np.float32(0), values),
            times,
            tally={"non_finite_values": bad},
            note=f"{bad} of {is_bad.size} values were NaN or infinite and are 0" if bad else None,
            facts={"seconds": segment.end - segment.start},
        )

    def _frames(self, segment: Segment) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return frames (time, channel) in the order of time, and their middles in seconds (time,)."""
        try:
            with open_container(self.root, self.source.file, self.source.sequence) as container:
                middles = container.intervals(segment.video).mean(axis=1)
                rows = np.flatnonzero((middles >= segment.start) & (middles < segment.end))
                if not len(rows):
                    problem = f"no frame lies between {segment.start:g} and {segment.end:g} s"
                    raise ClipError(self.source.file, segment.key, problem, "leave the clip out")
                first = int(rows[0])
                read = container.features(segment.video, first, int(rows[-1]) + 1)
        except CorpusError as error:
            raise ClipError(error.file, f"{segment.key}: {error.field}", error.problem, error.fix) from None
        order = rows[np.argsort(middles[rows], kind="stable")]
        return read[order - first], (middles[order] - segment.start).astype(np.float32)


def csd_info(root: Path, source: CsdSource) -> ModalityInfo:
    """Return the provenance of features from a container: the hashes of both files.

    Raises:
        CorpusError: a file is missing or broken.
    """
    with open_container(root, source.file, source.sequence) as container:
        names = container.dimensions()
    features, segments = (
        sha256_of_file(place_inside(root, name))[:16] for name in (source.file, source.segments.file)
    )
    return ModalityInfo(
        extractor=f"csd:{features}",
        version=VERSION,
        settings={"segments": segments, "non_finite": source.non_finite},
        frame_rate_hz=None,
        width=source.width,
        channels=names if len(names) == source.width else (),
    )
