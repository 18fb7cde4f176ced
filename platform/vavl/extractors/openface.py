"""Features from tables of OpenFace 2 (Baltrusaitis et al. 2018): action units, gaze and pose per frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vavl.errors import ClipError
from vavl.extractors.extracted import Extracted, believed_frames, interpolated, missed_note
from vavl.extractors.settings import OpenFaceSettings
from vavl.features import ModalityInfo
from vavl.media.csv_table import read_header, read_number_columns

NAME = "openface"
VERSION = "1"
_STATE = ("frame", "face_id", "timestamp", "confidence", "success")
_RATE_TOLERANCE = 0.05
_AGAIN = "run OpenFace on the clip again, or leave the clip out"


def openface_info(settings: OpenFaceSettings) -> ModalityInfo:
    """Return the provenance of the features."""
    recorded, names = settings.model_dump(mode="json"), settings.columns
    return ModalityInfo(NAME, VERSION, recorded, settings.frame_rate_hz, len(names), names)


def read_openface(path: Path, settings: OpenFaceSettings) -> Extracted:
    """Return the features of one table; of several faces the one that is seen best is taken.

    Raises:
        CorpusError: the table is missing, broken or lacks a column.
        ClipError: no frame with a face, or time stamps of another rate.
    """
    place = path.resolve()
    header = read_header(place)
    state = [name for name in _STATE if name in header or name in ("timestamp", "confidence")]
    table = read_number_columns(place.parent, place.name, [*state, *settings.columns])
    of = {name: table[:, number] for number, name in enumerate(state)}
    is_found = (of["confidence"] >= settings.least_confidence) & (of.get("success", of["confidence"]) > 0)
    values = table[:, len(state) :]
    is_found &= np.isfinite(values).all(axis=1)
    rows = _best_face(of["face_id"], is_found * of["confidence"]) if "face_id" in of else slice(None)
    values, is_found = values[rows], is_found[rows]
    # OpenFace states when a frame begins.
    times = of["timestamp"][rows] + 0.5 / settings.frame_rate_hz
    rate = _own_rate(path, times, settings.frame_rate_hz)
    is_kept = believed_frames(is_found, times, settings.missed, settings.longest_gap_s)
    if not is_found.any():
        problem = f"no face in any of {len(times)} frames (confidence {settings.least_confidence:g} or more)"
        raise ClipError(str(path), "video", problem, "look at the clip; leave it out, or lower least_confidence")
    filled = interpolated(values, is_found, times)[is_kept].astype(np.float32)
    tally = {"video_frames": len(times), "face_frames": int(is_found.sum()), "masked_frames": int((~is_kept).sum())}
    facts = {
        "seconds": float(times[-1] - times[0] + 1 / rate),
        "frame_rate_hz": round(rate, 3),
        "face_share": float(is_found.mean()),
    }
    note = missed_note(is_found, is_kept)
    return Extracted(filled, times[is_kept].astype(np.float32), tally, note, facts, is_found[is_kept])


def _best_face(faces: NDArray[np.float64], confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rows of the face with the largest sum of confidence."""
    names = np.unique(faces)
    sums = [float(confidence[faces == name].sum()) for name in names]
    return np.flatnonzero(faces == names[int(np.argmax(sums))])


def _own_rate(path: Path, times: NDArray[np.float64], stated_hz: float) -> float:
    """Return the rows per second, after a check that they are those of the card."""
    if len(times) < 2:
        return stated_hz
    steps = np.diff(times)
    if not (steps > 0).all():
        row = int(np.argmin(steps > 0)) + 2
        raise ClipError(str(path), "timestamp", f"does not increase at row {row} of the face", _AGAIN)
    rate = 1 / float(np.median(steps))
    if abs(rate / stated_hz - 1) > _RATE_TOLERANCE:
        problem = f"{rate:.3g} frames per second, the card says {stated_hz:g}"
        raise ClipError(str(path), "timestamp", problem, "correct video.frame_rate_hz of the card, or " + _AGAIN)
    return rate
