"""Settings of the extractors, in physical units."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, PlainValidator, Tag, field_validator, model_validator

from vavl.config.base import FrozenConfig
from vavl.config.places import FROM_ROOT
from vavl.config.plugins import check_keys, load_plugin
from vavl.extractors.extracted import ExtractorPlugin, MissedRule

PLUGIN_GROUP = "vavl.extractors"
"""Entry points of further extractors; each holds an ``ExtractorPlugin``."""
AUDIO_EXTRACTORS = ("log_mel", "functionals", "opensmile", "speech_transformer")
VIDEO_EXTRACTORS = ("face_descriptor", "image_network", "openface")
_PLUGIN, _SEVERAL = "plugin", "several"


def extractor_plugin(name: str, modality: str) -> ExtractorPlugin:
    """Return the installed extractor of a name.

    Raises:
        ValueError: see ``load_plugin``; or it makes features of the other modality.
    """
    known = AUDIO_EXTRACTORS if modality == "audio" else VIDEO_EXTRACTORS
    found = load_plugin(PLUGIN_GROUP, name, ExtractorPlugin, known)
    if found.modality != modality:
        raise ValueError(f"the plug-in `{name}` makes features of {found.modality}, not of {modality}")
    return found


def _by_extractor(*known: str) -> Discriminator:
    """Return the discriminator of a union of settings, given as mappings or as objects.

    Args:
        known: names of the union's own extractors, first that of settings that name none.
    """

    def name(content: Any) -> str:
        if isinstance(content, list | tuple):
            return _SEVERAL
        named = _extractor_name(content) or known[0]
        return named if named in known else _PLUGIN

    return Discriminator(name)


def _named(content: Any) -> Any:
    """Read the name of an extractor as its settings, all at their defaults."""
    if isinstance(content, list | tuple) and not content:
        raise ValueError("names no extractor")
    return {"extractor": content} if isinstance(content, str) else content


def _is_unset(value: Any) -> bool:
    """Tell whether a setting is left out of the provenance: features from before it was there keep theirs."""
    return not value


def _plugin_settings(modality: str) -> Callable[[Any], FrozenConfig]:
    """Return what validates settings by the class of the plug-in that they name."""

    def validate(content: Any) -> FrozenConfig:
        name = _extractor_name(content)
        settings = extractor_plugin(name, modality).settings
        check_keys(settings, content, name)
        return settings.model_validate(content)

    return validate


def _extractor_name(content: Any) -> str:
    if isinstance(content, Mapping):
        return str(content.get("extractor", ""))
    return str(getattr(content, "extractor", ""))


class PretrainedModel(FrozenConfig):
    """Which pretrained network, and how it runs."""

    folder: Annotated[Path | None, FROM_ROOT] = Field(
        None, description="local directory with config.json, model.safetensors and preprocessor_config.json"
    )
    hub: str | None = Field(
        None, pattern=r"^\w[\w.-]*/\w[\w.-]*$", description="or its name on the hub, e.g. google/vit-base-patch16-224"
    )
    revision: str | None = Field(
        None, pattern=r"^[0-9a-f]{40}$", description="commit on the hub, 40 digits: branches and tags can move"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if there is one")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of products and convolutions")

    @model_validator(mode="after")
    def _names_one_model(self) -> Self:
        if (self.folder is None) == (self.hub is None):
            raise ValueError("give either a directory or a name on the hub")
        if self.hub is not None and self.revision is None:
            raise ValueError(
                f"{self.hub} needs a revision, the commit of the hub that is meant: without it the same settings "
                "give other features when the model is changed there"
            )
        if self.hub is None and self.revision is not None:
            raise ValueError("a revision belongs to a name on the hub, not to a directory")
        return self


class FrameSettings(FrozenConfig):
    """What every extractor of frames can do with them; a plug-in's settings may inherit from it too."""

    pooling: Literal["statistics"] | None = Field(
        None,
        exclude_if=_is_unset,
        description="statistics: mean and deviation over the sounding frames, or those with a face: one frame per clip",
    )


class SegmentSettings(FrozenConfig):
    """Segments whose frames are summarized by their statistics."""

    length_ms: float = Field(600, gt=0, le=10_000, description="length of a segment")
    hop_ms: float = Field(200, gt=0, le=10_000, description="from one segment to the next")


class AudioFeatureSettings(FrameSettings):
    """Log-mel spectra: power in bands that are equally wide on the mel scale, in decibels."""

    extractor: Literal["log_mel"] = "log_mel"
    sample_rate_hz: int = Field(16_000, ge=4_000, le=192_000, description="audio is resampled to this rate")
    window_ms: float = Field(25, gt=0, le=500, description="length of the Hann window")
    hop_ms: float = Field(20, gt=0, le=500, description="from one frame to the next")
    mel_bands: int = Field(64, ge=1, le=512, description="bands of the mel filter bank")
    f_min_hz: float = Field(50, ge=0, description="lower edge of the lowest band")
    f_max_hz: float = Field(8_000, gt=0, description="upper edge of the highest band")
    floor_db: float = Field(-100, le=0, description="less power counts as this much; 0 dB is a full-scale sine")
    trim_silence_db: float | None = Field(
        None, gt=0, description="frames before and after the audio are left out: so far below the loudest one"
    )
    segments: SegmentSettings | None = Field(
        None, description="summarize the frames by segment: mean, deviation, change and 90 % quantile per band"
    )
    longest_clip_s: float = Field(300, gt=0, description="a longer clip is quarantined: it would not fit")

    @model_validator(mode="after")
    def _bands_fit(self) -> Self:
        if self.f_max_hz > self.sample_rate_hz / 2:
            raise ValueError(f"f_max_hz {self.f_max_hz} is above half the sample rate")
        if self.f_min_hz >= self.f_max_hz:
            raise ValueError(f"f_min_hz {self.f_min_hz} is not below f_max_hz {self.f_max_hz}")
        if self.hop_ms * self.sample_rate_hz < 1000 or self.window_ms * self.sample_rate_hz < 16_000:
            raise ValueError("the hop needs at least 1 sample and the window 16")
        return self

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second, of segments where they are used."""
        return 1000 / (self.segments.hop_ms if self.segments else self.hop_ms)


class PitchSettings(FrozenConfig):
    """Where and how the pitch of a voice is looked for."""

    lowest_hz: float = Field(65, gt=0, description="lowest pitch that is looked for")
    highest_hz: float = Field(600, gt=0, description="highest pitch that is looked for")
    window_ms: float = Field(40, gt=0, le=500, description="holds at least two periods of the lowest pitch")

    @model_validator(mode="after")
    def _periods_fit(self) -> Self:
        if self.lowest_hz >= self.highest_hz:
            raise ValueError(f"lowest_hz {self.lowest_hz} is not below highest_hz {self.highest_hz}")
        if self.window_ms * self.lowest_hz < 2000:
            raise ValueError(f"window_ms {self.window_ms} holds less than two periods of {self.lowest_hz} Hz")
        return self


class FunctionalSettings(FrozenConfig):
    """Statistics of a whole clip, one vector: cepstrum, pitch, loudness, voice quality, courses, rhythm."""

    extractor: Literal["functionals"] = "functionals"
    spectra: AudioFeatureSettings = AudioFeatureSettings(hop_ms=10, trim_silence_db=35)
    pitch: PitchSettings = PitchSettings()
    cepstral_coefficients: int = Field(20, ge=1, le=64, description="per frame")
    contoured: int = Field(13, ge=1, description="cepstral coefficients whose course over the clip counts")
    contour_coefficients: int = Field(8, ge=1, le=32, description="cosine coefficients of each course")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.spectra.segments is not None or self.spectra.pooling is not None:
            raise ValueError("spectra.segments and .pooling are for log_mel: functionals summarize the whole clip")
        if not self.contoured <= self.cepstral_coefficients <= self.spectra.mel_bands:
            raise ValueError(
                f"contoured {self.contoured} <= cepstral_coefficients {self.cepstral_coefficients} <= "
                f"spectra.mel_bands {self.spectra.mel_bands} does not hold"
            )
        if self.pitch.highest_hz > self.spectra.sample_rate_hz / 8:
            raise ValueError(f"pitch.highest_hz {self.pitch.highest_hz} is above an eighth of the sample rate")
        return self


class OpensmileSettings(FrameSettings):
    """Feature sets of openSMILE: descriptors every 10 ms, or their functionals, one vector per clip."""

    extractor: Literal["opensmile"] = "opensmile"
    feature_set: Literal["eGeMAPSv02", "ComParE_2016"] = Field("eGeMAPSv02", description="one of openSMILE's")
    level: Literal["descriptors", "functionals"] = Field("functionals", description="a row per frame, or one per clip")
    channels: str = Field(
        ".*", description="expression for the whole names of the channels to keep, e.g. mfcc.* for the cepstrum"
    )
    sample_rate_hz: int = Field(16_000, ge=8_000, le=96_000, description="audio is resampled to this rate")
    longest_clip_s: float = Field(300, gt=0, description="a longer clip is quarantined: it would not fit")

    @model_validator(mode="after")
    def _pools_frames(self) -> Self:
        if self.pooling is not None and self.level == "functionals":
            raise ValueError("pooling is for level: descriptors; functionals are one frame per clip already")
        return self

    @field_validator("channels")
    @classmethod
    def _is_an_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return value


class SpeechTransformerSettings(FrameSettings):
    """Hidden states of wav2vec 2.0, WavLM, HuBERT or Whisper's encoder; about 50 frames a second."""

    extractor: Literal["speech_transformer"] = "speech_transformer"
    backbone: PretrainedModel
    kind: Literal["wav2vec2", "wavlm", "hubert", "whisper"] | None = Field(
        None, description="refuse a directory that holds another type of model"
    )
    layers: tuple[int, int] = Field(
        description="first and last of the layers whose mean is taken; twice the same takes one. 0 is what enters "
        "the first block"
    )
    keep_layers: bool = Field(
        False,
        exclude_if=_is_unset,
        description="keep the layers side by side (layers x channels) instead of their mean",
    )
    trim_silence_db: float | None = Field(
        None,
        gt=0,
        exclude_if=_is_unset,
        description="frames before and after the audio are left out, as for log_mel; the network hears them all",
    )
    chunk_s: float = Field(
        20, ge=1, le=300, description="a longer clip is cut into chunks of equal length; Whisper's are its window"
    )
    overlap_s: float = Field(4, ge=0, description="of neighboring chunks; there they fade into each other")
    batch_size: int = Field(4, ge=1, le=256, description="chunks of a clip that run at once")
    longest_clip_s: float = Field(300, gt=0, description="a longer clip is quarantined: it would not fit")

    @model_validator(mode="after")
    def _ranges_fit(self) -> Self:
        if not 0 <= self.layers[0] <= self.layers[1]:
            raise ValueError(f"layers {list(self.layers)} are no range: first <= last, 0 or more")
        if self.overlap_s > self.chunk_s / 2:
            raise ValueError(f"overlap_s {self.overlap_s} is more than half of chunk_s {self.chunk_s}")
        return self


_AudioUnion = (
    Annotated[AudioFeatureSettings, Tag("log_mel")]
    | Annotated[FunctionalSettings, Tag("functionals")]
    | Annotated[OpensmileSettings, Tag("opensmile")]
    | Annotated[SpeechTransformerSettings, Tag("speech_transformer")]
    | Annotated[Any, PlainValidator(_plugin_settings("audio")), Tag(_PLUGIN)]
)
OneAudioSettings = Annotated[_AudioUnion, _by_extractor(*AUDIO_EXTRACTORS), BeforeValidator(_named)]
AudioSettings = Annotated[
    _AudioUnion | Annotated[tuple[OneAudioSettings, ...], Tag(_SEVERAL)],
    _by_extractor(*AUDIO_EXTRACTORS),
    BeforeValidator(_named),
]
"""Settings of any audio extractor, ``extractor`` tells which; or of several, whose channels are joined."""


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
        320, ge=64, le=4096, description="larger frames are reduced before faces are looked for"
    )
    smallest_face: float = Field(
        0.2, gt=0, le=1, description="smallest face looked for, as a share of the shorter side"
    )
    smoothing_ms: float = Field(120, ge=0, le=2000, description="deviation of the smoothing of the face's track")
    align: bool = Field(
        False, description="turn and size crops by five landmarks; the cascade has none, its crops stay level"
    )
    missed: MissedRule = Field("interpolate", description="frames without a face: between their neighbors, or left out")
    longest_gap_s: float = Field(
        1.0, ge=0, description="frames of a longer gap are left out; after it another face may be followed"
    )


class VideoFeatureSettings(FrameSettings):
    """Face crop, then appearance and motion of the face per frame; no weights."""

    extractor: Literal["face_descriptor"] = "face_descriptor"
    frame_rate_hz: float = Field(25, gt=0, le=120, description="frames are taken at this rate")
    faces: FaceSettings = FaceSettings()
    crop_scale: float = Field(1.0, ge=0.5, le=3, description="side of the crop in sides of the face box")
    longest_clip_s: float = Field(300, gt=0, description="a longer clip is quarantined: it would not fit")


class ImageNetworkSettings(FrameSettings):
    """A pretrained image network on the face crop of every frame: EfficientNet, ViT, MobileNet V1 or V2."""

    extractor: Literal["image_network"]
    backbone: PretrainedModel
    frame_rate_hz: float = Field(25, gt=0, le=120, description="frames are taken at this rate")
    faces: FaceSettings = FaceSettings()
    crop_scale: float = Field(1.3, ge=0.5, le=3, description="side of the crop in sides of the face box")
    batch_size: int = Field(32, ge=1, description="crops that go through the network at once")
    longest_clip_s: float = Field(300, gt=0, description="a longer clip is quarantined: it would not fit")


class OpenFaceSettings(FrameSettings):
    """What is read from OpenFace's tables; a card with such tables makes these settings."""

    extractor: Literal["openface"] = "openface"
    columns: tuple[str, ...] = Field(min_length=1, description="columns that are features, in this order")
    frame_rate_hz: float = Field(gt=0, le=1000, description="rows per second")
    least_confidence: float = Field(0.8, ge=0, le=1, description="below it a frame's face counts as missed")
    missed: MissedRule = Field("interpolate", description="frames without a face: interpolated, or left out")
    longest_gap_s: float = Field(1.0, ge=0, description="frames of a longer gap are left out")


_VideoUnion = (
    Annotated[VideoFeatureSettings, Tag("face_descriptor")]
    | Annotated[ImageNetworkSettings, Tag("image_network")]
    | Annotated[OpenFaceSettings, Tag("openface")]
    | Annotated[Any, PlainValidator(_plugin_settings("video")), Tag(_PLUGIN)]
)
OneVideoSettings = Annotated[_VideoUnion, _by_extractor(*VIDEO_EXTRACTORS), BeforeValidator(_named)]
VideoSettings = Annotated[
    _VideoUnion | Annotated[tuple[OneVideoSettings, ...], Tag(_SEVERAL)],
    _by_extractor(*VIDEO_EXTRACTORS),
    BeforeValidator(_named),
]
"""Settings of any video extractor; or of several."""
