"""Where the features of one modality of a corpus come from: the one place that knows the kinds of sources.

Media files (also of a Hugging Face dataset), tables of OpenFace, rows of a table of ready features, or intervals of a
container (.csd) of the CMU Multimodal SDK.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vavl.config.files import sha256_of_file
from vavl.corpora.card import CorpusCard
from vavl.corpora.card_sources import CsdSource, FileSource, HfSource, OpenFaceSource, TableSource
from vavl.errors import ClipError, CorpusError
from vavl.extraction.settings import FeatureSettings
from vavl.extractors.extracted import Extracted
from vavl.extractors.extractor import audio_extractor, audio_info, check_features, video_extractor, video_info
from vavl.extractors.settings import OpenFaceSettings, VideoSettings
from vavl.features import ModalityInfo
from vavl.media.csd import Segment, open_container, read_segments
from vavl.media.csv_table import place_inside, read_header, read_number_columns, read_text_columns
from vavl.media.listing import list_files
from vavl.media.media_probe import sound_seconds
from vavl.media.patterns import whole_match

VERSION = "1"
"""Of the readers of ready features."""


@dataclass(frozen=True)
class ClipPlace:
    """Where one modality of a clip is found."""

    clip_id: str
    speaker: str
    file: str  # path relative to the corpus directory, or the key of a row of ready features
    # the file below the corpus directory that the features depend on: a change of it makes them out of date; None
    # if there is no such file
    media: str | None


Extract = Callable[[Any], Extracted]
"""From ``Source.argument`` of a clip to its features; raises ``ClipError`` for a clip that cannot be read."""


@dataclass(frozen=True)
class Source:
    """One modality of a corpus. Workers get a copy, so it holds no more than it needs."""

    info: ModalityInfo  # provenance of the features, known before any clip is read
    file_column: str  # of the manifest, for ``ClipPlace.file``; null where a clip lacks the modality
    media_column: str | None  # of the manifest, for ``ClipPlace.media``
    # makes the extractor, once per process; raises ConfigError where a model's file is missing
    make: Callable[[], Extract]
    # of media files; None where features are ready, and their reader takes the place of a clip
    root: Path | None = None
    # file below the corpus directory that holds the features of all clips; None: each has its own
    shared_file: str | None = None
    in_workers: bool = True  # whether extracting is worth a process; otherwise the job itself does it
    video: VideoSettings | None = None  # settings of the extractor of video files

    def place(self, row: dict[str, Any]) -> ClipPlace:
        """Return where a clip is found, from its row of the manifest."""
        media = None if self.media_column is None else row[self.media_column]
        return ClipPlace(row["clip_id"], row["speaker"], row[self.file_column], media)

    def argument(self, clip: ClipPlace) -> Path | ClipPlace:
        """Return what the extractor takes."""
        return clip if self.root is None else self.root / clip.file


def sources_of(card: CorpusCard, root: Path, settings: FeatureSettings) -> dict[str, Source]:
    """Return the source of each modality that the card names; reads tables of ready features.

    Raises:
        CorpusError: a table is missing or broken.
        ConfigError: the settings of an extractor do not fit together, or OpenCV's face cascade is missing.
    """
    named = {"audio": card.audio, "video": card.video}
    return {
        modality: _source(modality, source, root, settings) for modality, source in named.items() if source is not None
    }


def _source(
    modality: str,
    source: FileSource | TableSource | OpenFaceSource | CsdSource | HfSource,
    root: Path,
    settings: FeatureSettings,
) -> Source:
    match source:
        case TableSource():
            table = read_feature_table(source, root)
            # Looking up rows takes no time worth a process, and the table stays in one place.
            return Source(
                table.info,
                "video_table_key",
                "audio_path",  # the length of the clip's audio gives a row its time
                lambda: table.extract,
                shared_file=source.file,
                in_workers=False,
            )
        case CsdSource():
            info, key = csd_info(root, source), f"{modality}_table_key"
            return Source(info, key, None, partial(_cut_out, root, source), shared_file=source.file)
        case OpenFaceSource():
            return _files("video", root, openface_settings(source, root))
        case FileSource() | HfSource() if modality == "audio":
            check_features(settings.audio, "audio")
            return _files("audio", root, settings.audio)
        case FileSource() | HfSource():
            check_features(settings.video, "video")
            return _files("video", root, settings.video)


def _files(modality: str, root: Path, settings: Any) -> Source:
    column = f"{modality}_path"
    if modality == "audio":
        return Source(audio_info(settings), column, column, partial(audio_extractor, settings), root)
    make = partial(video_extractor, settings)
    return Source(video_info(settings), column, column, make, root, video=settings)


def _cut_out(root: Path, source: CsdSource) -> Extract:
    return CsdClips.open(root, source).extract


def openface_settings(source: OpenFaceSource, root: Path) -> OpenFaceSettings:
    """Return the settings of a card's tables: the columns are those of the first table found.

    Raises:
        CorpusError: no table matches, the first one is broken, or it has another number of features.
    """
    tables = (
        name
        for name in list_files(root)
        if (suffix := PurePosixPath(name).suffix).lower() in source.suffixes
        and whole_match(source.pattern, name.removesuffix(suffix), "video.pattern")
    )
    first = next(tables, None)
    if first is None:
        problem = f"no table matches {source.pattern} with {' '.join(source.suffixes)}"
        fix = "correct the pattern, or put OpenFace's tables below the corpus directory"
        raise CorpusError(str(root), "video.pattern", problem, fix)
    return OpenFaceSettings(
        columns=feature_columns(root / first, source.feature_columns, source.width),
        frame_rate_hz=source.frame_rate_hz,
        least_confidence=source.least_confidence,
        missed=source.missed,
        longest_gap_s=source.longest_gap_s,
        pooling=source.pooling,
    )


@dataclass(frozen=True)
class FeatureTable:
    """Ready features of one modality, one frame per clip."""

    root: Path
    file: str
    keys: tuple[str, ...]  # one key per row, each once
    columns: tuple[str, ...]  # names of the features, in the order of the file
    values: NDArray[np.float32]  # (row, feature) float32; NaN where the file has none
    file_hash: str  # SHA-256 of the file.

    @cached_property
    def _row_of(self) -> Mapping[str, int]:
        return {key: row for row, key in enumerate(self.keys)}

    @property
    def info(self) -> ModalityInfo:
        """Provenance: the file itself."""
        name = f"table:{self.file_hash[:16]}"
        return ModalityInfo(name, VERSION, {}, None, len(self.columns), self.columns)

    def extract(self, clip: ClipPlace) -> Extracted:
        """Return the row of a clip as one frame in its middle; at 0 s where no audio file tells its length.

        Raises:
            ClipError: no such row, or a value of it is missing.
        """
        key = clip.file
        row = self._row_of.get(key)
        if row is None:
            raise ClipError(self.file, key, "the table has no such row", "add the row, or leave the clip out")
        values = self.values[row : row + 1]
        is_bad = ~np.isfinite(values[0])
        if is_bad.any():
            columns = ", ".join(np.asarray(self.columns)[is_bad][:5])
            problem = f"{int(is_bad.sum())} features are NaN or infinite: {columns}"
            raise ClipError(self.file, key, problem, "complete the row, or leave the clip out")
        seconds = sound_seconds(self.root / clip.media) if clip.media else None
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
        raise CorpusError(str(path), source.key_column, f"key {repeated!r} occurs twice", "keep one row per clip")
    values = read_number_columns(root, source.file, columns).astype(np.float32)
    return FeatureTable(root, source.file, tuple(keys), columns, values, sha256_of_file(path))


def feature_columns(path: Path, expression: str, width: int) -> tuple[str, ...]:
    """Return the columns of a table whose names the card's expression matches.

    Raises:
        CorpusError: their number is not ``width``, or the table has no readable header.
    """
    header = read_header(path)
    columns = tuple(name for name in header if whole_match(expression, name, "video.feature_columns"))
    if len(columns) != width:
        problem = (
            f"{len(columns)} columns match {expression}, the card says width {width}; "
            f"the table begins with {', '.join(header[:12])}"
        )
        fix = "correct feature_columns or width in the card, or restore the table"
        raise CorpusError(str(path), "video.feature_columns", problem, fix)
    return columns


@dataclass(frozen=True)
class CsdClips:
    """Cuts clips out of a container (.csd) of features."""

    root: Path
    source: CsdSource
    segments: dict[str, Segment] = field(repr=False)  # key -> interval of the clip

    @classmethod
    def open(cls, root: Path, source: CsdSource) -> CsdClips:
        """Read the intervals of all clips. Raises CorpusError if the container of the segments is missing or broken."""
        return cls(root, source, read_segments(root, source.segments.file, source.segments.sequence))

    def extract(self, clip: ClipPlace) -> Extracted:
        """Return the frames whose middle lies in the clip; times count from the clip's start.

        Raises:
            ClipError: no such segment, no frame in it, another width, or values that are not finite
                where the card refuses them.
        """
        key, file, width = clip.file, self.source.file, self.source.width
        segment = self.segments.get(key)
        if segment is None:
            raise ClipError(self.source.segments.file, key, "there is no such segment", "prepare the corpus anew")
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
    features, segments = (sha256_of_file(place_inside(root, name))[:16] for name in (source.file, source.segments.file))
    return ModalityInfo(
        extractor=f"csd:{features}",
        version=VERSION,
        settings={"segments": segments, "non_finite": source.non_finite},
        frame_rate_hz=None,
        width=source.width,
        channels=names if len(names) == source.width else (),
    )
