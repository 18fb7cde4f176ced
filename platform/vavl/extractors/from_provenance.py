"""The extractor that made some features, from their provenance: a model reads media with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vavl.errors import StoreError
from vavl.extractors import (
    descriptor,
    functionals,
    image_network,
    log_mel,
    openface,
    opensmile_features,
    speech_transformer,
)
from vavl.extractors.audio import audio_extractor, audio_info
from vavl.extractors.audio_settings import AudioSettings
from vavl.extractors.extracted import Extractor
from vavl.extractors.pretrained import check_same_files, without_sha256
from vavl.extractors.video import video_extractor, video_info
from vavl.extractors.video_settings import (
    ImageNetworkSettings,
    OpenFaceSettings,
    VideoFeatureSettings,
    VideoSettings,
)
from vavl.features import ModalityInfo

_AUDIO: TypeAdapter[AudioSettings] = TypeAdapter(AudioSettings)
_VIDEO: TypeAdapter[VideoSettings] = TypeAdapter(VideoSettings)
_AUDIO_NAMES = (log_mel.NAME, functionals.NAME, opensmile_features.NAME, speech_transformer.NAME)
_VIDEO_NAMES = (descriptor.NAME, image_network.NAME, openface.NAME)


def extractor_of(provenance: Mapping[str, Any], modality: str) -> Extractor:
    """Return the function from a media file to features such as those of ``provenance``.

    Args:
        provenance: ``extractor``, ``version`` and ``settings`` as a store or a model keeps them.
        modality: "audio" or "video", for messages.

    Raises:
        StoreError: the features came from a table, from an unknown extractor, from another version or from
            other weights.
        ConfigError: what the extractor needs is not here: a package, or the files of its model.
    """
    match extractor_settings(provenance, modality):
        case (VideoFeatureSettings() | ImageNetworkSettings() | OpenFaceSettings()) as video:
            return video_extractor(video)
        case audio:
            return audio_extractor(audio)


def extractor_settings(provenance: Mapping[str, Any], modality: str) -> AudioSettings | VideoSettings:
    """Return the settings of the extractor that ``extractor_of`` gives; no network is loaded.

    Raises:
        StoreError, ConfigError: see ``extractor_of``.
    """
    name = str(provenance.get("extractor", ""))
    settings = {**without_sha256(provenance.get("settings", {})), "extractor": name}
    try:
        if name in _AUDIO_NAMES:
            audio = _AUDIO.validate_python(settings)
            _check_same(provenance, audio_info(audio), modality)
            return audio
        if name in _VIDEO_NAMES:
            video = _VIDEO.validate_python(settings)
            _check_same(provenance, video_info(video), modality)
            return video
    except ValidationError as fault:
        raise StoreError(
            f"{modality} features",
            "settings",
            f"not known to {name}: {fault}",
            "use the version that made them",
        ) from None
    what = "come from a table of ready features" if name.startswith("table:") else f"come from `{name}`"
    raise StoreError(
        f"{modality} features", "extractor", f"{what}, which cannot be computed from a media file",
        f"give ready features ({modality}_features)",
    )  # fmt: skip


def _check_same(provenance: Mapping[str, Any], here: ModalityInfo, modality: str) -> None:
    if str(provenance.get("version")) != here.version:
        raise StoreError(
            f"{modality} features", "version",
            f"made by {here.extractor} {provenance.get('version')}, here is {here.version}",
            "use the code that the model was made with",
        )  # fmt: skip
    check_same_files(provenance.get("settings", {}), here, modality)
