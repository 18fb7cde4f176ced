"""Clips as a saved model takes them, put into batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vavl.data.batch import ClipBatch, pad_clips
from vavl.features import AUDIO, AUDIO_VIDEO, VIDEO
from vavl.models.vavl import VavlOutput

MOST_CLIPS = 32
"""Clips of one forward; more win no time on a CPU."""
MOST_FRAMES = 8192
"""Frames of one forward, padding included; they bound its memory (paper sizes: some hundred MB)."""


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
    def condition(self) -> str:
        """``audio_video``, ``audio`` or ``video``: the modalities it has."""
        if self.audio is not None and self.video is not None:
            return AUDIO_VIDEO
        return AUDIO if self.audio is not None else VIDEO


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
