"""What a sound file is like, before anything is resampled: columns of ``vavl.store.clip_facts``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK_S = 0.02
_SILENCE_DB = -60.0  # 0 dB is the power of a full-scale sine


def sound_facts(channels: NDArray[np.float32], rate_hz: int, full_scale: float) -> dict[str, float]:
    """Describe decoded sound.

    Silent is a block of 20 ms whose power in the loudest channel is 60 dB below a full-scale sine or less.
    Clipped is a sample at the largest value that the format can hold, or beyond.

    Args:
        channels: (sample, channel), at least one sample, finite.
        rate_hz: sample rate.
        full_scale: largest sample above zero that the file's format can hold.
    """
    magnitude = np.abs(channels)
    return {
        "seconds": len(channels) / rate_hz,
        "sample_rate_hz": float(rate_hz),
        "channels": float(channels.shape[1]),
        "peak": float(magnitude.max()),
        "silence_share": _silence_share(channels, rate_hz),
        "clipped_share": float((magnitude >= full_scale).mean()),
    }


def _silence_share(channels: NDArray[np.float32], rate_hz: int) -> float:
    size = max(1, min(round(_BLOCK_S * rate_hz), len(channels)))
    blocks = channels[: len(channels) // size * size].reshape(-1, size, channels.shape[1])
    power = np.einsum("bsc,bsc->bc", blocks, blocks).max(axis=1) / size
    return float((power <= 10 ** (_SILENCE_DB / 10) / 2).mean())
