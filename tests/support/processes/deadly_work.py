"""An extractor whose clips end their process, hang or refuse by name; importable by workers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from vavl.errors import ClipError, ConfigError
from vavl.extraction.parts import Part
from vavl.extraction.sources import ClipPlace, Extract, Source
from vavl.extractors.extracted import Extracted
from vavl.features import ModalityInfo


def deadly_source(*, dies_at_once: bool = False) -> Source:
    """Return a source of two frames of three channels for every clip that lets it.

    Args:
        dies_at_once: the process ends when the extractor is made.
    """
    info = ModalityInfo("deadly", "1", {}, 10.0, 3)
    return Source(info, "audio_path", None, end_process if dies_at_once else make_extractor)


def make_extractor() -> Extract:
    return extract_or_die


def end_process() -> Extract:
    os._exit(9)


def extract_or_die(clip: ClipPlace) -> Extracted:
    match clip.clip_id.partition("_")[2]:
        case "deadly":
            os._exit(9)
        case "hanging":
            time.sleep(600)
        case "damaged":
            raise ClipError(clip.file, "audio", "damaged", "repair it")
        case "misconfigured":
            raise ConfigError("settings", "mel_bands", "do not fit", "correct them")
    values = np.full((2, 3), len(clip.clip_id), dtype=np.float32)
    return Extracted(values, np.array([0.1, 0.2], dtype=np.float32), {"seen": 1}, facts={"seconds": 0.3})


def part_of(folder: Path, number: int, clip_ids: list[str]) -> Part:
    clips = tuple(ClipPlace(clip_id, "s1", f"{clip_id}.wav", None) for clip_id in clip_ids)
    path = folder / f"audio-{number:05d}-abc.parquet"
    return Part("audio", path, "small", folder, 3, "deadly", "float32", clips)
