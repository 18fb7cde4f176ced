"""Partitions of the training clips, and how many rows each gives to a global batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from vavl.config.base import FrozenConfig
from vavl.errors import ConfigError


class Partition(StrEnum):
    """Which modalities a clip has, and whether it has a label."""

    PAIRED_LABELLED = "paired_labelled"
    PAIRED_UNLABELLED = "paired_unlabelled"
    AUDIO_ONLY_LABELLED = "audio_only_labelled"
    AUDIO_ONLY_UNLABELLED = "audio_only_unlabelled"
    VIDEO_ONLY_LABELLED = "video_only_labelled"
    VIDEO_ONLY_UNLABELLED = "video_only_unlabelled"

    @property
    def modalities(self) -> frozenset[str]:
        """What every clip of the partition has: ``audio``, ``video`` or both."""
        return frozenset(("audio", "video")) if self.startswith("paired") else frozenset((self.split("_")[0],))

    @property
    def is_labelled(self) -> bool:
        """True where the clips carry a label."""
        return not self.endswith("_unlabelled")


class CompositionSettings(FrozenConfig):
    """How a global batch is put together; constant over the run."""

    batch_size: int = Field(32, ge=1, description="clips per optimizer step over all workers")
    rows_per_step: dict[Partition, int] | None = Field(
        None, description="rows per partition; null = in proportion to the clips, see labelled_floor"
    )
    labelled_floor: float = Field(0.5, ge=0, le=1, description="least share of labeled rows when rows_per_step is null")


class PartitionSettings(FrozenConfig):
    """How much of the training clips' labels and pairs a run uses; the rest stays out of its sight."""

    labelled_fraction: float = Field(
        1.0, gt=0, le=1, description="of the labeled training clips, those that keep their label"
    )
    stratify: Literal["over_all", "per_speaker"] = Field(
        "over_all", description="draws are even over the classes, or over the classes of each speaker"
    )
    audio_only_share: float = Field(
        0.0, ge=0, le=1, description="of the training pairs, those whose video is never read"
    )
    video_only_share: float = Field(
        0.0, ge=0, le=1, description="of the training pairs, those whose audio is never read"
    )
    seed: int = Field(0, ge=0, description="of both draws, apart from the seed of the training run")

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.audio_only_share + self.video_only_share > 1 + 1e-9:
            raise ValueError("audio_only_share and video_only_share together are more than all pairs")
        return self


@dataclass(frozen=True)
class PartitionedClips:
    """The training clips by partition."""

    clips: Mapping[Partition, NDArray[np.integer]]  # manifest rows of each partition that has any, ascending.

    @property
    def count(self) -> int:
        """Number of training clips."""
        return sum(len(rows) for rows in self.clips.values())

    def only(self, names: Iterable[Partition]) -> Self:
        """Return these partitions alone."""
        return type(self)({name: self.clips[name] for name in names})

    def feed(self, *modalities: str, with_label: bool = False) -> bool:
        """Tell whether any clip has all of these modalities, and a label if it needs one."""
        return any(
            name.modalities.issuperset(modalities) and (name.is_labelled or not with_label) for name in self.clips
        )


def partition_clips(
    rows: NDArray[np.int64], has_audio: NDArray[np.bool_], has_video: NDArray[np.bool_], is_labelled: NDArray[np.bool_]
) -> PartitionedClips:
    """Sort training clips into partitions.

    Args:
        rows: manifest rows of the training clips.
        has_audio: (clips of the manifest,); likewise the other two.
        has_video: see ``has_audio``.
        is_labelled: see ``has_audio``.

    Returns:
        Partitions that have clips; a clip without any modality belongs to none.
    """
    code = (has_audio[rows] * np.uint8(4)) + (has_video[rows] * np.uint8(2)) + is_labelled[rows]
    found: dict[Partition, NDArray[np.int64]] = {}
    for name in Partition:
        modalities = name.modalities
        clips = rows[code == 4 * ("audio" in modalities) + 2 * ("video" in modalities) + name.is_labelled]
        if len(clips):
            found[name] = np.sort(clips)
    return PartitionedClips(found)


def compose_batch(partitioned: PartitionedClips, settings: CompositionSettings) -> dict[Partition, int]:
    """Decide how many rows of a global batch each partition gives.

    Rows asked for in the settings are taken as they are, except that an empty partition is an error.
    By default rows follow the number of clips, labeled partitions together get at least
    ``labelled_floor`` of the batch, and every partition with clips gets at least one row.

    Raises:
        ConfigError: rows asked of a partition without clips, no rows at all, or a batch smaller than
            the number of partitions.
    """
    if settings.rows_per_step is not None:
        return _given_rows(partitioned, settings)
    counts = {name: len(rows) for name, rows in partitioned.clips.items()}
    if not counts:
        raise ConfigError(
            "data", "composition", "no training clips at all", "check the fold and the store's quarantine"
        )
    if settings.batch_size < len(counts):
        problem = f"{settings.batch_size} rows cannot hold one of each of {len(counts)} partitions"
        fix = f"set it to at least {len(counts)}"
        raise ConfigError("data", "composition.batch_size", problem, fix)
    labelled = {name: count for name, count in counts.items() if name.is_labelled}
    unlabelled = {name: count for name, count in counts.items() if not name.is_labelled}
    share = sum(labelled.values()) / sum(counts.values())
    if labelled and unlabelled:
        wanted = round(max(share, settings.labelled_floor) * settings.batch_size)
        labelled_rows = min(max(wanted, len(labelled)), settings.batch_size - len(unlabelled))
    else:
        labelled_rows = settings.batch_size if labelled else 0
    return {
        **_in_proportion(labelled, labelled_rows),
        **_in_proportion(unlabelled, settings.batch_size - labelled_rows),
    }


def _given_rows(partitioned: PartitionedClips, settings: CompositionSettings) -> dict[Partition, int]:
    given = {name: rows for name, rows in (settings.rows_per_step or {}).items() if rows > 0}
    if not given:
        raise ConfigError("data", "composition.rows_per_step", "asks for no rows at all", "name a partition")
    for name in given:
        if name not in partitioned.clips:
            known = ", ".join(partitioned.clips) or "none"
            problem = "this partition has no clips"
            fix = f"remove it; partitions with clips: {known}"
            raise ConfigError("data", f"composition.rows_per_step.{name}", problem, fix)
    return given


def _in_proportion(counts: dict[Partition, int], rows: int) -> dict[Partition, int]:
    """Share out rows by the largest remainder, at least one each."""
    if not counts:
        return {}
    spare = rows - len(counts)
    total = sum(counts.values())
    exact = {name: spare * count / total for name, count in counts.items()}
    shares = {name: int(value) for name, value in exact.items()}
    left = spare - sum(shares.values())
    for name in sorted(exact, key=lambda name: shares[name] - exact[name])[:left]:
        shares[name] += 1
    return {name: 1 + share for name, share in shares.items()}
