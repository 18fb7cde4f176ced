"""The extractor of some settings, or of the provenance of features: extraction, serving and prediction call it.

An extractor is imported where its settings ask for it: a registered model carries its own alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from vavl.config.plugins import missing_plugin, plugin_distribution
from vavl.errors import ConfigError, StoreError
from vavl.extractors import log_mel
from vavl.extractors.descriptor import VideoExtractor, descriptor_info
from vavl.extractors.extracted import Extracted, Extractor, read_modality
from vavl.extractors.face_detectors import make_detector
from vavl.extractors.faces import FaceTrack
from vavl.extractors.settings import (
    AUDIO_EXTRACTORS,
    PLUGIN_GROUP,
    VIDEO_EXTRACTORS,
    AudioFeatureSettings,
    AudioSettings,
    FunctionalSettings,
    ImageNetworkSettings,
    OneAudioSettings,
    OneVideoSettings,
    OpenFaceSettings,
    OpensmileSettings,
    SpeechTransformerSettings,
    VideoFeatureSettings,
    VideoSettings,
    extractor_plugin,
)
from vavl.features import ModalityInfo
from vavl.media.sound import read_sound

logger = logging.getLogger(__name__)


class _Kind(NamedTuple):
    """What is done with the settings of one kind of extractor."""

    make: Callable[[Any], Extractor]
    info: Callable[[Any], ModalityInfo]
    check: Callable[[Any], object]  # raises before any file is read what would fail at each; loads no network


def _kind(settings: OneAudioSettings | OneVideoSettings, modality: str) -> _Kind:
    match settings:
        case AudioFeatureSettings():
            return _Kind(_of_sound, log_mel.log_mel_info, log_mel.mel_filters)
        case FunctionalSettings():
            from vavl.extractors.functionals import functionals_info

            return _Kind(_of_sound, functionals_info, lambda one: log_mel.mel_filters(one.spectra))
        case OpensmileSettings():
            from vavl.extractors import opensmile_features as smile

            return _Kind(lambda one: smile.OpensmileExtractor(one).extract, smile.opensmile_info, smile.channel_names)
        case SpeechTransformerSettings():
            from vavl.extractors import speech_transformer as speech

            make = speech.SpeechTransformerExtractor
            return _Kind(lambda one: make(one).extract, speech.speech_transformer_info, speech.find_speech_model)
        case VideoFeatureSettings():
            return _Kind(lambda one: VideoExtractor(one).extract, descriptor_info, _check_faces)
        case ImageNetworkSettings():
            from vavl.extractors import image_network as images

            return _Kind(lambda one: images.ImageNetworkExtractor(one).extract, images.image_network_info, _check_faces)
        case OpenFaceSettings():
            from vavl.extractors.openface import openface_info, read_openface

            return _Kind(lambda one: partial(read_openface, settings=one), openface_info, _refuse_tables)
        case _:
            info = partial(_plugin_info, modality=modality)
            return _Kind(extractor_plugin(settings.extractor, modality).extractor, info, info)


def audio_extractor(settings: AudioSettings) -> Extractor:
    """Return the extractor of these settings; of several it joins the channels.

    Raises:
        ConfigError: the bands do not fit the window, what the extractor needs is not installed, or several
            extractors have frames that do not agree.
    """
    return _made(settings, "audio")


def video_extractor(settings: VideoSettings) -> Extractor:
    """Return the extractor of these settings, as ``audio_extractor`` does; ConfigError also if a file is missing."""
    return _made(settings, "video")


def audio_info(settings: AudioSettings) -> ModalityInfo:
    """Return the provenance of audio features; raises as ``audio_extractor``."""
    return _info(settings, "audio")


def video_info(settings: VideoSettings) -> ModalityInfo:
    """Return the provenance of video features. Raises ConfigError if a file that the extractor needs is missing."""
    return _info(settings, "video")


def check_features(settings: AudioSettings | VideoSettings, modality: str) -> None:
    """Raise before any file is read what would fail at each; loads no network.

    Raises:
        ConfigError: as ``audio_extractor`` and ``video_extractor``, or the settings are those of a card's tables.
    """
    if isinstance(settings, tuple):
        for one in settings:
            check_features(one, modality)
        _info(settings, modality)
    else:
        _kind(settings, modality).check(settings)


def extract_audio(path: Path, settings: AudioFeatureSettings | FunctionalSettings) -> Extracted:
    """Return the audio features of a file that need no model.

    Raises:
        ClipError: the sound cannot be read (see ``vavl.media.sound.read_sound``).
        ConfigError: the bands do not fit the window.
    """
    spectral = settings.spectra if isinstance(settings, FunctionalSettings) else settings
    sound = read_sound(path, spectral.sample_rate_hz, spectral.longest_clip_s)
    if isinstance(settings, AudioFeatureSettings):
        values, times = log_mel.clip_spectra(sound.waveform, settings)
    else:
        from vavl.extractors.functionals import clip_functionals

        values, times = clip_functionals(sound.waveform, settings)
    return Extracted(values, times, note=sound.note, facts=sound.facts)


def _made(settings: Any, modality: str) -> Extractor:
    if not _is_combined(settings):
        return _kind(settings, modality).make(settings)
    from vavl.extractors.combined import joined, pooled

    if not isinstance(settings, tuple):
        return pooled(_kind(settings, modality).make(settings), modality)
    parts = [_made(one, modality) for one in settings]
    return joined(parts, modality, _info(settings, modality).frame_rate_hz)


def _info(settings: Any, modality: str) -> ModalityInfo:
    if not _is_combined(settings):
        return _kind(settings, modality).info(settings)
    from vavl.extractors.combined import joined_info, pooled_info

    if not isinstance(settings, tuple):
        return pooled_info(_kind(settings, modality).info(settings))
    return joined_info([_info(one, modality) for one in settings], modality)


def _is_combined(settings: Any) -> bool:
    return isinstance(settings, tuple) or getattr(settings, "pooling", None) is not None  # a plug-in need not have it


def _of_sound(settings: AudioFeatureSettings | FunctionalSettings) -> Extractor:
    check_features(settings, "audio")
    return partial(extract_audio, settings=settings)


def _check_faces(settings: VideoFeatureSettings | ImageNetworkSettings) -> None:
    make_detector(settings.faces)
    if settings.faces.align and settings.faces.detector == "cascade":
        logger.warning("features.video.faces.align: the cascade finds no landmarks, its crops stay level")
    if isinstance(settings, ImageNetworkSettings):
        from vavl.extractors.image_network import check_image_network

        check_image_network(settings)


def _refuse_tables(_: OpenFaceSettings) -> None:
    fix = "write `source: openface` into the card, or choose another extractor"
    raise ConfigError("features.video", "extractor", "openface reads tables, and the card names video files", fix)


def _plugin_info(settings: Any, modality: str) -> ModalityInfo:
    """Return the provenance of a plug-in's features, with the name of its distribution: a model needs it again."""
    name = settings.extractor
    info = extractor_plugin(name, modality).info(settings)
    recorded = {**info.settings, "distribution": plugin_distribution(PLUGIN_GROUP, name)}
    return replace(info, extractor=name, settings=recorded)


_SETTINGS: Mapping[str, tuple[tuple[str, ...], TypeAdapter[Any]]] = {
    "audio": (AUDIO_EXTRACTORS, TypeAdapter(AudioSettings)),
    "video": (VIDEO_EXTRACTORS, TypeAdapter(VideoSettings)),
}


class MediaReader:
    """Reads media with the extractors of a model, each made when it is first needed.

    Args:
        provenance: of the features by modality; see ``extractor_of``.
    """

    def __init__(self, provenance: Mapping[str, Mapping[str, Any]]) -> None:
        self.provenance = provenance
        self._extractors: dict[str, Extractor] = {}

    def read(self, path: Path, modality: str, name: str = "", face: FaceTrack | None = None) -> Extracted:
        """Return the features of one modality of a file.

        Args:
            path: of the file.
            modality: "audio" or "video".
            name: of the file, for messages; its path by default.
            face: to describe, of extractors that follow one; by default the one that they follow.

        Raises:
            StoreError, ConfigError: see ``extractor_of``.
            ClipError: see ``read_modality``.
        """
        if modality not in self._extractors:
            self._extractors[modality] = extractor_of(self.provenance[modality], modality)
        extract: Callable[..., Extracted] = partial(self._extractors[modality], **({"known": face} if face else {}))
        return read_modality(extract, path, name or str(path), modality)


def extractor_of(provenance: Mapping[str, Any], modality: str) -> Extractor:
    """Return the function from a media file to features such as those of ``provenance``.

    Args:
        provenance: ``extractor``, ``version`` and ``settings`` as a store or a model keeps them.
        modality: "audio" or "video".

    Raises:
        StoreError: the features came from a table, from an unknown extractor, from another version, from
            other weights or from a plug-in that is not installed here.
        ConfigError: what the extractor needs is not here: a package, or the files of its model.
    """
    return _made(extractor_settings(provenance, modality), modality)


def extractor_settings(provenance: Mapping[str, Any], modality: str) -> AudioSettings | VideoSettings:
    """Return the settings of the extractor that ``extractor_of`` gives; no network is loaded.

    Raises:
        StoreError, ConfigError: see ``extractor_of``.
    """
    name = str(provenance.get("extractor", ""))
    if (parts := provenance.get("settings", {}).get("parts")) is not None:
        return tuple(extractor_settings(part, modality) for part in parts)
    settings = {**without_sha256(provenance.get("settings", {})), "extractor": name}
    distribution = settings.pop("distribution", None)
    if (missing := missing_plugin(provenance)) is not None:
        fix = f"pip install {distribution}; requirements.txt of a registered model names its version"
        raise StoreError(f"{modality} features", "extractor", missing, fix)
    known, kinds = _SETTINGS[modality]
    try:
        if name in known or distribution:
            found: AudioSettings | VideoSettings = kinds.validate_python(settings)
            _check_same(provenance, _info(found, modality), modality)
            return found
    except ValidationError as error:
        problem = f"not known to {name}: {error}"
        raise StoreError(f"{modality} features", "settings", problem, "use the version that made them") from None
    what = "come from a table of ready features" if name.startswith("table:") else f"come from `{name}`"
    fix = f"give ready features ({modality}_features)"
    raise StoreError(f"{modality} features", "extractor", f"{what}, which cannot be computed from a media file", fix)


def _check_same(provenance: Mapping[str, Any], here: ModalityInfo, modality: str) -> None:
    if str(provenance.get("version")) != here.version:
        problem = f"made by {here.extractor} {provenance.get('version')}, here is {here.version}"
        raise StoreError(f"{modality} features", "version", problem, "use the code that the model was made with")
    check_same_files(provenance.get("settings", {}), here.settings, modality)


def without_sha256(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return recorded settings as a settings class takes them."""
    kept = {key: value for key, value in settings.items() if not key.endswith("_sha256")}
    return {key: without_sha256(value) if isinstance(value, Mapping) else value for key, value in kept.items()}


def check_same_files(recorded: Mapping[str, Any], here: Mapping[str, Any], modality: str) -> None:
    """Refuse to go on with other weights than the recorded ones.

    ``recorded``: settings as ``recorded_settings`` gave them. ``here``: the same settings on this machine.

    Raises:
        StoreError: a file of the model differs.
    """
    for key, value in here.items():
        if not key.endswith("_sha256"):
            if isinstance(value, Mapping):
                check_same_files(recorded.get(key) or {}, value, modality)
            continue
        old, new = _by_file(key, recorded.get(key)), _by_file(key, value)
        if old != new:
            differing = ", ".join(name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name))
            problem = f"made with other files of the model, different here: {differing}"
            fix = "put the files there that the features were made with (their SHA-256 is in the store)"
            raise StoreError(f"{modality} features", key, problem, fix)


def _by_file(key: str, hashes: Any) -> dict[str, Any]:
    """Return file -> SHA-256, also where a setting names a single file."""
    return dict(hashes) if isinstance(hashes, Mapping) else {key.removesuffix("_sha256"): hashes}
