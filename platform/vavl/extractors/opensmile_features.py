"""Descriptors and functionals of openSMILE (Eyben et al. 2010) through audEERING's ``opensmile`` package.

Its license allows research and not products, neither the software nor features made with it: see README.md.
"""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vavl.errors import ClipError, ConfigError
from vavl.extractors.extracted import Extracted
from vavl.extractors.settings import OpensmileSettings
from vavl.features import ModalityInfo
from vavl.media.sound import Sound, read_sound

if TYPE_CHECKING:
    import opensmile

NAME = "opensmile"
VERSION = "1"
HOP_S = 0.01
"""From one frame of low-level descriptors to the next, in every feature set."""

_CENTRE_S = 0.01  # of the first frame: spectral windows are 20 ms long
_SHORTEST_S = 0.06  # the window of the pitch
_LARGEST = 32767 / 32768


class OpensmileExtractor:
    """Runs one feature set of openSMILE over clips.

    Args:
        settings: feature set, level and channels.

    Raises:
        ConfigError: opensmile is not installed, or no channel matches.
    """

    def __init__(self, settings: OpensmileSettings) -> None:
        self._settings = settings
        self._smile = _smile(settings.feature_set, settings.level)
        names = channel_names(settings)
        self._columns = [place for place, name in enumerate(self._smile.feature_names) if name in set(names)]

    def extract(self, path: Path) -> Extracted:
        """Return the features of a file.

        Frame k of the descriptors is at 10 ms + k * 10 ms, the center of its 20 ms window; pitch, voice
        quality and zero crossings look at 60 ms from the same start. Functionals are one frame, in the middle
        of the clip.

        Raises:
            ClipError: the sound cannot be read (see ``vavl.media.sound.read_sound``) or is shorter than 60 ms.
        """
        rate = self._settings.sample_rate_hz
        sound = read_sound(path, rate, self._settings.longest_clip_s)
        if len(sound.waveform) < _SHORTEST_S * rate:
            problem = f"{len(sound.waveform) / rate:.3f} s are too short for openSMILE: it needs 0.06 s"
            raise ClipError(str(path), "audio", problem, "leave the clip out, or use log_mel")
        values = self._values(sound)
        if self._settings.level == "functionals":
            times = np.array([len(sound.waveform) / rate / 2])
        else:
            times = _CENTRE_S + HOP_S * np.arange(len(values))
        return Extracted(values, times.astype(np.float32), note=sound.note, facts=sound.facts)

    def _values(self, sound: Sound) -> NDArray[np.float32]:
        # The package turns samples into 16 bits without looking: +1.0 would come out as -1.0.
        bounded = np.clip(sound.waveform, -1, _LARGEST)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its own use of pandas
            table = self._smile.process_signal(bounded, self._settings.sample_rate_hz)
        return np.ascontiguousarray(table.to_numpy(np.float32)[:, self._columns])


def opensmile_info(settings: OpensmileSettings) -> ModalityInfo:
    """Return the provenance of the features; raises as ``channel_names``."""
    names, rate = channel_names(settings), None if settings.level == "functionals" else 1 / HOP_S
    return ModalityInfo(NAME, VERSION, settings.model_dump(mode="json"), rate, len(names), names)


def channel_names(settings: OpensmileSettings) -> tuple[str, ...]:
    """Return the names of the channels as openSMILE calls them, in its order.

    Raises:
        ConfigError: opensmile is not installed, or no channel matches.
    """
    names = _smile(settings.feature_set, settings.level).feature_names
    found = tuple(name for name in names if re.fullmatch(settings.channels, name))
    if not found:
        problem = f"`{settings.channels}` matches none of the {len(names)} channels, e.g. {names[0]}"
        fix = "write an expression for whole names, or leave it out for all"
        raise ConfigError("features.audio", "channels", problem, fix)
    return found


@cache
def _smile(feature_set: str, level: str) -> opensmile.Smile:
    smile = _package()
    levels = {"descriptors": "LowLevelDescriptors", "functionals": "Functionals"}
    return smile.Smile(smile.FeatureSet[feature_set], smile.FeatureLevel[levels[level]])


def _package() -> Any:
    try:
        import opensmile
    except ImportError:
        fix = "pip install --constraint constraints.txt --editable '.[opensmile]' (license: research, not products)"
        raise ConfigError("features.audio", "extractor", "opensmile is not installed", fix) from None
    return opensmile
