"""Computational sequences as the CMU Multimodal SDK writes them, in small."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

Rows = tuple[np.ndarray, np.ndarray]
"""Intervals (rows, 2) in seconds and features (rows, width) of one video."""


def write_csd(path: Path, sequence: str, videos: Mapping[str, Rows], dimensions: tuple[str, ...] = ()) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        group = file.create_group(sequence)
        data = group.create_group("data")
        for video, (intervals, features) in videos.items():
            entry = data.create_group(video)
            entry.create_dataset("features", data=features.astype(np.float32), compression="gzip")
            entry.create_dataset("intervals", data=intervals.astype(np.float64), compression="gzip")
        metadata = group.create_group("metadata")
        names = metadata.create_dataset("dimension names", (1,), dtype=h5py.special_dtype(vlen=str))
        names[0] = json.dumps(list(dimensions) or None)
    return path


def frames(seconds: float, rate_hz: float, width: int, seed: int = 0) -> Rows:
    """Frames at an even rate; the first feature is the middle of the frame in seconds."""
    starts = np.arange(0, seconds, 1 / rate_hz)
    intervals = np.stack([starts, starts + 1 / rate_hz], axis=1)
    features = np.random.default_rng(seed).normal(size=(len(starts), width))
    features[:, 0] = intervals.mean(axis=1)
    return intervals, features


EMOTIONS = ("sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear")


def write_mosei(folder: Path, videos: tuple[str, ...] = ("-a_b", "v2", "v3", "v4")) -> Path:
    """Write the three containers of CMU-MOSEI with two segments per video, and its table of folds."""
    labels = {
        video: (
            np.array([[0.5, 2.5], [2.5, 4.0]]),
            np.array([[-3, 2, 0, 0, 0, 0, 2], [1.5, 0, 0, 3, 0, 0, 1]], dtype=float),
        )
        for video in videos
    }
    write_csd(folder / "CMU_MOSEI_Labels.csd", "All Labels", labels, EMOTIONS)
    sound = {video: frames(4, 100, 74, seed) for seed, video in enumerate(videos)}
    sound[videos[0]][1][60, 5] = -np.inf
    write_csd(folder / "CMU_MOSEI_COVAREP.csd", "COVAREP", sound)
    pictures = {video: frames(4, 30, 35, seed) for seed, video in enumerate(videos[:-1])}
    write_csd(folder / "CMU_MOSEI_VisualFacet42.csd", "FACET 4.2", pictures)
    split = dict(zip(videos, ("train", "valid", "test", "train"), strict=False))
    rows = "".join(f"{video},{name}\n" for video, name in split.items())
    (folder / "standard_folds.csv").write_text("video,split\n" + rows, encoding="utf-8")
    return folder
