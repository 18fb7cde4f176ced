"""Statistics of a clip's frames in place of the frames, and the channels of several extractors side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vavl.errors import ClipError, ConfigError
from vavl.extractors import log_mel
from vavl.extractors.extracted import Extracted, Extractor
from vavl.features import ModalityInfo
from vavl.media.sound import read_sound

# Sound counts from the first to the last frame that is at most so far below the loudest one; see ``functionals``.
_SOUNDING_DB = 35.0
_RATE_HZ = 16_000
_VERSION = "1"


def sounding_interval(path: Path) -> tuple[float, float]:
    """Return where the sound of a file begins and ends, in seconds; silence before and after is left out.

    Raises:
        ClipError: see ``read_sound``.
    """
    return log_mel.sounding_interval(read_sound(path, _RATE_HZ).waveform, _RATE_HZ, _SOUNDING_DB)


def pooled(extract: Extractor, modality: str) -> Extractor:
    """Return an extractor of one frame per clip: mean and (population) deviation of each channel.

    Counted are the frames of a video that show a face (all, if none does and the crop is fixed), and those of
    audio from its first to its last sound; of a sound that falls between two frames the nearer one.

    ``modality``: "audio" or "video".
    """

    def of_clip(path: Path) -> Extracted:
        found = extract(path)
        if modality == "video":
            counted = np.ones(len(found.values), bool) if found.has_face is None else found.has_face
            counted = counted if counted.any() else ~counted
        else:
            counted = log_mel.within(found.frame_times, sounding_interval(path))
        frames = found.values[counted].astype(np.float64)
        values = np.concatenate([frames.mean(axis=0), frames.std(axis=0)]).astype(np.float32)
        times = found.frame_times[counted].mean(keepdims=True)
        return replace(found, values=values[None], frame_times=times, has_face=None)

    return of_clip


def pooled_info(info: ModalityInfo) -> ModalityInfo:
    """Return the provenance of ``pooled`` frames: all means before all deviations."""
    channels = _names(info)
    names = tuple(f"{name}.{statistic}" for statistic in ("mean", "deviation") for name in channels)
    return replace(info, frame_rate_hz=None, width=2 * info.width, channels=names)


def joined(extractors: Sequence[Extractor], modality: str, frame_rate_hz: float | None) -> Extractor:
    """Return an extractor that puts the channels of several side by side, frame by frame.

    Kept are the frames that all have; the times are those of the first extractor.

    ``modality``: "audio" or "video". ``frame_rate_hz``: of all of them; None where each gives one frame per clip.
    """

    def of_clip(path: Path) -> Extracted:
        parts = [extract(path) for extract in extractors]
        kept = _common_frames([part.frame_times for part in parts], frame_rate_hz)
        if not len(kept[0]):
            problem = "the extractors of this clip have no frame in common"
            raise ClipError(str(path), modality, problem, "leave the clip out, or use one extractor")
        notes = dict.fromkeys(part.note for part in parts if part.note is not None)
        return Extracted(
            np.concatenate([part.values[rows] for part, rows in zip(parts, kept, strict=True)], axis=1),
            parts[0].frame_times[kept[0]],
            {name: count for part in parts for name, count in part.tally.items()},
            "; ".join(notes) or None,
            {name: fact for part in reversed(parts) for name, fact in part.facts.items()},
        )

    return of_clip


def _common_frames(times: Sequence[NDArray[np.float32]], frame_rate_hz: float | None) -> list[NDArray[np.int64]]:
    """Return the rows of each that lie nearest to a frame of the first, for the frames that all have."""
    if frame_rate_hz is None:
        return [np.zeros(1, np.int64) for _ in times]
    # The margin is for rounded times that lie in the middle between two frames.
    places = [np.floor((own - times[0][0]) * frame_rate_hz + 0.501).astype(np.int64) for own in times]
    shared = np.array(sorted(set.intersection(*(set(own.tolist()) for own in places))), np.int64)
    return [np.searchsorted(own, shared) for own in places]


def joined_info(infos: Sequence[ModalityInfo], modality: str) -> ModalityInfo:
    """Return the provenance of ``joined`` features, that of every part in its settings.

    Raises:
        ConfigError: the parts have frames at different rates.
    """
    rates = {info.frame_rate_hz for info in infos}
    if len(rates) > 1:
        said = ", ".join(f"{info.extractor}: {_rate(info)}" for info in infos)
        fix = "say `pooling: statistics` for those with frames, or choose extractors of one frame rate"
        raise ConfigError(f"features.{modality}", "", f"the frames of its extractors do not agree ({said})", fix)
    parts = [{name: getattr(info, name) for name in ("extractor", "version", "settings")} for info in infos]
    return ModalityInfo(
        extractor="+".join(info.extractor for info in infos),
        version=_VERSION,
        settings={"parts": parts},
        frame_rate_hz=rates.pop(),
        width=sum(info.width for info in infos),
        channels=tuple(f"{info.extractor}.{name}" for info in infos for name in _names(info)),
    )


def _names(info: ModalityInfo) -> tuple[str, ...]:
    return info.channels or tuple(map(str, range(info.width)))


def _rate(info: ModalityInfo) -> str:
    return "one frame per clip" if info.frame_rate_hz is None else f"{info.frame_rate_hz:g} frames a second"
