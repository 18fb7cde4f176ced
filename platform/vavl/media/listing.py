"""What lies in a directory: media, tables and the rest, by name alone and up to a bound."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vavl.errors import CorpusError, readable

_AUDIO = "wav wave flac ogg oga opus mp3 m4a aac aif aiff au wma amr caf w64 sph nist"
_VIDEO = "mp4 avi mov mkv webm flv mpg mpeg m4v wmv 3gp mts m2ts ts vob ogv"
AUDIO_SUFFIXES, VIDEO_SUFFIXES = (frozenset(f".{name}" for name in names.split()) for names in (_AUDIO, _VIDEO))
_SUFFIXES = {"audio": AUDIO_SUFFIXES, "video": VIDEO_SUFFIXES, "tables": frozenset({".csv", ".tsv"})}


@dataclass(frozen=True)
class Listing:
    """The files of a directory, relative, POSIX, sorted."""

    audio: tuple[str, ...]  # audio, video, tables: names by kind of suffix
    video: tuple[str, ...]
    tables: tuple[str, ...]
    others: Mapping[str, int]  # suffix -> number of files that are none of these
    left_out: Mapping[str, int]  # what was not looked at -> how many (hidden files, links to directories, pipes ...)
    # names with a suffix of media that are no files: links to nothing, to themselves or to a directory,
    # directories, pipes, sockets, devices
    irregular: tuple[str, ...]
    # names with a suffix of media that are not UTF-8, so that no table can hold them; escaped
    not_text: tuple[str, ...]
    unlisted: Mapping[str, str]  # directory that cannot be listed -> why
    is_complete: bool  # False where the bound on files was reached.


def list_files(root: Path) -> list[str]:
    """Return the paths of all files below ``root``, relative, POSIX, sorted; hidden ones are left out.

    Links to directories are not followed.

    Raises:
        CorpusError: a directory cannot be listed.
    """
    unlisted: dict[str, str] = {}
    names = sorted(name for entry, name in _entries(root, Counter(), unlisted) if not _holds(entry.is_dir))
    for directory, problem in unlisted.items():
        raise CorpusError(str(root / directory), "", problem, "change its permissions")
    return names


def list_directory(root: Path, most_files: int) -> Listing:
    """List the files below ``root``; no file is opened. Raises CorpusError if the directory itself cannot be listed."""
    names: dict[str, list[str]] = {kind: [] for kind in ("audio", "video", "tables", "irregular", "not_text")}
    others: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    unlisted: dict[str, str] = {}
    is_complete = True
    for seen, (entry, name) in enumerate(_entries(root, left_out, unlisted)):
        if seen == most_files:
            is_complete = False
            break
        suffix = PurePosixPath(name).suffix.lower()
        kind, why = _kind(entry, name, suffix)
        if why:
            left_out[why] += 1
        if kind in names:
            names[kind].append(readable(name))
        elif kind == "other":
            others[suffix or "no suffix"] += 1
    return Listing(
        **{kind: tuple(sorted(found)) for kind, found in names.items()},
        others=dict(others.most_common()),
        left_out=dict(left_out),
        unlisted=unlisted,
        is_complete=is_complete,
    )


def _entries(root: Path, left_out: Counter[str], unlisted: dict[str, str]) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield what is below ``root`` with its relative name, directory by directory, but for hidden entries."""
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(root / directory) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            problem = f"the directory cannot be listed: {error.strerror}"
            if not directory:
                raise CorpusError(str(root), "", problem, "change its permissions") from None
            unlisted[readable(directory)] = problem
            continue
        for entry in entries:
            name = f"{directory}/{entry.name}" if directory else entry.name
            if entry.name.startswith("."):
                left_out["hidden files and folders"] += 1
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(name)
            elif _holds(entry.is_dir):
                left_out["links to folders"] += 1
            yield entry, name


def _holds(is_kind: Callable[[], bool]) -> bool:
    """Return the answer of ``DirEntry.is_file`` or ``is_dir``; of a link that leads to itself, False."""
    try:
        return is_kind()
    except OSError:
        return False


def _kind(entry: os.DirEntry[str], name: str, suffix: str) -> tuple[str, str]:
    """Return the kind of an entry, "" where it is of none, and why it is left out, "" where it is not."""
    kind = next((kind for kind, suffixes in _SUFFIXES.items() if suffix in suffixes), "other")
    is_media = kind in ("audio", "video")
    if _holds(entry.is_dir):
        return "irregular" if is_media else "", ""
    if readable(name) != name:
        return "not_text" if is_media else "", "files whose name is not UTF-8"
    if not _holds(entry.is_file):
        return "irregular" if is_media else "", "broken links, pipes, sockets and devices"
    return kind, ""
