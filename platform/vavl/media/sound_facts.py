"""Level of a sound: columns of ``vavl.store.clip_facts``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK_S = 0.02
_SILENCE_DB = -60.0  # 0 dB is the power of a full-scale sine


def level_facts(samples: NDArray[np.float32], rate_hz: int) -> dict[str, float]:
    """Return ``peak`` and ``silence_share`` of what the network hears.

    Silent is a block of 20 ms whose power is 60 dB below a full-scale sine or less.

    Args:
        samples: (sample,), mixed and resampled, at least one, finite.
        rate_hz: sample rate.
    """
    return {"peak": float(np.abs(samples).max()), "silence_share": _silence_share(samples, rate_hz)}


def clipped_share(channels: NDArray[np.float32], full_scale: float) -> float:
    """Return the share of samples at the largest value that the format can hold, or beyond.

    Args:
        channels: (sample, channel) as decoded: resampling rounds flat tops off.
        full_scale: largest sample above zero that the file's format can hold.
    """
    return float((np.abs(channels) >= full_scale).mean())


def _silence_share(samples: NDArray[np.float32], rate_hz: int) -> float:
    size = max(1, min(round(_BLOCK_S * rate_hz), len(samples)))
    blocks = samples[: len(samples) // size * size].reshape(-1, size)
    power = np.einsum("bs,bs->b", blocks, blocks) / size
    return float((power <= 10 ** (_SILENCE_DB / 10) / 2).mean())
