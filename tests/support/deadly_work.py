"""Work on parts that ends its process at clips named so; importable by processes of a pool."""

from __future__ import annotations

import os

import numpy as np

from vavl.errors import ConfigError
from vavl.features.extracted import Extracted
from vavl.features.part import ClipPlace, Part, PartRecord, extract_part


def extract_or_die(clip: ClipPlace) -> Extracted:
    if "deadly" in clip.clip_id:
        os._exit(9)
    values = np.full((2, 3), len(clip.clip_id), dtype=np.float32)
    return Extracted(values, np.array([0.1, 0.2], dtype=np.float32), {"seen": 1})


def work_or_die(part: Part) -> PartRecord:
    return extract_part(part, extract_or_die)


def die_at_once(part: Part) -> PartRecord:
    os._exit(9)


def refuse(part: Part) -> PartRecord:
    raise ConfigError("settings", "mel_bands", "do not fit", "correct them")
