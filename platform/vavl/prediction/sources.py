"""The clips that are to be predicted, and where their raw features come from: media or a store."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vavl.config.files import file_mark
from vavl.errors import ClipError, ConfigError
from vavl.extractors.extractor import MediaReader, extractor_settings
from vavl.extractors.faces import FaceFinder
from vavl.extractors.settings import ImageNetworkSettings, VideoFeatureSettings
from vavl.features import MODALITIES
from vavl.media.decoding import require_media_file
from vavl.media.media import Pictures
from vavl.media.media_probe import probe
from vavl.models.saved_model import ModelDescription
from vavl.prediction.pieces import Piece, PieceCutter
from vavl.store.store import FeatureStore
from vavl.store.store_cache import local_store

_MOST_FACES = 20
"""Of a clip; a crowd is nobody's emotion."""


@dataclass(frozen=True, slots=True)
class ClipInput:
    """One clip."""

    clip_id: str  # names it among all clips of an input
    # audio, video: file below the root, or any text where a store has the features; None: the modality is missing
    audio: str | None = None
    video: str | None = None
    corpus: str | None = None  # corpus, speaker, split: where they are known
    speaker: str | None = None
    split: str | None = None
    problem: str | None = None  # why it cannot be predicted, where that is known beforehand
    piece: Piece | None = None  # of its files that is meant; None: the whole

    @property
    def name(self) -> str:
        """What a person calls it: its file."""
        return self.audio or self.video or self.clip_id

    def side(self, modality: str) -> str | None:
        """Return what is known of "audio" or "video"."""
        return self.audio if modality == "audio" else self.video


@dataclass(frozen=True)
class ClipsFound:
    """What an input holds."""

    kind: str  # of the input, in words: "directory", "file", "manifest" or "store"
    clips: Sequence[ClipInput]  # in the order of the results
    left_out: Mapping[str, int] = field(default_factory=dict)  # what was not looked at -> how many

    @property
    def counts(self) -> dict[str, int]:
        """Number of clips by the sides they have, as far as names say."""
        names = ("audio and video", "audio alone", "video alone", "neither")
        found = Counter(names[2 * (clip.audio is None) + (clip.video is None)] for clip in self.clips)
        return {name: found[name] for name in names if found[name]}

    def table(self, keys: Sequence[str]) -> pa.Table:
        """Return what the results say of each clip, with its place and its key."""
        columns = {"place": pa.array(range(len(self.clips)), pa.int64()), "key": pa.array(keys, pa.string())}
        for column in ("clip_id", "corpus", "speaker", "split", "audio_path", "video_path"):
            values = [getattr(clip, column.removesuffix("_path")) for clip in self.clips]
            columns[column] = pa.array(values, pa.string())
        for column in Piece._fields:
            columns[column] = pa.array([getattr(clip.piece, column, None) for clip in self.clips], pa.float64())
        return pa.table(columns)


class FaceSpan(NamedTuple):
    """Which face of a clip a prediction is about."""

    face_track: int  # its number in the clip, from 1; the first is seen longest and largest
    face_start_s: float  # face_start_s, face_end_s: first and last frame that is used of it, in seconds
    face_end_s: float
    face_box: str  # left, top, right and bottom of its usual box, in shares of the picture


@dataclass(frozen=True)
class Side:
    """Raw features of one modality of a clip."""

    values: NDArray[np.float32]  # (time, channel), float32
    frame_times: NDArray[np.float32]  # (time,), float32, seconds, center of each frame
    seconds: float | None  # length of the file's sound or pictures; None where nobody measured it
    face: FaceSpan | None = None  # whose features they are, where every face is asked for


@dataclass(frozen=True)
class MediaSource:
    """Media files below a directory."""

    root: Path  # absolute
    limit: Path  # absolute directory that links may not lead out of
    sound_of_video: bool  # the sound track of a video file is the clip's sound where no sound file is
    modalities: tuple[str, ...]  # that the model's extractors can read from media
    each_face: bool = False  # whether every face of a video is read, or the one that is followed

    def file(self, name: str, modality: str) -> Path:
        """Return the path of a file of a clip: a regular one that may be read.

        Raises:
            ClipError: it is missing, a directory, pipe, socket or device, a link out of ``limit`` or to itself, it
                is empty, or nobody gave the right to read it.
        """
        path = self.root / name
        try:
            place = path.resolve()
            if not place.is_relative_to(self.limit.resolve()):
                problem = f"a link out of the input directory, to {place}"
                fix = "put the file there, or set root to a directory that holds both"
                raise ClipError(name, modality, problem, fix)
            require_media_file(path, modality)
        except RuntimeError:
            raise ClipError(name, modality, "a link that leads to itself", "put the file there") from None
        except OSError as error:
            raise ClipError(name, modality, f"cannot be read: {error.strerror}", "check the path") from None
        if not os.access(path, os.R_OK):
            raise ClipError(name, modality, "cannot be read: permission denied", "change its permissions")
        return path

    def mark(self, clip: ClipInput) -> str:
        """Return size and time of change of both files: they change when the features may change."""
        return " ".join("-" if name is None else file_mark(self.root / name) for name in (clip.audio, clip.video))

    def reader(self, model: ModelDescription) -> MediaClips:
        """Return a reader of the modalities that the model can use."""
        settings = {name: extractor_settings(model.extractors[name], name) for name in self.modalities}
        return MediaClips(self, MediaReader(model.extractors), PieceCutter(settings))

    def directories(self) -> Sequence[Path]:
        """Return directories that every machine must see: the root."""
        return (self.root,)


@dataclass
class MediaClips:
    """Reads clips of media files in one process; what is expensive to make is made once."""

    source: MediaSource
    media: MediaReader
    pieces: PieceCutter

    def prepare(self, clips: Sequence[ClipInput]) -> None:
        """Look up clips that are read next."""
        self.pieces.expect(
            (file, clip.piece)
            for clip in clips
            for file in (clip.audio, clip.video)
            if file is not None and clip.piece is not None
        )

    def sides(self, clip: ClipInput) -> Mapping[str, str]:
        """Return the file of each modality that the clip has; raises whatever a damaged file provokes."""
        named = {modality: clip.side(modality) for modality in MODALITIES}
        if clip.video is not None and clip.audio is None and self.source.sound_of_video:
            head = probe(self.source.file(clip.video, "video"), clip.video)
            if not head.problem:  # else the extractor says of the pictures what is wrong
                named["audio"] = clip.video if head.has_sound else None
                named["video"] = None if head.has_sound and head.width is None else clip.video
        return {
            modality: file
            for modality, file in named.items()
            if file is not None and modality in self.source.modalities
        }

    def read(self, clip: ClipInput, modality: str, file: str) -> Sequence[Side]:
        """Return the features of a modality, or of each face of it; raises whatever a damaged file provokes."""
        path = self.source.file(file, modality)
        if clip.piece is not None:
            path = self.pieces.file(path, file, modality, clip.piece)
        faces = list(self._faces(path, file)) if modality == "video" and self.source.each_face else []
        if faces:
            return faces
        # Also of a clip without a face: the crop of its middle.
        found = self.media.read(path, modality, file)
        return [Side(found.values, found.frame_times, found.facts.get("seconds"))]

    def _faces(self, path: Path, file: str) -> Iterator[Side]:
        settings = following(self.media.provenance["video"])
        pictures = Pictures(path, settings.frame_rate_hz, settings.longest_clip_s)
        tracks = FaceFinder(settings.faces, settings.frame_rate_hz).every(picture for _, picture in pictures)
        for number, track in enumerate(tracks[:_MOST_FACES], start=1):
            found = self.media.read(path, "video", file, track)
            rows, columns = track.size
            x, y, side = np.median(track.boxes[track.is_found], axis=0)
            ends = (x - side / 2) / columns, (y - side / 2) / rows, (x + side / 2) / columns, (y + side / 2) / rows
            first, last = found.frame_times[[0, -1]].tolist()
            face = FaceSpan(number, round(first, 3), round(last, 3), " ".join(f"{share:.3f}" for share in ends))
            yield Side(found.values, found.frame_times, found.facts.get("seconds"), face)


@dataclass(frozen=True)
class StoreSource:
    """A feature store whose features are those of the model."""

    place: Path | str  # absolute directory or address
    store_hash: str  # of its content
    modalities: tuple[str, ...]  # that are in the store and that the model can use

    def mark(self, clip: ClipInput) -> str:  # noqa: ARG002
        """Return the hash of the store: another store, other features."""
        return self.store_hash

    def reader(self, model: ModelDescription) -> StoreClips:  # noqa: ARG002
        """Return a reader of the modalities; an address is copied to the machine's cache once."""
        return StoreClips(FeatureStore.open(local_store(self.place)), self.modalities)

    def directories(self) -> Sequence[Path]:
        """Return the store's directory; an address is reached from everywhere."""
        return (self.place,) if isinstance(self.place, Path) else ()


@dataclass
class StoreClips:
    """Reads clips of a store in one process."""

    store: FeatureStore
    modalities: tuple[str, ...]
    _rows: dict[str, dict[str, int]] = field(default_factory=dict)

    def prepare(self, clips: Sequence[ClipInput]) -> None:
        """Look up the rows of clips that are read next."""
        ids = [clip.clip_id for clip in clips]
        asked = pa.chunked_array([ids], pa.string())
        for modality in self.modalities:
            self._rows[modality] = dict(zip(ids, self.store.rows(modality, asked).tolist(), strict=True))

    def sides(self, clip: ClipInput) -> Mapping[str, str]:
        """Return what names each modality that the clip has."""
        return {
            modality: str(clip.side(modality) or "") for modality, rows in self._rows.items() if rows[clip.clip_id] >= 0
        }

    def read(self, clip: ClipInput, modality: str, file: str) -> Sequence[Side]:  # noqa: ARG002
        """Return the features of a modality."""
        row = self._rows[modality][clip.clip_id]
        return [Side(self.store.features(modality, row), self.store.frame_times(modality, row), None)]


Source = MediaSource | StoreSource
"""Knows the clips' features; small, and it travels to other processes."""


def following(provenance: Mapping[str, Any]) -> VideoFeatureSettings | ImageNetworkSettings:
    """Return the settings of a model's video extractor that follows faces in video files.

    Raises:
        ConfigError: it is another one, which has no faces to choose from.
    """
    settings = extractor_settings(provenance, "video")
    is_pooled = getattr(settings, "pooling", None) is not None
    if isinstance(settings, VideoFeatureSettings | ImageNetworkSettings) and not is_pooled:
        return settings
    problem = f"the model's video features ({provenance['extractor']}) are not the frames of one face that is followed"
    raise ConfigError("prediction", "faces", problem, "set faces=largest")
