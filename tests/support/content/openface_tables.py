"""Tables as OpenFace 2 writes them: one row per frame, a space before every name but the first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

UNITS = ("AU01", "AU02", "AU04", "AU12")
NAMES = (
    "frame", "face_id", "timestamp", "confidence", "success", "gaze_0_x", "gaze_angle_x", "pose_Tx", "pose_Rx",
    *(f"{unit}_r" for unit in UNITS), *(f"{unit}_c" for unit in UNITS),
)  # fmt: skip
FEATURES = r"(gaze|pose)_.*|AU\d\d_[rc]"
WIDTH = len(NAMES) - 5


def openface_rows(frames: int, rate_hz: float = 25, face: int = 0, seed: int = 0) -> NDArray[np.float64]:
    """Return (frame, column): every face seen with confidence .98, features that rise by one a frame."""
    rows = np.zeros((frames, len(NAMES)))
    rows[:, 0] = np.arange(frames) + 1
    rows[:, 1] = face
    rows[:, 2] = np.round(np.arange(frames) / rate_hz, 3)
    rows[:, 3:5] = 0.98, 1
    rows[:, 5:] = np.arange(frames)[:, None] + np.arange(WIDTH) + 100 * seed
    return rows


def write_openface(path: Path, rows: NDArray[np.float64], names: tuple[str, ...] = NAMES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [", ".join(names), *(", ".join(f"{value:g}" for value in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path
