"""Settings of the video extractors, in physical units."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vavl.config.base import FrozenConfig


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


VideoSettings = VideoFeatureSettings
"""Settings of any video extractor; ``extractor`` tells which."""
