"""What can go wrong with a clip on its way to a model, and what it does to the clip's frames.

Audio and video of a clip cover the same interval, and every frame of a store has its time. So:

- noise in the sound is added to the waveform, and the model's own extractor reads the result
  (``noisy_sound.py``); it needs the media;
- a dropped video frame is a picture that never arrived: the last one that did is shown in its place, so the
  clip keeps its length. A larger share drops every frame that a smaller one drops;
- under a shift the pictures come so many seconds later than the sound (earlier, if negative): the frame of
  time t is the one recorded at t - seconds. Where nothing was recorded, the first or last frame stands still;
- noise on features is drawn per frame and channel, in units of the training speakers' deviation. It stands
  for no accident in the world and is named for what it is.

All draws depend on the seed and the clip's id alone: not on other clips, nor on their order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vavl.metrics.names import AUDIO, AUDIO_VIDEO, CONDITIONS, VIDEO

Frames = NDArray[np.float32]


@dataclass(frozen=True)
class NoiseInSound:
    """Noise in the waveform.

    Attributes:
        snr_db: 10 log10 of the power of the clip's sound over the power of the noise.
    """

    snr_db: float

    @property
    def name(self) -> str:
        """As in metric names."""
        return f"noise_{self.snr_db:g}db"

    @property
    def title(self) -> str:
        """For people."""
        return f"noise, {self.snr_db:g} dB SNR"

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions that it can change."""
        return (AUDIO_VIDEO, AUDIO)


@dataclass(frozen=True)
class DroppedFrames:
    """Video frames that did not arrive; ``share`` of them, between 0 and 1."""

    share: float

    @property
    def name(self) -> str:
        """As in metric names."""
        return f"dropped_frames_{self.share:g}"

    @property
    def title(self) -> str:
        """For people."""
        return f"{100 * self.share:g} % of video frames dropped"

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions that it can change."""
        return (AUDIO_VIDEO, VIDEO)

    def apply(self, frames: Frames, generator: np.random.Generator) -> Frames:
        """Return frames (time, channel) with the last kept one in place of each dropped one; one is always kept."""
        dropped = min(round(self.share * len(frames)), len(frames) - 1)
        kept = np.ones(len(frames), dtype=np.bool_)
        kept[np.argsort(generator.random(len(frames)), kind="stable")[:dropped]] = False
        source = np.maximum.accumulate(np.where(kept, np.arange(len(frames)), -1))
        shown: Frames = frames[np.where(source < 0, np.argmax(kept), source)]
        return shown


@dataclass(frozen=True)
class ShiftedSync:
    """Pictures that come ``seconds`` later than the sound; earlier, if negative."""

    seconds: float

    @property
    def name(self) -> str:
        """As in metric names."""
        return f"shifted_{self.seconds:g}s"

    @property
    def title(self) -> str:
        """For people."""
        return f"video {abs(self.seconds):g} s {'late' if self.seconds > 0 else 'early'}"

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions that it can change."""
        return (AUDIO_VIDEO, VIDEO)

    def apply(self, frames: Frames, times: Frames) -> Frames:
        """Return for each frame (time, channel) the one recorded ``seconds`` before it.

        Args:
            frames: (time, channel).
            times: (time,), seconds, ascending.
        """
        wanted = times - self.seconds
        after = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
        before = after - 1
        after = np.minimum(after, len(times) - 1)
        is_nearer = np.abs(times[after] - wanted) < np.abs(times[before] - wanted)
        shown: Frames = frames[np.where(is_nearer, after, before)]
        return shown


@dataclass(frozen=True)
class NoiseOnFeatures:
    """Normal noise on the normalised frames of both modalities; ``deviation`` in units of the training speakers'."""

    deviation: float

    @property
    def name(self) -> str:
        """As in metric names."""
        return f"feature_noise_{self.deviation:g}"

    @property
    def title(self) -> str:
        """For people."""
        return f"noise on features, {self.deviation:g} deviations"

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions that it can change."""
        return CONDITIONS

    def apply(self, frames: Frames, std: Frames, generator: np.random.Generator) -> Frames:
        """Return frames (time, channel) with noise.

        Args:
            frames: raw, (time, channel).
            std: (channel,), deviation that normalisation divides by.
            generator: of the draws.
        """
        noise = generator.standard_normal(frames.shape, dtype=np.float32)
        noisy: Frames = frames + np.float32(self.deviation) * std * noise
        return noisy


Degradation = NoiseInSound | DroppedFrames | ShiftedSync | NoiseOnFeatures


def draws_of(seed: int, kind: str, clip_id: str) -> np.random.Generator:
    """Return the generator of one kind of draw for one clip; the same for every strength."""
    digest = hashlib.sha256(f"{seed}\0{kind}\0{clip_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
