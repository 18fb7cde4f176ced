"""Functionals: one vector of statistics per clip over descriptors of the voice by frame.

The classic representation of emotional speech (GeMAPS, Eyben et al., IEEE TAFFC 2016), with additions of
ours: the contours of cepstrum, pitch and level, stretched to one length and cosine-transformed, and the
modulation spectrum of eight broad bands. Every value is computed from one clip alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from vavl.extractors.settings import FunctionalSettings
from vavl.extractors.voice_descriptors import SHAPE, VoiceDescriptors
from vavl.features import ModalityInfo

NAME = "functionals"
VERSION = "1"

Numbers = NDArray[np.float64]
Named = tuple[str, float]

_CONTOUR_POINTS = 64
_MODULATION_EDGES_HZ = (0.3, 2, 4, 7, 12, 25, 50)
_BROAD_BANDS = 8
_NEAR_PEAK_DB = 20.0


def functionals(voice: VoiceDescriptors, settings: FunctionalSettings) -> dict[str, float]:
    """Return the statistics of one clip by name, in a fixed order; all finite.

    ``voice``: descriptors by frame, at least one frame.
    """
    names = [f"mfcc{number}" for number in range(voice.cepstra.shape[1])]
    return dict(
        [
            *_of_channels(names, voice.cepstra, (0.1, 0.5, 0.9)),
            *_of_channels(SHAPE, voice.shape, (0.1, 0.5, 0.9)),
            *_of_voiced(voice),
            *_of_pitch(voice),
            *_of_level(voice),
            *_contours(voice, settings),
            *_modulation(voice),
        ]
    )


def clip_functionals(
    waveform: NDArray[np.float32], settings: FunctionalSettings
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return one frame (1, channel), and the middle of the sounding part of the clip in seconds, (1,)."""
    voice = VoiceDescriptors.of(waveform, settings)
    values = np.array([list(functionals(voice, settings).values())], dtype=np.float32)
    return values, np.array([voice.times.mean()], dtype=np.float32)


def functionals_info(settings: FunctionalSettings) -> ModalityInfo:
    """Return the provenance of the features."""
    names = channel_names(settings)
    return ModalityInfo(NAME, VERSION, settings.model_dump(mode="json"), None, len(names), names)


def channel_names(settings: FunctionalSettings) -> tuple[str, ...]:
    """Return the names of the statistics in their order."""
    second = np.zeros(settings.spectra.sample_rate_hz, dtype=np.float32)
    return tuple(functionals(VoiceDescriptors.of(second, settings), settings))


def _of_channels(names: Sequence[str], frames: Numbers, shares: Sequence[float]) -> Iterator[Named]:
    """Yield mean, deviation, mean absolute change and quantiles of each channel (time, channel)."""
    change = np.abs(np.diff(frames, axis=0, prepend=frames[:1])).mean(axis=0)
    rows = {"mean": frames.mean(axis=0), "deviation": frames.std(axis=0), "change": change}
    rows |= {f"quantile{share:g}": np.quantile(frames, share, axis=0) for share in shares}
    for statistic, row in rows.items():
        yield from ((f"{name}.{statistic}", float(value)) for name, value in zip(names, row, strict=True))


def _of_voiced(voice: VoiceDescriptors) -> Iterator[Named]:
    """Yield statistics over the voiced frames alone: quality of the voice rather than of the consonants."""
    level, pitch = voice.level[voice.is_voiced], voice.pitch[voice.is_voiced]
    period = 2 ** (-pitch / 12)
    followed = {
        "voiced_periodicity": voice.periodicity[voice.is_voiced],
        "voiced_level": level,
        "jitter": np.minimum(np.abs(np.diff(period, prepend=period[:1])) / period, 0.2),
        "shimmer": np.abs(np.diff(level, prepend=level[:1])),
    }
    followed |= {
        f"voiced_{name}": voice.shape[voice.is_voiced, SHAPE.index(name)]
        for name in ("tilt", "alpha_ratio", "hammarberg")
    }
    frames = np.column_stack(list(followed.values()))
    yield from _of_channels(list(followed), frames, (0.2, 0.8))


def _of_pitch(voice: VoiceDescriptors) -> Iterator[Named]:
    """Yield height, range, course and movement of the pitch, and how the voicing is cut up."""
    pitch = voice.pitch[voice.is_voiced]
    seconds = np.flatnonzero(voice.is_voiced) * voice.seconds_per_frame
    quantiles = np.quantile(pitch, (0.05, 0.25, 0.5, 0.75, 0.95))
    step = np.diff(pitch, prepend=pitch[:1])
    edges = np.flatnonzero(np.diff(np.r_[0, voice.is_voiced.astype(int), 0]))
    runs = np.diff(edges)[::2] * voice.seconds_per_frame
    length = len(voice.pitch) * voice.seconds_per_frame
    yield from zip((f"pitch.quantile{n}" for n in (5, 25, 50, 75, 95)), quantiles.tolist(), strict=True)
    yield "pitch.mean", float(pitch.mean())
    yield "pitch.deviation", float(pitch.std())
    yield "pitch.range", float(quantiles[-1] - quantiles[0])
    yield "pitch.slope", _slope(seconds, pitch)
    yield "pitch.change", float(np.abs(step).mean())
    yield "pitch.bend", float(np.abs(np.diff(step, prepend=step[:1])).mean())
    yield "pitch.begin", float(pitch[:10].mean() - pitch.mean())
    yield "pitch.end", float(pitch[-10:].mean() - pitch.mean())
    yield "pitch.peak_place", float(pitch.argmax() / len(pitch))
    yield "voiced.share", float(voice.is_voiced.mean())
    yield "voiced.runs_per_second", len(runs) / length
    yield "voiced.mean_run", float(runs.mean())
    yield "voiced.longest_run", float(runs.max())


def _of_level(voice: VoiceDescriptors) -> Iterator[Named]:
    """Yield loudness, its range and movement, the length of the clip and the rate of its loud peaks."""
    level = voice.level
    seconds = np.arange(len(level)) * voice.seconds_per_frame
    length = len(level) * voice.seconds_per_frame
    shares = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    quantiles = np.quantile(level, shares)
    step = np.diff(level, prepend=level[:1])
    inner = level[1:-1]
    is_peak = (inner > level[:-2]) & (inner >= level[2:]) & (inner > level.max() - _NEAR_PEAK_DB)
    yield from zip((f"level.quantile{share:g}" for share in shares), quantiles.tolist(), strict=True)
    yield "level.mean", float(level.mean())
    yield "level.deviation", float(level.std())
    yield "level.max", float(level.max())
    yield "level.range", float(quantiles[-1] - quantiles[0])
    yield "level.slope", _slope(seconds, level)
    yield "level.change", float(np.abs(step).mean())
    yield "level.rise", float(np.maximum(step, 0).mean())
    yield "level.rising_share", float((step > 0).mean())
    yield "level.quiet_share", float((level < level.max() - 25).mean())
    yield "level.peak_place", float(level.argmax() / len(level))
    yield "level.peaks_per_second", float(is_peak.sum() / length)
    yield "clip.seconds", length
    yield "clip.log_seconds", float(np.log(length))


def _contours(voice: VoiceDescriptors, settings: FunctionalSettings) -> Iterator[Named]:
    """Yield the slow cosine coefficients of each course over the clip, without its mean."""
    count = settings.contour_coefficients
    courses = {f"mfcc{number}": row for number, row in enumerate(voice.cepstra[:, : settings.contoured].T)}
    courses |= {"pitch": voice.pitch, "level": voice.level, "voicing": voice.is_voiced.astype(np.float64)}
    points = stretched(np.column_stack(list(courses.values())), _CONTOUR_POINTS)
    found = dct(points, axis=0, norm="ortho")[1 : count + 1] / np.sqrt(_CONTOUR_POINTS)
    for name, column in zip(courses, found.T, strict=True):
        yield from ((f"{name}.contour{number}", float(value)) for number, value in enumerate(column, 1))


def stretched(frames: Numbers, points: int) -> Numbers:
    """Average the frames (time, channel) in equally long parts of the clip, (points, channel).

    A frame that lies in two parts counts in each by its share; the mean over the parts is that over time.
    """
    frames_so_far = np.arange(len(frames) + 1)
    total = np.vstack((np.zeros((1, frames.shape[1])), np.cumsum(frames, axis=0)))
    edges = np.linspace(0, len(frames), points + 1)
    at_edges = np.column_stack([np.interp(edges, frames_so_far, column) for column in total.T])
    parts: Numbers = np.diff(at_edges, axis=0) * points / len(frames)
    return parts


def _modulation(voice: VoiceDescriptors) -> Iterator[Named]:
    """Yield how strongly the level of eight broad bands swings, by the rate of the swinging, in log power."""
    broad = np.column_stack([part.mean(axis=1) for part in np.array_split(voice.spectra, _BROAD_BANDS, axis=1)])
    size = int(2 ** np.ceil(np.log2(max(len(broad), 512))))
    power = np.abs(np.fft.rfft(broad - broad.mean(axis=0), size, axis=0)) ** 2 / len(broad)
    rate = np.fft.rfftfreq(size, voice.seconds_per_frame)
    # The number of frequencies in a range depends on the length of the transform; their mean does not.
    for low, high in itertools.pairwise(_MODULATION_EDGES_HZ):
        inside = power[(rate >= low) & (rate < high)]
        swing = np.log(inside.mean(axis=0) + 1e-3) if len(inside) else np.zeros(_BROAD_BANDS)
        yield from ((f"band{band}.swing{low:g}hz", float(value)) for band, value in enumerate(swing))


def _slope(place: NDArray[np.floating], value: Numbers) -> float:
    """Return the slope of the straight line through points; 0 for a single one."""
    around = place - place.mean()
    spread = float(around @ around)
    return float(around @ value) / spread if spread > 0 else 0.0
