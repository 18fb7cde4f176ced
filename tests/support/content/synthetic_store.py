"""Large synthetic stores for tests and benchmarks, written without an object per clip."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from vavl.corpora.manifest import Manifest
from vavl.features import ModalityInfo
from vavl.store.shards import Dtype, features_column, row_schema
from vavl.store.store_writer import StoreWriter

CLASSES = ("calm", "glad", "mad")
WIDTHS = {"audio": 8, "video": 6}
_BATCH = 2000
_WIDE, _BATCH_OF_WIDE = 64, 16

Frames = Callable[[str, np.ndarray], np.ndarray]
"""Frames of each clip of a modality, by the clips' numbers."""


def write_synthetic_store(
    folder: Path,
    clips: int,
    speakers: int = 40,
    most_frames: int = 12,
    widths: Mapping[str, int] = WIDTHS,
    frames: Frames | None = None,
    dtype: Dtype = "float32",
    split_clips: int | None = None,
) -> Path:
    """Write a store of both modalities and its manifest; fold 0 has 6, 2 and 2 tenths of the speakers.

    Clips have 1 to ``most_frames`` frames of noise around a class mean, or as many as ``frames`` says; the
    values depend on the clip's number alone. Clips from the number ``split_clips`` on are trained on, or in no split.
    """
    writer = StoreWriter(folder, "synthetic", "0" * 16, dtype)
    for modality, width in widths.items():
        info = ModalityInfo("synthetic", "1", {}, 10.0, width)
        counted = most_frames if frames is None else partial(frames, modality)
        writer.write_modality(modality, info, _batches(clips, speakers, counted, width))
    writer.finish({"clips": clips})
    _manifest(clips, speakers, split_clips or clips).write(folder)
    return folder


def _batches(
    clips: int, speakers: int, frames_of: int | Callable[[np.ndarray], np.ndarray], width: int
) -> Iterator[pa.RecordBatch]:
    step = _BATCH if width < _WIDE else _BATCH_OF_WIDE
    for first in range(0, clips, step):
        number = np.arange(first, min(first + step, clips))
        generator = np.random.default_rng([first, width])
        drawn = (
            generator.integers(1, frames_of + 1, size=len(number)) if isinstance(frames_of, int) else frames_of(number)
        )
        frames = drawn.astype(np.int32)
        total = int(frames.sum())
        means = np.repeat(number % len(CLASSES), frames).astype(np.float32)
        values = generator.normal(size=(total, width)).astype(np.float32) + means[:, None]
        ends = np.concatenate([[0], np.cumsum(frames)])
        times = 0.1 * (np.arange(total) - np.repeat(ends[:-1], frames) + 0.5)
        columns = [
            _names("clip", number, 7),
            pa.array(np.full(len(number), "synthetic")),
            _names("s", number % speakers, 3),
            features_column(values.ravel(), frames, width),
            pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(times.astype(np.float32))),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=row_schema(width))


def _manifest(clips: int, speakers: int, split_clips: int) -> Manifest:
    number = np.arange(clips)
    tenth = (number % speakers) * 10 // speakers
    split = np.array(["train"] * 6 + ["validation"] * 2 + ["test"] * 2)[tenth]
    split[(split != "train") & (number >= split_clips)] = "none"
    columns = {
        "clip_id": _names("clip", number, 7),
        "corpus": pa.array(np.full(clips, "synthetic")),
        "speaker": _names("s", number % speakers, 3),
        "label": pa.array(np.array(CLASSES)[number % len(CLASSES)]),
        "split_0": pa.array(split),
    }
    metadata = {
        "corpus": "synthetic", "classes": CLASSES, "target": "class of the mean", "protocol": "tenths of speakers",
        "folds": [0], "card_hash": "0" * 16, "clips": clips,
    }  # fmt: skip
    return Manifest(pa.table(columns).replace_schema_metadata({b"vavl": json.dumps(metadata).encode()}))


def _names(prefix: str, number: np.ndarray, digits: int) -> pa.Array:
    return pa.array(np.char.add(prefix, np.char.zfill(number.astype(str), digits)))
