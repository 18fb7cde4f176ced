"""A source whose clips end their process, hang or refuse by name; importable by workers."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vavl.errors import ClipError, ConfigError
from vavl.extraction.part import Part
from vavl.extraction.sources import ClipPlace, Extract
from vavl.extractors.extracted import Extracted
from vavl.features import ModalityInfo


@dataclass(frozen=True)
class DeadlySource:
    """Gives two frames of three channels for every clip that lets it.

    Attributes:
        dies_at_once: the process ends when the extractor is made.
    """

    dies_at_once: bool = False

    @property
    def info(self) -> ModalityInfo:
        return ModalityInfo("deadly", "1", {}, 10.0, 3)

    @property
    def columns(self) -> tuple[str, str | None]:
        return "audio_path", None

    @property
    def in_workers(self) -> bool:
        return True

    def extractor(self) -> Extract:
        if self.dies_at_once:
            os._exit(9)
        return extract_or_die

    @property
    def shared_file(self) -> None:
        return None


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
    return Part("audio", path, "small", folder, 3, "deadly", clips)
