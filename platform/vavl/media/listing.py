"""What lies in a directory: media, tables and the rest, by name alone and up to a bound."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from vavl.errors import CorpusError

_AUDIO = "wav wave flac ogg oga opus mp3 m4a aac aif aiff au wma amr caf w64 sph nist"
_VIDEO = "mp4 avi mov mkv webm flv mpg mpeg m4v wmv 3gp mts m2ts ts vob ogv"
AUDIO_SUFFIXES, VIDEO_SUFFIXES = (
    frozenset(f".{name}" for name in names.split()) for names in (_AUDIO, _VIDEO)
)
_KINDS = {"audio": AUDIO_SUFFIXES, "video": VIDEO_SUFFIXES, "tables": frozenset({".csv", ".tsv"})}


@dataclass(frozen=True)
class Listing:
    """The files of a directory, relative, POSIX, sorted.

    Attributes:
        audio, video, tables: names by kind of suffix.
        others: suffix -> number of files that are none of these.
        left_out: what was not looked at -> how many (hidden files, links to folders, pipes ...).
        is_complete: False where the bound on files was reached.
    """

    audio: tuple[str, ...]
    video: tuple[str, ...]
    tables: tuple[str, ...]
    others: Mapping[str, int]
    left_out: Mapping[str, int]
    is_complete: bool


def list_directory(root: Path, most_files: int) -> Listing:
    """List the files below ``root``; no file is opened.

    Raises:
        CorpusError: the directory cannot be listed.
    """
    kinds: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    others: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    files = files_below(root, left_out)
    for entry, name in islice(files, most_files):
        suffix = PurePosixPath(name).suffix.lower()
        kind = next((kind for kind, suffixes in _KINDS.items() if suffix in suffixes), None)
        if not entry.is_file():
            left_out["broken links, pipes, sockets and devices"] += 1
        elif kind is None:
            others[suffix or "no suffix"] += 1
        else:
            kinds[kind].append(name)
    is_complete = next(files, None) is None
    audio, video, tables = (tuple(sorted(found)) for found in kinds.values())
    return Listing(audio, video, tables, dict(others.most_common()), dict(left_out), is_complete)


def files_below(root: Path, left_out: Counter[str]) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield every file below ``root`` with its relative name (POSIX), directory by directory.

    Hidden ones and links to directories are counted in ``left_out``.

    Raises:
        CorpusError: a directory cannot be listed.
    """
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(root / directory) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            problem = f"the directory cannot be listed: {error.strerror}"
            raise CorpusError(str(root / directory), "", problem, "change its permissions") from None
        for entry in entries:
            name = f"{directory}/{entry.name}" if directory else entry.name
            if entry.name.startswith("."):
                left_out["hidden files and folders"] += 1
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(name)
            elif entry.is_symlink() and (root / name).is_dir():
                left_out["links to folders"] += 1
            else:
                yield entry, name
