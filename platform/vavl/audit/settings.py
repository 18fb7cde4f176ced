"""Every threshold of an audit, in one place."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vavl.config.base import FrozenConfig
from vavl.config.files import sha256_of_json

Share = Annotated[float, Field(ge=0, le=1)]


class MediaThresholds(FrozenConfig):
    """What audio and video of a clip should be like. Shares ``*_failed`` are of the clips known."""

    shortest_s: float = Field(0.15, ge=0, description="a shorter clip is listed")
    longest_s: float = Field(120, gt=0, description="a longer clip is listed")
    odd_durations_failed: Share = Field(0.2, description="more clips of odd duration fail the audit")
    side_difference_s: float = Field(0.25, ge=0, description="audio and video may differ in length by this")
    side_difference_share: float = Field(0.1, ge=0, description="... or by this share of the longer one")
    side_difference_failed: Share = Field(0.1, description="more such clips fail")
    silent_peak_dbfs: float = Field(-60, le=0, description="a clip whose peak is not higher is silent")
    silent_share: Share = Field(0.98, description="... so is one with this share of silence in time")
    silent_failed: Share = Field(0.005, description="more silent clips fail")
    clipped_share: Share = Field(0.005, description="a clip with more samples at full scale is listed")
    clipped_failed: Share = Field(0.2, description="more clipped clips fail")
    faceless_frames: Share = Field(0.5, description="a clip with more frames without a face is listed")
    faceless_warning: Share = Field(0.05, description="more such clips are worth a warning")
    faceless_failed: Share = Field(0.5, description="more such clips fail")


class LeakThresholds(FrozenConfig):
    """What may not be known of a test clip before its features are looked at."""

    neighbour_clips: int = Field(
        5000, ge=2, description="clips compared with each other per modality; drawn evenly from a larger corpus"
    )
    neighbour_ratio: float = Field(
        0.2,
        gt=0,
        le=1,
        description="a test clip is a near-duplicate when its nearest training clip is closer than this share "
        "of what is near among training clips of different speakers",
    )
    neighbour_failed: Share = Field(
        0.002, description="more near-duplicates among a fold's test clips fail; fewer warn"
    )
    identity_groups: tuple[str, ...] = Field(
        ("sentence", "statement"), description="group_<name> columns that say what is spoken"
    )
    identity_warning: Share = Field(0.05, description="recall above chance from speaker and sentence alone that warns")
    identity_failed: Share = Field(0.15, description="... and that fails")
    sentence_groups: tuple[str, ...] = Field(
        ("sentence", "statement", "text", "utterance"), description="group_<name> columns of sentences to look at"
    )
    sentence_warning: Share = Field(0.05, description="accuracy above chance from the sentence alone that warns")
    many_speakers: int = Field(20, ge=1, description="from so many speakers on, few clips each are a warning")
    fewest_clips: float = Field(3, ge=0, description="... when the median of clips per speaker is lower")
    batch_size: int = Field(32, ge=2, description="clips of the batches that are looked at")
    batch_warning: Share = Field(
        0.1, description="agreement (kappa) of a clip's label with its batch-mates' that warns"
    )
    batch_failed: Share = Field(0.3, description="... and that fails")


class AuditSettings(FrozenConfig):
    """Settings of an audit; what training judges by are the defaults."""

    media: MediaThresholds = MediaThresholds()
    leaks: LeakThresholds = LeakThresholds()
    class_ratio_warning: float = Field(
        10, ge=1, description="ratio of the largest to the smallest class of a split that warns"
    )
    unpaired_warning: Share = Field(0.05, description="share of clips with one modality that warns")
    unpaired_failed: Share = Field(
        0.95, description="... and that fails: the names of audio and video files hardly ever meet"
    )
    quarantined_failed: Share = Field(0.05, description="share of unreadable files that fails; any is worth a warning")
    most_examples: int = Field(10, ge=1, le=1000, description="clips listed per check")

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits over all thresholds."""
        return sha256_of_json(self.model_dump(mode="json"))[:16]
