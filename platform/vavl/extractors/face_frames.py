"""What every extractor that follows a face says of a clip beside its values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vavl.errors import ClipError
from vavl.extractors.extracted import Extracted
from vavl.extractors.face import FaceTrack
from vavl.extractors.missed import missed_note


def face_frames(
    path: Path,
    values: NDArray[np.float32],
    times: NDArray[np.float64],
    track: FaceTrack,
    facts: Mapping[str, float],
) -> Extracted:
    """Return the features of a clip.

    Args:
        path: of the file, for messages.
        values: (kept frame, channel).
        times: (frame,), of all frames.
        track: of all frames.
        facts: of the file.

    Raises:
        ClipError: no frame is kept.
    """
    require_kept(path, track)
    tally = {
        "video_frames": len(times),
        "face_frames": int(track.is_found.sum()),
        "masked_frames": int((~track.is_kept).sum()),
        "fixed_crops": int(track.reason is not None),
    }
    note = track.reason or missed_note(track.is_found, track.is_kept)
    known = {**facts, "face_share": round(float(track.is_found.mean()), 6)}
    return Extracted(values, times[track.is_kept].astype(np.float32), tally, note, known)


def require_kept(path: Path, track: FaceTrack) -> None:
    """Refuse a clip of which no frame is left.

    Raises:
        ClipError: no face was found, and frames without one are left out.
    """
    if not track.is_kept.any():
        problem = f"no face found in any of {len(track.is_kept)} frames, and faces.missed is mask"
        fix = "look at the clip; leave it out, or set faces.missed to interpolate for a fixed crop of the middle"
        raise ClipError(str(path), "video", problem, fix)
