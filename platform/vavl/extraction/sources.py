"""Where the features of one side of a corpus come from: the one place that knows the kinds of sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from vavl.corpora.card import CorpusCard
from vavl.corpora.card_sources import CsdSource, FileSource, OpenFaceSource, TableSource
from vavl.corpora.discovery import list_files
from vavl.errors import CorpusError
from vavl.extraction.ready_features import (
    CsdClips,
    FeatureTable,
    csd_info,
    feature_columns,
    read_feature_table,
)
from vavl.extraction.settings import FeatureSettings
from vavl.extractors.audio import audio_extractor, audio_info, check_audio
from vavl.extractors.extracted import Extracted, Extractor
from vavl.extractors.video import check_video, video_extractor, video_info
from vavl.extractors.video_settings import OpenFaceSettings
from vavl.features import ModalityInfo
from vavl.media.patterns import whole_match

Side = FileSource | TableSource | OpenFaceSource | CsdSource
"""How a card names one modality."""


@dataclass(frozen=True)
class ClipPlace:
    """Where one modality of a clip is found.

    Attributes:
        clip_id: of the manifest.
        speaker: of the manifest.
        file: path relative to the corpus folder, or the key of a row of ready features.
        media: the file below the corpus folder that the features depend on: a change of it makes them
            out of date; None if there is no such file.
    """

    clip_id: str
    speaker: str
    file: str
    media: str | None


Extract = Callable[[ClipPlace], Extracted]
"""From a clip to its features; raises ``ClipError`` for a clip that cannot be read."""


class Source(Protocol):
    """One modality of a corpus. Workers get a copy, so it holds no more than it needs."""

    @property
    def info(self) -> ModalityInfo:
        """Provenance of the features, known before any clip is read."""

    @property
    def columns(self) -> tuple[str, str | None]:
        """Manifest columns of ``ClipPlace.file`` and ``ClipPlace.media``; a null file: the side is missing."""

    @property
    def shared_file(self) -> str | None:
        """File below the corpus folder that holds the features of all clips; None: each has its own."""

    @property
    def in_workers(self) -> bool:
        """Whether extracting is worth a process; otherwise the job itself does it."""

    def extractor(self) -> Extract:
        """Make the extractor, once per process.

        Raises:
            ConfigError: the settings do not fit together, or a model's file is missing.
        """


@dataclass(frozen=True)
class MediaFiles:
    """One media file per clip.

    Attributes:
        modality: "audio" or "video".
        root: absolute corpus folder.
        settings: of the extractors.
    """

    modality: str
    root: Path
    settings: FeatureSettings

    @cached_property
    def info(self) -> ModalityInfo:
        """Provenance of the extractor."""
        return (
            audio_info(self.settings.audio) if self.modality == "audio" else video_info(self.settings.video)
        )

    @property
    def columns(self) -> tuple[str, str | None]:
        """The path, twice."""
        return f"{self.modality}_path", f"{self.modality}_path"

    @property
    def shared_file(self) -> None:
        """Every clip has its own."""

    @property
    def in_workers(self) -> bool:
        """Decoding is what the workers are for."""
        return True

    def extractor(self) -> Extract:
        """See ``Source.extractor``."""
        extract: Extractor = (
            audio_extractor(self.settings.audio)
            if self.modality == "audio"
            else video_extractor(self.settings.video)
        )
        return lambda clip: extract(self.root / clip.file)


@dataclass(frozen=True)
class TableRows:
    """Rows of a table of ready features; the length of the clip's sound gives them their time.

    Attributes:
        root: absolute corpus folder.
        table: what it holds.
    """

    root: Path
    table: FeatureTable

    @property
    def info(self) -> ModalityInfo:
        """Provenance: the table's hash."""
        return self.table.info

    @property
    def columns(self) -> tuple[str, str | None]:
        """The key, and the sound."""
        return "video_table_key", "audio_path"

    @property
    def shared_file(self) -> str:
        """The table."""
        return self.table.file

    @property
    def in_workers(self) -> bool:
        """Looking up rows takes no time worth a process, and the table stays in one place."""
        return False

    def extractor(self) -> Extract:
        """See ``Source.extractor``."""
        return lambda clip: self.table.extract(clip.file, self.root / clip.media if clip.media else None)


@dataclass(frozen=True)
class ContainerSegments:
    """Segments of a container of ready features (.csd).

    Attributes:
        modality: "audio" or "video".
        root: absolute corpus folder.
        source: of the card.
    """

    modality: str
    root: Path
    source: CsdSource

    @cached_property
    def info(self) -> ModalityInfo:
        """Provenance: the hashes of features and segments."""
        return csd_info(self.root, self.source)

    @property
    def columns(self) -> tuple[str, str | None]:
        """The key of the segment; there is no other file."""
        return f"{self.modality}_table_key", None

    @property
    def shared_file(self) -> str:
        """The container of the features."""
        return self.source.file

    @property
    def in_workers(self) -> bool:
        """The containers are packed: reading them takes most of the time."""
        return True

    def extractor(self) -> Extract:
        """See ``Source.extractor``."""
        clips = CsdClips.open(self.root, self.source)
        return lambda clip: clips.extract(clip.file)


def sources_of(card: CorpusCard, root: Path, settings: FeatureSettings) -> dict[str, Source]:
    """Return the source of each modality that the card names; reads tables of ready features.

    Raises:
        CorpusError: a table is missing or broken.
        ConfigError: the settings of an extractor do not fit together, or OpenCV's face cascade is missing.
    """
    sides: dict[str, Side | None] = {"audio": card.audio, "video": card.video}
    return {
        modality: _source(modality, side, root, settings)
        for modality, side in sides.items()
        if side is not None
    }


def _source(modality: str, side: Side, root: Path, settings: FeatureSettings) -> Source:
    match side:
        case TableSource():
            return TableRows(root, read_feature_table(side, root))
        case CsdSource():
            return ContainerSegments(modality, root, side)
        case OpenFaceSource():
            video = openface_settings(side, root)
            return MediaFiles(modality, root, settings.model_copy(update={"video": video}))
        case FileSource():
            check_settings(modality, settings)
            return MediaFiles(modality, root, settings)


def check_settings(modality: str, settings: FeatureSettings) -> None:
    """Raise before any file is read what would fail at each; loads no network.

    Raises:
        ConfigError: the settings of the extractor do not fit together, or a file of it is missing.
    """
    if modality == "audio":
        check_audio(settings.audio)
    else:
        check_video(settings.video)


def place_of(row: dict[str, Any], source: Source) -> ClipPlace:
    """Return the place of a clip from its row of the manifest."""
    file, media = source.columns
    return ClipPlace(row["clip_id"], row["speaker"], row[file], None if media is None else row[media])


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
    )
