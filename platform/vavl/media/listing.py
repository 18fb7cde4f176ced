"""What lies in a directory: media, tables and the rest, by name alone and up to a bound."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vavl.errors import CorpusError

AUDIO_SUFFIXES = frozenset(
    {
        ".wav",
        ".wave",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".m4a",
        ".aac",
        ".aif",
        ".aiff",
        ".au",
        ".wma",
        ".amr",
        ".caf",
        ".w64",
        ".sph",
        ".nist",
    }
)
VIDEO_SUFFIXES = frozenset(
    {
        ".mp4",
        ".avi",
        ".mov",
        ".mkv",
        ".webm",
        ".flv",
        ".mpg",
        ".mpeg",
        ".m4v",
        ".wmv",
        ".3gp",
        ".mts",
        ".m2ts",
        ".ts",
        ".vob",
        ".ogv",
    }
)
TABLE_SUFFIXES = frozenset({".csv", ".tsv"})


@dataclass(frozen=True)
class Listing:
    """The files of a directory, relative, POSIX, sorted.

    Attributes:
        audio, video, tables: names by kind of suffix.
        others: suffix -> number of files that are none of these.
        left_out: what was not looked at -> how many (hidden files, links to directories, pipes ...).
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
    kinds: dict[str, list[str]] = {"audio": [], "video": [], "tables": []}
    others: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for seen, (entry, name) in enumerate(_files(root, left_out)):
        if seen == most_files:
            return _listing(kinds, others, left_out, is_complete=False)
        suffix = PurePosixPath(name).suffix.lower()
        kind = _kind(suffix)
        if not entry.is_file():
            left_out["broken links, pipes, sockets and devices"] += 1
        elif kind is None:
            others[suffix or "no suffix"] += 1
        else:
            kinds[kind].append(name)
    return _listing(kinds, others, left_out, is_complete=True)


def _files(root: Path, left_out: Counter[str]) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield every file below ``root`` with its relative name, directory by directory."""
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(root / directory) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise CorpusError(
                str(root / directory), "", f"the folder cannot be listed: {error.strerror}", "change its permissions"
            ) from None  # fmt: skip
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


def _kind(suffix: str) -> str | None:
    for kind, suffixes in (("audio", AUDIO_SUFFIXES), ("video", VIDEO_SUFFIXES), ("tables", TABLE_SUFFIXES)):
        if suffix in suffixes:
            return kind
    return None


def _listing(
    kinds: Mapping[str, list[str]], others: Counter[str], left_out: Counter[str], *, is_complete: bool
) -> Listing:
    names = {kind: tuple(sorted(found)) for kind, found in kinds.items()}
    most_common_first = dict(others.most_common())
    return Listing(
        names["audio"], names["video"], names["tables"], most_common_first, dict(left_out), is_complete
    )
