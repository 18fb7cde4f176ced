"""Where the features of one side of a corpus come from: the one place that knows the kinds of sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from vavl.corpora.card import CorpusCard
from vavl.corpora.card_sources import CsdSource, FileSource, OpenFaceSource, TableSource
from vavl.corpora.csv_table import FeatureTable, read_feature_table
from vavl.extraction.settings import FeatureSettings
from vavl.extractors.audio import audio_extractor, audio_info, check_audio
from vavl.extractors.csd import csd_extractor, csd_info
from vavl.extractors.extracted import Extracted, Extractor
from vavl.extractors.openface import openface_settings
from vavl.extractors.table import TableExtractor, table_info
from vavl.extractors.video import check_video, video_extractor, video_info
from vavl.store.statistics import ModalityInfo

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
        file: the table, relative to it.
        table: what it holds.
    """

    root: Path
    file: str
    table: FeatureTable

    @cached_property
    def info(self) -> ModalityInfo:
        """Provenance: the table's hash."""
        return table_info(self.table)

    @property
    def columns(self) -> tuple[str, str | None]:
        """The key, and the sound."""
        return "video_table_key", "audio_path"

    @property
    def shared_file(self) -> str:
        """The table."""
        return self.file

    @property
    def in_workers(self) -> bool:
        """Looking up rows takes no time worth a process, and the table stays in one place."""
        return False

    def extractor(self) -> Extract:
        """See ``Source.extractor``."""
        rows = TableExtractor(self.file, self.table)
        return lambda clip: rows.extract(clip.file, self.root / clip.media if clip.media else None)


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
        segments = csd_extractor(self.root, self.source)
        return lambda clip: segments.extract(clip.file)


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
            return TableRows(root, side.file, read_feature_table(side, root))
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
