"""An image of the faces that were found, for people: looking is quicker than reading shares."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vavl.config.files import written_beside
from vavl.errors import ClipError
from vavl.extraction.plan import ExtractionPlan
from vavl.extractors.faces import FaceCutter, FaceFinder, FaceTrack
from vavl.extractors.settings import ImageNetworkSettings, VideoFeatureSettings
from vavl.media.media import Pictures

logger = logging.getLogger(__name__)

FILE_NAME = "faces.png"
_FRAMES, _CROP_PX, _BORDER_PX, _LABEL_PX, _LINE_PX = 8, 96, 4, 260, 20
_FOUND, _FILLED, _LEFT_OUT = (60, 160, 60), (240, 160, 0), (210, 40, 40)
_INK, _PAPER = (30, 30, 30), (255, 255, 255)
_TEXT_SIZE = 0.42

Color = tuple[int, int, int]
Picture = NDArray[np.uint8]
FollowingSettings = VideoFeatureSettings | ImageNetworkSettings


def write_face_preview(plan: ExtractionPlan, clips: int) -> Path | None:
    """Write ``faces.png`` next to the store: eight crops from each of some clips, taken evenly from all.

    The frame of a crop says whether its face was found, filled in from its neighbors, or left out.

    Returns:
        Its path; None (with a line in the log) where no faces are looked for in video files.
    """
    named = plan.sources["video"].video if "video" in plan.sources else None
    several = named if isinstance(named, tuple) else (named,)
    settings = next((one for one in several if isinstance(one, FollowingSettings)), None)
    if settings is None:
        logger.warning("faces_preview: no faces are looked for in video files, so there are none to show")
        return None
    finder = FaceFinder(settings.faces, settings.frame_rate_hz)
    rows = [_legend()]
    for clip_id, path in _sample(plan, clips):
        rows.append(clip_row(clip_id, path, settings, finder))
    sheet = np.concatenate(rows)
    with written_beside(plan.directory / FILE_NAME) as partial:
        partial.write_bytes(cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes())
    return plan.directory / FILE_NAME


def clip_row(clip_id: str, path: Path, settings: FollowingSettings, finder: FaceFinder) -> Picture:
    """Return one row of the sheet (row, column, RGB): name, share and eight crops; or why there are none."""
    row = np.full((_CROP_PX + 2 * _BORDER_PX, _LABEL_PX + _FRAMES * (_CROP_PX + 2 * _BORDER_PX), 3), _PAPER, np.uint8)
    try:
        track = finder.track(picture for _, picture in _pictures(path, settings))
        for column, (crop, color) in enumerate(_framed_crops(path, settings, track)):
            left = _LABEL_PX + column * (_CROP_PX + 2 * _BORDER_PX)
            row[1:-1, left + 1 : left + _CROP_PX + 2 * _BORDER_PX - 1] = color
            row[_BORDER_PX:-_BORDER_PX, left + _BORDER_PX : left + _BORDER_PX + _CROP_PX] = crop
    except ClipError as error:
        _write(row, [clip_id, *textwrap.wrap(f"not read: {error.problem}", 36)[:3]])
        return row
    found, kept = track.is_found.mean(), track.is_kept.mean()
    _write(row, [clip_id, f"found in {found:.0%} of {len(track.is_found)} frames", f"left out: {1 - kept:.0%}"])
    return row


def _sample(plan: ExtractionPlan, clips: int) -> Iterator[tuple[str, Path]]:
    columns = plan.manifest.table.select(["clip_id", "video_path"]).to_pydict()
    paths = [(name, path) for name, path in zip(*columns.values(), strict=True) if path is not None]
    for place in sorted({round(place) for place in np.linspace(0, len(paths) - 1, min(clips, len(paths)))}):
        yield paths[place][0], plan.root / paths[place][1]


def _framed_crops(path: Path, settings: FollowingSettings, track: FaceTrack) -> Iterator[tuple[Picture, Color]]:
    cutter = FaceCutter(track, settings.crop_scale, _CROP_PX, from_reduced=False)
    # The middles of eight equal parts of the clip.
    edges = np.linspace(0, len(track.is_found), _FRAMES + 1)
    wanted = {int((start + end) / 2) for start, end in pairwise(edges)}
    for number, (_, picture) in enumerate(_pictures(path, settings)):
        if number in wanted:
            kept = _FILLED if track.is_kept[number] else _LEFT_OUT
            yield cutter.cut(number, picture), _FOUND if track.is_found[number] else kept


def _pictures(path: Path, settings: FollowingSettings) -> Pictures:
    return Pictures(path, settings.frame_rate_hz, settings.longest_clip_s)


def _legend() -> Picture:
    row = np.full((2 * _LINE_PX, _LABEL_PX + _FRAMES * (_CROP_PX + 2 * _BORDER_PX), 3), _PAPER, np.uint8)
    left = 8
    for text, color in (("face found", _FOUND), ("filled from its neighbors", _FILLED), ("left out", _LEFT_OUT)):
        row[12:28, left : left + 16] = color
        cv2.putText(row, text, (left + 24, 25), cv2.FONT_HERSHEY_SIMPLEX, _TEXT_SIZE, _INK, 1, cv2.LINE_AA)
        left += 250
    return row


def _write(row: Picture, lines: list[str]) -> None:
    for number, line in enumerate(lines):
        # OpenCV's letters are ASCII; any other becomes a question mark.
        text = line.encode("ascii", "replace").decode()[:36]
        place = (8, 24 + number * _LINE_PX)
        cv2.putText(row, text, place, cv2.FONT_HERSHEY_SIMPLEX, _TEXT_SIZE, _INK, 1, cv2.LINE_AA)
