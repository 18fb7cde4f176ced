"""Settings of the video extractors, in physical units."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, Tag

from vavl.config.base import FrozenConfig
from vavl.config.places import FROM_ROOT
from vavl.extractors.extractor_name import by_extractor
from vavl.extractors.pretrained_files import PretrainedModel

MissedRule = Literal["interpolate", "mask"]


class FaceSettings(FrozenConfig):
    """How the face of a clip is found and followed."""

    detector: Literal["cascade", "yunet"] = Field(
        "cascade", description="cascade comes with OpenCV; yunet needs its file and finds landmarks"
    )
    yunet_model: Annotated[Path | None, FROM_ROOT] = Field(
        None, description="face_detection_yunet_2023mar.onnx of OpenCV Zoo"
    )
    least_score: float = Field(0.7, ge=0, le=1, description="of yunet; below it there is no face")
    longest_side_px: int = Field(
        320, ge=64, le=4096, description="larger pictures are reduced before faces are looked for"
    )
    smallest_face: float = Field(
        0.2, gt=0, le=1, description="smallest face looked for, as a share of the shorter side"
    )
    smoothing_ms: float = Field(
        120, ge=0, le=2000, description="deviation of the smoothing of the face's track"
    )
    align: bool = Field(
        False, description="turn and size crops by five landmarks; the cascade has none, its crops stay level"
    )
    missed: MissedRule = Field(
        "interpolate", description="frames without a face: between their neighbours, or left out"
    )
    longest_gap_s: float = Field(
        1.0, ge=0, description="frames of a longer gap are left out; after it another face may be followed"
    )


class VideoFeatureSettings(FrozenConfig):
    """Face crop, then appearance and motion of the face per frame; no weights."""

    extractor: Literal["face_descriptor"] = "face_descriptor"
    frame_rate_hz: float = Field(25, gt=0, le=120, description="frames are taken at this rate")
    faces: FaceSettings = FaceSettings()
    crop_scale: float = Field(1.0, ge=0.5, le=3, description="side of the crop in sides of the face box")
    longest_clip_s: float = Field(300, gt=0, description="a longer clip is quarantined: it would not fit")


class ImageNetworkSettings(FrozenConfig):
    """A pretrained image network on the face crop of every frame: EfficientNet, ViT, MobileNet V1 or V2."""

    extractor: Literal["image_network"]
    backbone: PretrainedModel
    frame_rate_hz: float = Field(25, gt=0, le=120, description="frames are taken at this rate")
    faces: FaceSettings = FaceSettings()
    crop_scale: float = Field(1.3, ge=0.5, le=3, description="side of the crop in sides of the face box")
    batch_size: int = Field(32, ge=1, description="crops that go through the network at once")
    longest_clip_s: float = Field(300, gt=0, description="a longer clip is quarantined: it would not fit")


class OpenFaceSettings(FrozenConfig):
    """What is read from OpenFace's tables; a card with such tables makes these settings."""

    extractor: Literal["openface"] = "openface"
    columns: tuple[str, ...] = Field(min_length=1, description="columns that are features, in this order")
    frame_rate_hz: float = Field(gt=0, le=1000, description="rows per second")
    least_confidence: float = Field(0.8, ge=0, le=1, description="below it a frame's face counts as missed")
    missed: MissedRule = Field("interpolate", description="frames without a face: interpolated, or left out")
    longest_gap_s: float = Field(1.0, ge=0, description="frames of a longer gap are left out")


VideoSettings = Annotated[
    Annotated[VideoFeatureSettings, Tag("face_descriptor")]
    | Annotated[ImageNetworkSettings, Tag("image_network")]
    | Annotated[OpenFaceSettings, Tag("openface")],
    by_extractor("face_descriptor"),
]
"""Settings of any video extractor; ``extractor`` tells which."""
