"""Clips of a folder: media files that share their place and their name without ending."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from vavl.errors import CorpusError
from vavl.media.listing import AUDIO_SUFFIXES, VIDEO_SUFFIXES, list_folder
from vavl.prediction.clips import ClipInput, ClipsFound

MEDIA_SUFFIXES = AUDIO_SUFFIXES | VIDEO_SUFFIXES
_MOST_FILES = 5_000_000
_AUDIO_FOLDERS = {"audio", "audios", "sound", "sounds", "speech", "voice", "wav", "wavs", "flac", "mp3"}
_VIDEO_FOLDERS = {"video", "videos", "film", "films", "mp4", "avi", "mov", "mkv", "flv", "webm", "visual"}


def folder_clips(root: Path) -> ClipsFound:
    """Find the clips below ``root`` by the names of files alone.

    A sound and a video file are the two sides of one clip where their paths are equal without their endings and
    without a folder that only says what kind of files it holds: ``f01/a.wav`` and ``f01/a.mp4``, ``audio/f01/a.wav``
    and ``video/f01/a.mp4``. That path is the clip's id.

    Raises:
        CorpusError: there is no such folder, or no media in it.
    """
    listing = list_folder(root, _MOST_FILES)
    if not listing.is_complete:
        raise CorpusError(
            str(root), "", f"holds more than {_MOST_FILES} files", "predict its folders one by one"
        )
    sides = {
        "audio": _by_clip(listing.audio, _AUDIO_FOLDERS),
        "video": _by_clip(listing.video, _VIDEO_FOLDERS),
    }
    clips = [_clip(clip_id, sides) for clip_id in sorted(sides["audio"].keys() | sides["video"].keys())]
    if not clips:
        found = ", ".join(f"{count} {suffix}" for suffix, count in list(listing.others.items())[:5])
        raise CorpusError(
            str(root), "", f"no sound or video file is in the folder{f'; found {found}' if found else ''}",
            "name the folder that holds the recordings (links to folders are not followed)",
        )  # fmt: skip
    left_out = {
        **listing.left_out,
        "files that are no media": sum(listing.others.values()) + len(listing.tables),
    }
    return ClipsFound("folder", clips, {what: count for what, count in left_out.items() if count})


def single_clip(file: Path) -> ClipsFound:
    """Return the clip of one media file."""
    side = "video" if file.suffix.lower() in VIDEO_SUFFIXES else "audio"
    return ClipsFound("file", [ClipInput(file.stem, **{side: file.name})])


def _by_clip(names: Iterable[str], folders: set[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        path = PurePosixPath(name)
        kept = [part for part in path.parts[:-1] if part.lower() not in folders]
        found["/".join([*kept, path.stem])].append(name)
    return found


def _clip(clip_id: str, sides: Mapping[str, Mapping[str, list[str]]]) -> ClipInput:
    files = {side: found.get(clip_id, []) for side, found in sides.items()}
    problems = [
        f"{len(names)} {side} files have this name: {', '.join(names)}"
        for side, names in files.items()
        if len(names) > 1
    ]
    first = {side: names[0] if names else None for side, names in files.items()}
    return ClipInput(clip_id, first["audio"], first["video"], problem="; ".join(problems) or None)
