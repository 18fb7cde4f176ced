"""Log-mel spectra with torch alone."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vavl.errors import ConfigError
from vavl.extractors.settings import AudioFeatureSettings, SegmentSettings
from vavl.features import ModalityInfo

NAME = "log_mel"
VERSION = "1"
STATISTICS = ("mean", "deviation", "change", "high")
"""Of a segment per channel: mean, standard deviation, mean absolute difference of neighboring frames, quantile."""
_HIGH = 0.9


def log_mel_info(settings: AudioFeatureSettings) -> ModalityInfo:
    """Return the provenance of the features."""
    width = settings.mel_bands * (len(STATISTICS) if settings.segments else 1)
    return ModalityInfo(NAME, VERSION, settings.model_dump(mode="json"), settings.frame_rate_hz, width)


def log_mel(waveform: Tensor, settings: AudioFeatureSettings) -> Tensor:
    """Compute log-mel spectra.

    Frame t covers the samples from ``t * hop`` on, one window long; samples after the last whole window
    are left out, and a shorter waveform is filled up with silence to one window.

    Args:
        waveform: (..., sample), float32 in -1..1, at ``settings.sample_rate_hz``.
        settings: window, hop, bands and floor.

    Returns:
        (..., time, band), float32: power in decibels, 0 dB is that of a full-scale sine.

    Raises:
        ConfigError: a band is so narrow that no frequency of the transform falls into it.
    """
    window = torch.hann_window(_samples(settings.window_ms, settings))
    missing = max(0, len(window) - waveform.shape[-1])
    filled = torch.nn.functional.pad(waveform, (0, missing))
    windowed = filled.unfold(-1, len(window), _samples(settings.hop_ms, settings)) * window
    size = _transform_size(len(window))
    # Parseval: over its whole peak a full-scale sine has the power size * sum(window^2) / 4.
    power = torch.fft.rfft(windowed, n=size).abs().square() / (size * window.square().sum() / 4)
    in_bands = power @ mel_filters(settings)
    return 10 * torch.log10(in_bands.clamp_min(10 ** (settings.floor_db / 10)))


def clip_spectra(
    waveform: NDArray[np.float32], settings: AudioFeatureSettings
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the frames (time, channel) of a clip (sample,) and their times (time,), as the settings want them."""
    spectra = log_mel(torch.from_numpy(waveform), settings)
    times = frame_times(len(spectra), settings)
    if settings.trim_silence_db is not None:
        sounding = sounding_frames(spectra, settings.trim_silence_db)
        spectra, times = spectra[sounding].contiguous(), times[sounding]
    if settings.segments is not None:
        return segment_statistics(spectra.numpy(), times, settings.segments, settings.hop_ms)
    return spectra.numpy(), times


def sounding_frames(spectra: Tensor, below_db: float) -> slice:
    """Find the frames from the first to the last that is loud; pauses between them stay.

    Args:
        spectra: (time, band), decibels.
        below_db: a frame is loud when its power over all bands is at most so far below the loudest frame's.

    Returns:
        At least one frame.
    """
    power_db = 10 * torch.log10((10 ** (spectra / 10)).sum(dim=-1))
    loud = (power_db >= power_db.max() - below_db).nonzero().flatten()
    return slice(int(loud[0]), int(loud[-1]) + 1)


def sounding_interval(waveform: NDArray[np.float32], rate_hz: int, below_db: float) -> tuple[float, float]:
    """Return where the sound of a waveform (sample,) begins and ends, in seconds; see ``sounding_frames``."""
    settings = AudioFeatureSettings(sample_rate_hz=rate_hz, hop_ms=10, f_max_hz=min(8_000, rate_hz / 2))
    spectra = log_mel(torch.from_numpy(waveform), settings)
    times = frame_times(len(spectra), settings)[sounding_frames(spectra, below_db)]
    half = settings.hop_ms / 2000
    return float(times[0]) - half, float(times[-1]) + half


def within(times: NDArray[np.float32], interval: tuple[float, float]) -> NDArray[np.bool_]:
    """Tell which frames lie in an interval, (time,); the nearest one where it falls between two."""
    start, end = interval
    inside = (times >= start) & (times <= end)
    return inside if inside.any() else np.arange(len(times)) == np.abs(times - (start + end) / 2).argmin()


def frame_times(frames: int, settings: AudioFeatureSettings) -> NDArray[np.float32]:
    """Return the center of each frame in seconds, (time,), float32."""
    hop, window = _samples(settings.hop_ms, settings), _samples(settings.window_ms, settings)
    centres = (np.arange(frames) * hop + window / 2) / settings.sample_rate_hz
    return centres.astype(np.float32)


def mel_filters(settings: AudioFeatureSettings) -> Tensor:
    """Return triangular filters (frequency of the transform, band) with peak 1.

    Band b rises from edge b to edge b + 1 and falls to edge b + 2; the edges are equally far apart on
    the mel scale of O'Shaughnessy, 2595 log10(1 + f / 700 Hz).

    Raises:
        ConfigError: a band holds no frequency of the transform.
    """
    size = _transform_size(_samples(settings.window_ms, settings))
    frequency = torch.arange(size // 2 + 1, dtype=torch.float64) * settings.sample_rate_hz / size
    edges = band_edges_hz(settings)
    rising = (frequency[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequency[:, None]) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp_min(0)
    empty = (filters.sum(dim=0) == 0).nonzero().flatten()
    if len(empty):
        problem = f"band {int(empty[0])} of {settings.mel_bands} is narrower than the frequency resolution"
        raise ConfigError("features.audio", "mel_bands", problem, "use fewer mel_bands or a longer window_ms")
    return filters.float()


def band_edges_hz(settings: AudioFeatureSettings) -> Tensor:
    """Return the edges of the bands, (bands + 2,), float64; band b peaks at edge b + 1."""
    low, high = (2595 * math.log10(1 + frequency / 700) for frequency in (settings.f_min_hz, settings.f_max_hz))
    mel = torch.linspace(low, high, settings.mel_bands + 2, dtype=torch.float64)
    return 700 * (10 ** (mel / 2595) - 1)


def _samples(milliseconds: float, settings: AudioFeatureSettings) -> int:
    return max(1, round(milliseconds * settings.sample_rate_hz / 1000))


def _transform_size(window: int) -> int:
    # Filled up to twice the window, so that narrow low bands still hold a frequency each.
    return int(2 ** (math.ceil(math.log2(window)) + 1))


def segment_statistics(
    frames: NDArray[np.float32], frame_times: NDArray[np.float32], settings: SegmentSettings, hop_ms: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Summarise overlapping segments of a clip.

    Segments start every ``settings.hop_ms``; the last one ends with the clip, so every frame is in one.
    A clip shorter than a segment is one segment.

    Args:
        frames: (time, channel).
        frame_times: (time,), seconds.
        settings: length and hop of the segments.
        hop_ms: of the frames.

    Returns:
        (segment, 4 * channel) in the order of ``STATISTICS``, and the mean time of each segment's
        frames in seconds, (segment,).
    """
    length = max(1, round(settings.length_ms / hop_ms))
    hop = max(1, round(settings.hop_ms / hop_ms))
    last = max(0, len(frames) - length)
    starts = [*range(0, last, hop), last]
    change = np.abs(np.diff(frames, axis=0, prepend=frames[:1]))
    rows = []
    for start in starts:
        part = frames[start : start + length]
        high = np.quantile(part, _HIGH, axis=0)
        rows.append(
            np.concatenate([part.mean(axis=0), part.std(axis=0), change[start : start + length].mean(axis=0), high])
        )
    times = [frame_times[start : start + length].mean() for start in starts]
    return np.stack(rows).astype(np.float32), np.asarray(times, dtype=np.float32)
