"""Every threshold of an audit, in one place."""

from __future__ import annotations

from pydantic import Field

from vavl.config.base import FrozenConfig
from vavl.config.files import sha256_of_json


class MediaThresholds(FrozenConfig):
    """What sound and pictures of a clip should be like. Shares ``*_failed`` are of the clips known."""

    shortest_s: float = Field(0.15, ge=0, description="a shorter clip is listed")
    longest_s: float = Field(120, gt=0, description="a longer clip is listed")
    duration_outlier_deviations: float = Field(
        8,
        gt=0,
        description="a clip is listed whose log duration is further from the median, in robust deviations",
    )
    odd_durations_failed: float = Field(
        0.2, ge=0, le=1, description="more clips of odd duration fail the audit"
    )
    side_difference_s: float = Field(0.25, ge=0, description="sound and picture may differ in length by this")
    side_difference_share: float = Field(0.1, ge=0, description="... or by this share of the longer side")
    side_difference_failed: float = Field(0.1, ge=0, le=1, description="more clips with such sides fail")
    silent_peak_dbfs: float = Field(-60, le=0, description="a clip whose peak is not higher is silent")
    silent_share: float = Field(
        0.98, ge=0, le=1, description="... so is one with this share of silence in time"
    )
    silent_failed: float = Field(0.005, ge=0, le=1, description="more silent clips fail")
    clipped_share: float = Field(
        0.005, ge=0, le=1, description="a clip with more samples at full scale is listed"
    )
    clipped_failed: float = Field(0.2, ge=0, le=1, description="more clipped clips fail")
    faceless_frames: float = Field(
        0.5, ge=0, le=1, description="a clip with more frames without a face is listed"
    )
    faceless_warning: float = Field(0.05, ge=0, le=1, description="more such clips are worth a warning")
    faceless_failed: float = Field(0.5, ge=0, le=1, description="more such clips fail")


class LeakThresholds(FrozenConfig):
    """What may not be known of a test clip before its features are looked at."""

    neighbour_clips: int = Field(
        5000,
        ge=2,
        description="clips compared with each other per modality; drawn evenly from a larger corpus",
    )
    neighbour_ratio: float = Field(
        0.2, gt=0, le=1,
        description="a test clip is a near-duplicate when its nearest training clip is closer than this share "
        "of what is near among training clips of different speakers",
    )  # fmt: skip
    neighbour_quantile: float = Field(
        0.01, gt=0, lt=1, description="what is near: this quantile of their nearest distances"
    )
    neighbour_failed: float = Field(
        0.002, ge=0, le=1, description="more near-duplicates among a fold's test clips fail; fewer warn"
    )
    identity_groups: tuple[str, ...] = Field(
        ("sentence", "statement"), description="group_<name> columns that say what is spoken"
    )
    identity_warning: float = Field(
        0.05, ge=0, le=1, description="recall above chance from speaker and sentence alone that warns"
    )
    identity_failed: float = Field(0.15, ge=0, le=1, description="... and that fails")
    chance_deviations: float = Field(
        4, ge=0, description="what is above chance by fewer standard deviations is chance"
    )
    batch_size: int = Field(32, ge=2, description="clips of the batches that are looked at")
    batch_clips: int = Field(20_000, ge=100, description="clips drawn into them, over several passes")
    batch_warning: float = Field(
        0.1, ge=0, le=1, description="agreement (kappa) of a clip's label with its batch-mates' that warns"
    )
    batch_failed: float = Field(0.3, ge=0, le=1, description="... and that fails")


class AuditSettings(FrozenConfig):
    """Settings of an audit; what training judges by are the defaults."""

    media: MediaThresholds = MediaThresholds()
    leaks: LeakThresholds = LeakThresholds()
    class_ratio_warning: float = Field(
        10, ge=1, description="ratio of the largest to the smallest class of a split that warns"
    )
    unpaired_warning: float = Field(0.05, ge=0, le=1, description="share of clips with one side that warns")
    unpaired_failed: float = Field(
        0.95, ge=0, le=1, description="... and that fails: the names of the two sides hardly ever meet"
    )
    quarantined_failed: float = Field(
        0.05, ge=0, le=1, description="share of unreadable files that fails; any is worth a warning"
    )
    most_examples: int = Field(10, ge=1, le=1000, description="clips listed per check")

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits over all thresholds."""
        return sha256_of_json(self.model_dump(mode="json"))[:16]
