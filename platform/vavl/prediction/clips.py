"""The clips that are to be predicted, wherever they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from vavl.features import MODALITIES


@dataclass(frozen=True, slots=True)
class ClipInput:
    """One clip.

    Attributes:
        clip_id: names it among all clips of an input.
        audio: file below the root, or any text where a store has the features; None: the side is missing.
        video: likewise.
        corpus, speaker, split: where they are known.
        problem: why it cannot be predicted, where that is known beforehand.
    """

    clip_id: str
    audio: str | None = None
    video: str | None = None
    corpus: str | None = None
    speaker: str | None = None
    split: str | None = None
    problem: str | None = None

    def side(self, modality: str) -> str | None:
        """Return what is known of "audio" or "video"."""
        return self.audio if modality == "audio" else self.video


@dataclass(frozen=True)
class ClipsFound:
    """What an input holds.

    Attributes:
        kind: of the input, in words: "folder", "file", "manifest" or "store".
        clips: in the order of the results.
        left_out: what was not looked at -> how many.
    """

    kind: str
    clips: Sequence[ClipInput]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Number of clips by the sides they have, as far as names say."""
        found = {"audio and video": 0, "audio alone": 0, "video alone": 0, "neither": 0}
        for clip in self.clips:
            has = [clip.side(modality) is not None for modality in MODALITIES]
            found[list(found)[2 * (not has[0]) + (not has[1])]] += 1
        return {name: count for name, count in found.items() if count}

    def table(self, keys: Sequence[str]) -> pa.Table:
        """Return what the results say of each clip, with its place and its key."""
        columns: dict[str, pa.Array] = {
            "place": pa.array(range(len(self.clips)), pa.int64()),
            "key": pa.array(keys, pa.string()),
        }
        names = {"audio_path": "audio", "video_path": "video"}
        for column in ("clip_id", "corpus", "speaker", "split", "audio_path", "video_path"):
            values = [getattr(clip, names.get(column, column)) for clip in self.clips]
            columns[column] = pa.array(values, pa.string())
        return pa.table(columns)
