"""Settings of the video extractors, in physical units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from vavl.config.base import FrozenConfig

MissedRule = Literal["interpolate", "mask"]


class VideoFeatureSettings(FrozenConfig):
    """Face crop, then appearance and motion of the face per frame; no weights."""

    extractor: Literal["face_descriptor"] = "face_descriptor"
    frame_rate_hz: float = Field(25, gt=0, le=120, description="frames are taken at this rate")
    longest_side_px: int = Field(
        320, ge=64, le=4096, description="larger pictures are reduced before anything else"
    )
    smallest_face: float = Field(
        0.2, gt=0, le=1, description="smallest face looked for, as a share of the shorter side"
    )
    crop_scale: float = Field(1.0, ge=0.5, le=3, description="side of the crop in sides of the face box")
    smoothing_ms: float = Field(
        120, ge=0, le=2000, description="deviation of the smoothing of the face's track"
    )
    longest_clip_s: float = Field(300, gt=0, description="a longer clip is quarantined: it would not fit")


class OpenFaceSettings(FrozenConfig):
    """What is read from OpenFace's tables."""

    extractor: Literal["openface"] = "openface"
    columns: tuple[str, ...] = Field(min_length=1, description="columns that are features, in this order")
    frame_rate_hz: float = Field(gt=0, le=1000, description="rows per second")
    least_confidence: float = Field(0.8, ge=0, le=1, description="below it a frame's face counts as missed")
    missed: MissedRule = Field("interpolate", description="frames without a face: interpolated, or left out")
    longest_gap_s: float = Field(1.0, ge=0, description="frames of a longer gap are left out")


def _video_extractor(content: Any) -> str:
    """Name the extractor of video settings, given as a mapping or as an object; face_descriptor unless stated."""
    if isinstance(content, Mapping):
        return str(content.get("extractor", "face_descriptor"))
    return str(getattr(content, "extractor", "face_descriptor"))


VideoSettings = Annotated[
    Annotated[VideoFeatureSettings, Tag("face_descriptor")] | Annotated[OpenFaceSettings, Tag("openface")],
    Discriminator(_video_extractor),
]
"""Settings of any video extractor; ``extractor`` tells which."""
