"""The sound of a clip: one channel, at any rate, on the time line that its pictures share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vavl.errors import ClipError, NoSignalError
from vavl.media.decoded_sound import LEAST_GAP_S, LISTEN, DecodedSound, decode_sound, sound_length
from vavl.media.decoding import require_media_file, too_long
from vavl.media.mixing import mix
from vavl.media.sound_facts import clipped_share, level_facts

_NO_SIGNAL = 1e-4
"""Of full scale, -80 dB: more than the noise that 16 bits and a lossy codec leave, less than a microphone's own."""

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Sound:
    """The sound of a clip.

    Attributes:
        waveform: (sample,), float32 in about -1..1; sample 0 is at the start of the container's presentation.
        facts: ``seconds``, ``sample_rate_hz`` and ``channels`` of the file; ``peak``, ``silence_share`` and
            ``clipped_share`` of what is heard, after mixing and resampling (``vavl.media.sound_facts``).
        note: which track or channel was taken, how channels were mixed, where silence was filled in; None where
            nothing is to be said.
    """

    waveform: Samples
    facts: Mapping[str, float]
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
        raise ClipError(str(path), "audio", "the file holds no sound: zero samples", LISTEN)
    if not np.isfinite(decoded.channels).all():
        raise ClipError(str(path), "audio", "the sound holds NaN or infinite values", LISTEN)
    mixed = mix(decoded.channels, decoded.layout)
    mono = mixed.samples
    before, after = _missing(decoded)
    if before + len(mono) + after > longest_s * decoded.rate_hz:
        raise too_long(path, "audio", longest_s)
    complete = np.pad(mono[max(0, -before) :], (max(0, before), after)) if before or after else mono
    filled = _note(before / decoded.rate_hz, after / decoded.rate_hz)
    notes = [note for note in (decoded.note, mixed.note, filled) if note is not None]
    heard = _resampled(mono, decoded.rate_hz, sample_rate_hz)
    facts = {
        "seconds": len(mono) / decoded.rate_hz,
        "sample_rate_hz": float(decoded.rate_hz),
        "channels": float(decoded.channels.shape[1]),
        "clipped_share": clipped_share(decoded.channels[:, mixed.taken], decoded.full_scale),
        **level_facts(heard, sample_rate_hz),
    }
    if facts["peak"] < _NO_SIGNAL:
        problem = (
            f"silence from start to end: no sample above {20 * math.log10(_NO_SIGNAL):.0f} dB of full scale"
        )
        raise NoSignalError(
            str(path), "audio", problem, "nothing, where the clip has no sound; else " + LISTEN
        )
    waveform = heard if complete is mono else _resampled(complete, decoded.rate_hz, sample_rate_hz)
    return Sound(waveform, facts, "; ".join(notes) or None)


def read_audio(path: Path, sample_rate_hz: int, longest_s: float = math.inf) -> Samples:
    """Return the waveform of ``read_sound`` alone, (sample,)."""
    return read_sound(path, sample_rate_hz, longest_s).waveform


def sound_seconds(path: Path) -> float | None:
    """Return the length of a file's sound; None if it cannot be read."""
    try:
        return sound_length(path)
    except (ClipError, OSError):
        return None


def _missing(decoded: DecodedSound) -> tuple[int, int]:
    """Return the samples of silence to add before, or to cut if negative, and after."""
    before = round(decoded.late_s * decoded.rate_hz)
    end = round(decoded.pictures_end_s * decoded.rate_hz)
    return before, max(0, end - before - len(decoded.channels))


def _note(before_s: float, after_s: float) -> str | None:
    filled = [
        f"{seconds:.2f} s of silence {place} the sound, where only pictures are"
        for seconds, place in ((before_s, "before"), (after_s, "after"))
        if seconds > LEAST_GAP_S
    ]
    return "; ".join(filled) or None


def _resampled(mono: Samples, rate_hz: int, wanted_hz: int) -> Samples:
    if rate_hz == wanted_hz:
        return mono
    # Imported here: it takes as long as all other imports together, and many corpora never need it.
    from scipy.signal import resample_poly

    divisor = math.gcd(rate_hz, wanted_hz)
    resampled: Samples = resample_poly(mono, wanted_hz // divisor, rate_hz // divisor)
    return resampled.astype(np.float32, copy=False)
