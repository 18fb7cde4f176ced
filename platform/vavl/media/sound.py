"""The sound of a clip: one channel, at any rate, on the time line that its pictures share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vavl.media.decoded_sound import LEAST_GAP_S, decode_sound
from vavl.media.decoding import no_signal, require_media_file, too_long, unusable

Samples = NDArray[np.float32]

# ITU-R BS.775: the center and the surround channels enter left and right at -3 dB; the effects channel is left out.
# One channel is the mean of left and right.
_WEIGHTS = {"FL": 0.5, "FR": 0.5, "FLC": 0.5, "FRC": 0.5, "FC": 0.5**0.5, "LFE": 0.0, "LFE2": 0.0}
_SURROUND = 0.5**1.5
# What FFmpeg and players take a file for that does not name its channels.
_USUAL = {
    5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}
_CANCELED = 0.25
"""Channels that have nothing to do with each other give a mix of the sum of their powers; with less than this share
of it they cancel each other out (correlation of two equally loud channels below -0.75)."""


@dataclass(frozen=True)
class Mixed:
    """One channel."""

    samples: Samples  # (sample,) float32; several loud channels may add up to more than 1
    taken: list[int]  # places of the channels that are in it
    note: str | None = None  # what a person should know of the mix; None for one channel and for plain stereo


def mix(channels: Samples, layout: Sequence[str] = ()) -> Mixed:
    """Mix (sample, channel) to one channel; channels that cancel each other out give way to the louder one.

    ``channels``: at least one sample, finite. ``layout``: name of each channel, e.g. ("FL", "FR", "FC", "LFE", "BL",
    "BR"); where it is unknown, the usual one for so many channels, or equal weights; the note says so.
    """
    count = channels.shape[1]
    if count == 1:
        return Mixed(channels[:, 0], [0])
    weights = np.full(count, 1 / count, np.float32)
    note = None
    if count > 2:
        named = len(layout) == count and {"FL", "FR"} <= set(layout)
        layout = layout if named else _USUAL.get(count, ())
        if layout:
            weights = np.array([_WEIGHTS.get(name, _SURROUND) for name in layout], np.float32)
        assumed = "" if named else "taken as "
        how = f"{assumed}{' '.join(layout)}, by ITU-R BS.775" if layout else "with equal weights"
        note = f"{count} channels mixed to one: {how}"
    samples = channels @ weights
    powers = np.einsum("sc,sc->c", channels, channels, dtype=np.float64) * (weights > 0)
    if np.einsum("s,s->", samples, samples, dtype=np.float64) < _CANCELED * float(powers @ weights**2):
        loudest = int(powers.argmax())
        words = f"the channels cancel each other out (is one inverted?): channel {loudest + 1}, the loudest, was taken"
        return Mixed(np.ascontiguousarray(channels[:, loudest]), [loudest], words)
    return Mixed(samples, [place for place in range(count) if weights[place]], note)


_NO_SIGNAL = 1e-4
"""Of full scale, -80 dB: more than the noise that 16 bits and a lossy codec leave, less than a microphone's own."""

_BLOCK_S = 0.02
_SILENCE_DB = -60.0  # 0 dB is the power of a full-scale sine


@dataclass(frozen=True)
class Sound:
    """The sound of a clip."""

    waveform: Samples  # (sample,), float32 in about -1..1; sample 0 is at the start of the container's presentation
    # ``seconds``, ``sample_rate_hz`` and ``channels`` of the file; ``peak``, ``silence_share`` and
    # ``clipped_share`` of what is heard, after mixing and resampling
    facts: Mapping[str, float]
    # which track or channel was taken, how channels were mixed, where silence was filled in; None where nothing
    # is to be said
    note: str | None = None


def read_sound(path: Path, sample_rate_hz: int, longest_s: float = math.inf) -> Sound:
    """Read the sound of a file, mixed to one channel and resampled.

    Sound that starts after the pictures of its container, or ends before them, is filled up with silence:
    both modalities of a clip cover the same interval.

    Raises:
        ClipError: no such file, not a sound file, cut off, empty, too long, or values that are not finite.
        NoSignalError: silence from start to end.
    """
    require_media_file(path, "audio")
    decoded = decode_sound(path, longest_s)
    if decoded.channels.shape[0] == 0:
        raise unusable(path, "audio", "the file holds no audio: zero samples")
    if not np.isfinite(decoded.channels).all():
        raise unusable(path, "audio", "the audio holds NaN or infinite values")
    mixed = mix(decoded.channels, decoded.layout)
    own_s = len(mixed.samples) / decoded.rate_hz
    end_s = max(decoded.late_s + own_s, decoded.pictures_end_s)
    if round(end_s * decoded.rate_hz) > longest_s * decoded.rate_hz:
        raise too_long(path, "audio", longest_s)
    heard = _resampled(mixed.samples, decoded.rate_hz, sample_rate_hz)
    facts = {
        "seconds": own_s,
        "sample_rate_hz": float(decoded.rate_hz),
        "channels": float(decoded.channels.shape[1]),
        "clipped_share": clipped_share(decoded.channels[:, mixed.taken], decoded.full_scale),
        **level_facts(heard, sample_rate_hz),
    }
    if facts["peak"] < _NO_SIGNAL:
        level = 20 * math.log10(_NO_SIGNAL)
        raise no_signal(path, "audio", f"silence from start to end: no sample above {level:.0f} dB of full scale")
    # Silence before and after, where only pictures are; priming samples before the start are cut.
    late = round(decoded.late_s * sample_rate_hz)
    after = max(0, round(decoded.pictures_end_s * sample_rate_hz) - late - len(heard))
    waveform = np.pad(heard[max(0, -late) :], (max(0, late), after)) if late or after else heard
    filled = [
        f"{seconds:.2f} s of silence {place} the audio, where only video is"
        for seconds, place in ((late / sample_rate_hz, "before"), (after / sample_rate_hz, "after"))
        if seconds > LEAST_GAP_S
    ]
    notes = [note for note in (decoded.note, mixed.note, *filled) if note is not None]
    return Sound(waveform, facts, "; ".join(notes) or None)


def read_audio(path: Path, sample_rate_hz: int, longest_s: float = math.inf) -> Samples:
    """Return the waveform of ``read_sound`` alone, (sample,)."""
    return read_sound(path, sample_rate_hz, longest_s).waveform


def level_facts(samples: Samples, rate_hz: int) -> dict[str, float]:
    """Return ``peak`` and ``silence_share`` of finite (sample,), mixed and resampled.

    Silent is a block of 20 ms whose power is 60 dB below a full-scale sine or less.
    """
    size = max(1, min(round(_BLOCK_S * rate_hz), len(samples)))
    blocks = samples[: len(samples) // size * size].reshape(-1, size)
    power = np.einsum("bs,bs->b", blocks, blocks) / size
    silence_share = float((power <= 10 ** (_SILENCE_DB / 10) / 2).mean())
    return {"peak": float(np.abs(samples).max()), "silence_share": silence_share}


def clipped_share(channels: Samples, full_scale: float) -> float:
    """Return the share of samples at the largest value that the format can hold, or beyond.

    Args:
        channels: (sample, channel) as decoded: resampling rounds flat tops off.
        full_scale: largest sample above zero that the file's format can hold.
    """
    return float((np.abs(channels) >= full_scale).mean())


def _resampled(mono: Samples, rate_hz: int, wanted_hz: int) -> Samples:
    if rate_hz == wanted_hz:
        return mono
    # Imported here: it takes as long as all other imports together, and many corpora never need it.
    from scipy.signal import resample_poly

    divisor = math.gcd(rate_hz, wanted_hz)
    resampled: Samples = resample_poly(mono, wanted_hz // divisor, rate_hz // divisor)
    return resampled.astype(np.float32, copy=False)
