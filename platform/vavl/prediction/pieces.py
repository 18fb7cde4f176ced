"""Pieces of long recordings as files of their own: every extractor then reads them as it reads a clip."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import soundfile

from vavl.errors import ClipError
from vavl.extractors.settings import AudioSettings, FunctionalSettings, VideoSettings
from vavl.media.media import Picture, Pictures
from vavl.media.sound import read_sound

_BEYOND_S = 0.1
"""How far a piece may reach beyond the end of its file: who writes tables rounds."""
_SOUND_RATE_HZ = 16_000
_FIX = "correct the times in the table"


class Piece(NamedTuple):
    """A piece of a recording, in seconds from its start."""

    start_s: float
    end_s: float


Cut = Mapping[Piece, Path | ClipError]


class PieceCutter:
    """Cuts pieces out of media, for one process; a file is read once for all pieces that are expected.

    Pieces have the rates that the extractors of ``settings`` work at, so that nothing is lost.
    """

    def __init__(self, settings: Mapping[str, AudioSettings | VideoSettings]) -> None:
        self._settings = settings
        self._wanted: dict[str, list[Piece]] = {}
        self._cut: dict[tuple[str, str], Cut] = {}
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def expect(self, pieces: Iterable[tuple[str, Piece]]) -> None:
        """Prepare for pieces of recordings by name; those that were cut before are removed."""
        self._cut, self._wanted = {}, {}
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None
        for name, piece in pieces:
            self._wanted.setdefault(name, []).append(piece)

    def file(self, path: Path, name: str, modality: str, piece: Piece) -> Path:
        """Return the file of a piece.

        ``name`` is that of the recording as clips name it, ``piece`` one of those expected.

        Raises:
            ClipError: the piece lies beyond the end, or the recording cannot be read.
        """
        if (name, modality) not in self._cut:
            self._directory = self._directory or tempfile.TemporaryDirectory(prefix="vavl-pieces-")
            target = Path(tempfile.mkdtemp(dir=self._directory.name))
            pieces = sorted(set(self._wanted[name]))
            self._cut[name, modality] = self._all(path, modality, pieces, target)
        found = self._cut[name, modality][piece]
        if isinstance(found, ClipError):
            raise found
        return found

    def _all(self, path: Path, modality: str, pieces: Sequence[Piece], target: Path) -> Cut:
        try:
            settings: Any = self._settings[modality]
            several = settings if isinstance(settings, tuple) else (settings,)
            if modality == "audio":
                spectral = [one.spectra if isinstance(one, FunctionalSettings) else one for one in several]
                rates = [getattr(one, "sample_rate_hz", _SOUND_RATE_HZ) for one in spectral]
                return _cut_sound(path, pieces, max(rates), target)
            return _cut_pictures(path, pieces, max(one.frame_rate_hz for one in several), target)
        except ClipError as error:  # every piece shares it; the file is not read again for each
            return dict.fromkeys(pieces, error)


def _cut_sound(path: Path, pieces: Sequence[Piece], rate_hz: int, target: Path) -> Cut:
    waveform = read_sound(path, rate_hz).waveform
    cut: dict[Piece, Path | ClipError] = {}
    for number, piece in enumerate(pieces):
        if (error := _beyond(path, "audio", piece, len(waveform) / rate_hz)) is not None:
            cut[piece] = error
            continue
        samples = waveform[round(piece.start_s * rate_hz) : round(piece.end_s * rate_hz)]
        cut[piece] = target / f"{number}.wav"
        soundfile.write(cut[piece], samples, rate_hz, subtype="FLOAT")
    return cut


def _cut_pictures(path: Path, pieces: Sequence[Piece], rate_hz: float, target: Path) -> Cut:
    writers = {piece: _Writer(target / f"{number}.mkv", rate_hz) for number, piece in enumerate(pieces)}
    end_s, last_s = 0.0, max(piece.end_s for piece in pieces)
    try:
        for time, picture in Pictures(path, rate_hz):
            end_s = time + 0.5 / rate_hz
            for piece, writer in writers.items():
                if piece.start_s <= time < piece.end_s:
                    writer.add(picture)
            if time > last_s:
                break
    finally:
        for writer in writers.values():
            writer.close()
    errors = {piece: _beyond(path, "video", piece, end_s) for piece in pieces}
    return {piece: errors[piece] or writer.path for piece, writer in writers.items()}


def _beyond(path: Path, modality: str, piece: Piece, end_s: float) -> ClipError | None:
    if piece.end_s <= end_s + _BEYOND_S and piece.start_s < end_s:
        return None
    problem = f"the piece ends at {piece.end_s:g} s, beyond the end of the file: {end_s:.2f} s"
    return ClipError(str(path), modality, problem, _FIX)


class _Writer:
    """Writes pictures without loss; its file is empty where none is added."""

    def __init__(self, path: Path, rate_hz: float) -> None:
        self.path, self._rate_hz = path, rate_hz
        self._container: Any = None
        self._stream: Any = None
        path.touch()

    def add(self, picture: Picture) -> None:
        """Append a picture."""
        if self._container is None:
            self._container = av.open(str(self.path), "w")
            rate = Fraction(self._rate_hz).limit_denominator(1000)
            self._stream = self._container.add_stream("ffv1", rate=rate)
            self._stream.height, self._stream.width = picture.shape[:2]
            self._stream.pix_fmt = "bgr0"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format="bgr0")
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file."""
        if self._container is not None:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._container = None
