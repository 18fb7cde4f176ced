"""Clips as a saved model takes them: put into batches of like length, and compared with those of its training run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from vavl.config.base import FrozenConfig
from vavl.data.batch import ClipBatch, middle_frames, pad_clips
from vavl.features import AUDIO, AUDIO_VIDEO, VIDEO, CausalMean
from vavl.models.vavl import VavlOutput

MOST_CLIPS = 32
"""Clips of one forward; more win no time on a CPU."""
MOST_FRAMES = 8192
"""Frames of one forward, padding included; they bound its memory (paper sizes: some hundred MB)."""
MOST_SPEAKERS = 10_000
"""Whose earlier clips are remembered."""
FAR_QUANTILE = 0.99
"""Share of the training and validation clips that lie within ``TrainingProfile.far``."""


@dataclass(frozen=True)
class ClipFeatures:
    """Raw features of one clip, as an extractor gives them.

    Attributes:
        audio: (time, channel) or None.
        video: (time, channel) or None.
    """

    audio: NDArray[np.float32] | None = None
    video: NDArray[np.float32] | None = None

    @property
    def frames(self) -> int:
        """Frames of both modalities."""
        return sum(len(side) for side in (self.audio, self.video) if side is not None)

    @property
    def by_modality(self) -> dict[str, NDArray[np.float32]]:
        """The modalities it has."""
        sides = {AUDIO: self.audio, VIDEO: self.video}
        return {name: values for name, values in sides.items() if values is not None}

    @property
    def condition(self) -> str:
        """``audio_video``, ``audio`` or ``video``: the modalities it has."""
        if self.audio is not None and self.video is not None:
            return AUDIO_VIDEO
        return AUDIO if self.audio is not None else VIDEO


class CenteredClip(ClipFeatures):
    """A clip whose features have lost the mean of its speaker's earlier clips, see ``SpeakerMeans``."""


class SpeakerMeans:
    """Takes the mean of each speaker's earlier clips off their features, and counts every clip as an earlier one.

    Of more than ``MOST_SPEAKERS`` the one that was not met for longest is forgotten.

    Args:
        priors: mean frame (channel,) of the training speakers, by modality.
        max_frames: longer clips are cut around their middle.
    """

    def __init__(self, priors: Mapping[str, NDArray[np.float32]], max_frames: int) -> None:
        self._priors, self._max_frames = priors, max_frames
        self._known: dict[str, dict[str, CausalMean]] = {}

    def centered(self, sides: Mapping[str, NDArray[np.float32]], speaker: str) -> dict[str, NDArray[np.float32]]:
        """Return the sides of a clip as if the speaker's mean were that of the training speakers.

        Features that cannot be predicted from are given back, and do not count.

        Args:
            sides: raw features (time, channel), by modality.
            speaker: of the clip; the order of the calls is that of their clips.
        """
        own = self._known.pop(speaker, None) or {name: CausalMean(prior) for name, prior in self._priors.items()}
        self._known[speaker] = own
        if len(self._known) > MOST_SPEAKERS:
            del self._known[next(iter(self._known))]
        found = dict(sides)
        for modality, values in sides.items():
            prior = self._priors.get(modality)
            if prior is None or values.shape[1:] != prior.shape or not len(values) or not np.isfinite(values).all():
                continue
            found[modality] = values - (own[modality].mean - prior)
            own[modality].add(middle_frames(values, self._max_frames))
        return found


def groups_of_like_length(clips: Sequence[ClipFeatures]) -> Iterator[list[int]]:
    """Yield the places of all clips, the shortest first, at most MOST_CLIPS and MOST_FRAMES together.

    Clips of like length need little padding. One clip longer than MOST_FRAMES is a group of its own.
    """
    group: list[int] = []
    for place in sorted(range(len(clips)), key=lambda place: clips[place].frames):
        is_full = len(group) == MOST_CLIPS or (len(group) + 1) * clips[place].frames > MOST_FRAMES
        if group and is_full:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def batch_of(clips: Sequence[ClipFeatures], audio_width: int, video_width: int, outputs: int) -> ClipBatch:
    """Put normalized clips into one batch without labels.

    Args:
        clips: at least one.
        audio_width: channels of an audio frame.
        video_width: channels of a video frame.
        outputs: numbers predicted per clip.
    """
    sides = {}
    for modality, width in (("audio", audio_width), ("video", video_width)):
        there = {place: getattr(clip, modality) for place, clip in enumerate(clips)}
        values = {place: value for place, value in there.items() if value is not None}
        sides[modality] = pad_clips(list(values.values()), list(values), width)
    nothing, places = torch.zeros(len(clips)), torch.arange(len(clips))
    return ClipBatch(
        audio=sides["audio"],
        video=sides["video"],
        index=places,
        target=torch.zeros(len(clips), outputs),
        is_labelled=nothing,
        has_audio=nothing,
        has_video=nothing,
        place=places,
    )


def logits_by_condition(output: VavlOutput, batch: ClipBatch) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what the network says under each condition, in float64 on the CPU.

    Args:
        output: of the network.
        batch: on the CPU.

    Returns:
        By condition: logits (rows, outputs), and (rows,) the clip of the batch that each row belongs to. Those of
        ``audio_video`` mean something where a clip has both modalities.
    """
    found = {
        AUDIO_VIDEO: (output.fusion_logits, torch.arange(batch.clips)),
        AUDIO: (output.audio.logits, batch.audio.clip),
        VIDEO: (output.video.logits, batch.video.clip),
    }
    return {condition: (logits.double().cpu(), clip) for condition, (logits, clip) in found.items()}


def logits_of_clips(conditions: Sequence[str], found: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """Take for each clip the logits of its condition.

    Args:
        conditions: of the clips of a batch.
        found: of ``logits_by_condition``.

    Returns:
        (clips, outputs).
    """
    chosen = found[AUDIO_VIDEO][0]
    for condition in (AUDIO, VIDEO):
        logits, clip = found[condition]
        rows = [row for row, place in enumerate(clip.tolist()) if conditions[place] == condition]
        if rows:
            chosen = chosen.index_copy(0, clip[rows], logits[rows])
    return chosen


def clip_distance(normalised: NDArray[np.float32]) -> float:
    """Return how far a clip lies from the mean of the training frames.

    Args:
        normalised: (time, channel), by mean and deviation of the training speakers' frames.

    Returns:
        The mean over the channels of the square of the clip's mean: about 0 for a clip like the average one, whatever
        its length, 1 for one that lies a deviation off in every channel.
    """
    return float(np.square(normalised.mean(axis=0, dtype=np.float64)).mean())


class TrainingProfile(FrozenConfig):
    """What the clips of a training run are like in one modality."""

    frame_rate_hz: float | None = Field(description="frames per second; None where a clip is one frame")
    shortest_frames: int = Field(ge=1, description="of the shortest training clip")
    longest_frames: int = Field(ge=1, description="of the longest one")
    far: float | None = Field(
        gt=0, description="distance within which 99 % of training and validation clips lie; None: not measured"
    )

    @classmethod
    def of(cls, rate_hz: float | None, frames: NDArray[np.int32], distances: Sequence[float]) -> Self:
        """Describe the clips of a training run.

        Args:
            rate_hz: frames per second.
            frames: of each training clip, at least one.
            distances: ``clip_distance`` of training and validation clips; may be empty.
        """
        far = float(np.quantile(distances, FAR_QUANTILE)) if len(distances) else 0.0
        return cls(
            frame_rate_hz=rate_hz, shortest_frames=int(frames.min()), longest_frames=int(frames.max()), far=far or None
        )

    def length_problem(self, frames: int) -> str:
        """Say that a clip is shorter or longer than every training clip; "" where it is not."""
        if self.shortest_frames <= frames <= self.longest_frames:
            return ""
        word = "shorter" if frames < self.shortest_frames else "longer"
        return f"{word} than every training clip ({self.length(frames)}, in training {self.lengths})"

    @property
    def lengths(self) -> str:
        """Lengths of the training clips in words."""
        return f"{self.length(self.shortest_frames)} to {self.length(self.longest_frames)}"

    def length(self, frames: int) -> str:
        """Return a number of frames as seconds, as far as they are known."""
        return f"{frames / self.frame_rate_hz:.2f} s" if self.frame_rate_hz else f"{frames} frames"


def compare_clip(
    profiles: Mapping[str, TrainingProfile | None],
    frames: Mapping[str, int],
    normalised: Mapping[str, NDArray[np.float32]],
) -> tuple[float | None, str]:
    """Compare a clip with those of the training run.

    Args:
        profiles: by modality; None for a model of an earlier version.
        frames: of the whole clip by modality.
        normalised: features that are predicted from, (time, channel), by modality.

    Returns:
        Distance as a multiple of ``far``, the larger one of the two modalities, None where no profile has one: above
        1 the clip is out of the distribution of the training clips. And what is unusual, in words; "" if nothing is.
    """
    ratios, unusual = [], []
    for modality, values in normalised.items():
        profile = profiles.get(modality)
        if profile is None:
            continue
        if problem := profile.length_problem(frames[modality]):
            unusual.append(f"{modality}: {problem}")
        if profile.far is not None:
            ratios.append(clip_distance(values) / profile.far)
            if ratios[-1] > 1:
                unusual.append(f"{modality}: features far from those of the training clips ({ratios[-1]:.1f} x)")
    return max(ratios, default=None), "; ".join(unusual)
