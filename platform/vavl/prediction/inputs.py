"""The kinds of input: a directory of media, one file, a manifest, a feature store."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import pyarrow as pa
import pyarrow.parquet as pq

from vavl.corpora.manifest import Manifest
from vavl.errors import CorpusError, StoreError
from vavl.features import MODALITIES, FeatureStatistics, ModalityInfo
from vavl.media.csv_table import read_header, read_text_columns, with_slashes
from vavl.media.listing import AUDIO_SUFFIXES, VIDEO_SUFFIXES, list_directory
from vavl.models.saved_model import ModelDescription
from vavl.prediction.pieces import Piece
from vavl.prediction.sources import ClipInput, ClipsFound, StoreSource
from vavl.store.store import read_content
from vavl.store.store_cache import local_store

_MOST_FILES = 5_000_000
_AUDIO_DIRECTORIES = {"audio", "audios", "sound", "sounds", "speech", "voice", "wav", "wavs", "flac", "mp3"}
_VIDEO_DIRECTORIES = {"video", "videos", "film", "films", "mp4", "avi", "mov", "mkv", "flv", "webm", "visual"}


def directory_clips(root: Path) -> ClipsFound:
    """Find the clips below ``root`` by the names of files alone.

    A sound and a video file are the two sides of one clip where their paths are equal without their endings and
    without a directory that only says what kind of files it holds: ``f01/a.wav`` and ``f01/a.mp4``, ``audio/f01/a.wav``
    and ``video/f01/a.mp4``. That path is the clip's id.

    Raises:
        CorpusError: there is no such directory, or no media in it.
    """
    listing = list_directory(root, _MOST_FILES)
    # What has the name of a medium and is no file is refused by the reader, as its clip's other side may be fine; a
    # directory that holds media is no mistake.
    holding = {str(place) for name in (*listing.audio, *listing.video) for place in PurePosixPath(name).parents}
    media = (*listing.audio, *listing.video, *(name for name in listing.irregular if name not in holding))
    if not listing.is_complete:
        raise CorpusError(str(root), "", f"holds more than {_MOST_FILES} files", "predict its directories one by one")
    sides = {
        "audio": _by_clip((name for name in media if not _is_video(name)), _AUDIO_DIRECTORIES),
        "video": _by_clip(filter(_is_video, media), _VIDEO_DIRECTORIES),
    }
    clips = [_clip(clip_id, sides) for clip_id in sorted(sides["audio"].keys() | sides["video"].keys())]
    clips += [ClipInput(name, problem="the name is not UTF-8: rename the file") for name in listing.not_text]
    clips += [ClipInput(f"{name}/", problem=problem) for name, problem in listing.unlisted.items()]
    if not clips:
        found = ", ".join(f"{count} {suffix}" for suffix, count in list(listing.others.items())[:5])
        problem = f"no audio or video file is in the directory{f'; found {found}' if found else ''}"
        fix = "name the directory that holds the recordings (links to directories are not followed)"
        raise CorpusError(str(root), "", problem, fix)
    left_out = {**listing.left_out, "files that are no media": sum(listing.others.values()) + len(listing.tables)}
    return ClipsFound("folder", clips, {what: count for what, count in left_out.items() if count})


def _is_video(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES


def single_clip(file: Path) -> ClipsFound:
    """Return the clip of one media file."""
    side = "video" if _is_video(file.name) else "audio"
    files = {name: file.name if name == side else None for name in MODALITIES}
    return ClipsFound("file", [ClipInput(file.stem, files["audio"], files["video"])])


def _by_clip(names: Iterable[str], directories: set[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        path = PurePosixPath(name)
        kept = [part for part in path.parts[:-1] if part.lower() not in directories]
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


_PATHS = ("audio_path", "video_path")
_TIMES = ("start", "end")
_COLUMNS = ("clip_id", *_PATHS, "corpus", "speaker", "split", *_TIMES)
_READ = (*_COLUMNS, "id", "path")
_Columns = dict[str, list[str | None]]


def manifest_clips(file: Path, root: Path) -> ClipsFound:
    """Read a manifest: ``clip_id``, ``audio_path`` and/or ``video_path``; also ``corpus``, ``speaker``, ``split``.

    With ``start`` and ``end`` (seconds) a row is a piece of its files, and a bad one says so; ``clip_id`` may then be
    left out. ``id`` stands for ``clip_id``, and ``path`` for either path, by its ending. An empty field means that the
    clip lacks it. Paths count from ``root``; those with the separators of Windows are read where the file is found
    below it.

    Raises:
        CorpusError: the table is not readable, lacks a column, names a clip twice or not at all, or a path as it
            is written leads out of the root; links are followed when a file is read.
    """
    match file.suffix.lower():
        case ".parquet":
            columns = _parquet(file)
        case ".rttm":
            columns = _rttm(file, root)
        case _:
            columns = _csv(file)
    columns = _by_their_names(columns)
    has_times = [name in columns for name in _TIMES]
    missing = ["clip_id"] * ("clip_id" not in columns and not all(has_times))
    missing += ["audio_path or video_path"] * all(name not in columns for name in _PATHS)
    missing += [name for name, has in zip(_TIMES, has_times, strict=True) if not has and any(has_times)]
    if missing:
        problem = f"no such column; the table has {', '.join(columns) or 'none of them'}"
        fix = f"name the columns {', '.join(_COLUMNS)}; all but the first and one path may be left out"
        raise CorpusError(str(file), ", ".join(missing), problem, fix)
    for name in columns.keys() & set(_PATHS):
        columns[name] = [with_slashes(root, value) if value else None for value in columns[name]]
    clips = [_row_clip(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
    if all(has_times):
        clips = list(_named(clips))
    _check_ids(file, clips)
    _check_paths(file, clips, root)
    return ClipsFound("manifest", clips)


def _by_their_names(columns: _Columns) -> _Columns:
    """Return the columns with ``id`` and ``path`` under the names that they stand for."""
    found = {name: values for name, values in columns.items() if name in _COLUMNS}
    if "clip_id" not in found and "id" in columns:
        found["clip_id"] = columns["id"]
    if "path" in columns and not any(name in found for name in _PATHS):
        for name, is_kind in (("audio_path", False), ("video_path", True)):
            found[name] = [path if path and _is_video(path) == is_kind else None for path in columns["path"]]
    return found


def _row_clip(row: Mapping[str, str | None]) -> ClipInput:
    texts = {name.removesuffix("_path"): text or None for name, text in row.items() if name not in _TIMES}
    times = [row.get(name) or "" for name in _TIMES]
    piece, problem = _piece(*times) if any(times) else (None, None)
    clip_id = texts.pop("clip_id", None) or ""
    return ClipInput(clip_id, problem=problem, piece=piece, **texts)


def _piece(start: str, end: str) -> tuple[Piece | None, str | None]:
    """Return the piece between two times, or what is wrong with them."""
    try:
        piece = Piece(float(start), float(end))
    except ValueError:
        return None, f"start {start!r} and end {end!r} are not both a number of seconds"
    if not (math.isfinite(piece.start_s) and math.isfinite(piece.end_s)) or piece.start_s < 0:
        return None, f"start {start} and end {end} are no times in a file"
    if piece.end_s <= piece.start_s:
        return None, f"ends at {end} s, not after its start at {start} s"
    return piece, None


def _named(clips: Sequence[ClipInput]) -> Iterator[ClipInput]:
    """Name pieces without an id by file and times, and by their row where that is not enough."""
    taken = {clip.clip_id for clip in clips}
    for row, clip in enumerate(clips, start=1):
        if clip.clip_id:
            yield clip
            continue
        file = PurePosixPath(clip.audio or clip.video or "")
        times = "" if clip.piece is None else f"_{clip.piece.start_s:.2f}-{clip.piece.end_s:.2f}"
        name = f"{file.with_suffix('') if file.name else ''}{times}"
        name = f"{name}_row{row}" if name in taken or not times else name
        taken.add(name)
        yield replace(clip, clip_id=name)


def _rttm(file: Path, root: Path) -> _Columns:
    """Read the SPEAKER lines of an RTTM file; recordings are files of that name with any ending of media."""
    columns: _Columns = {name: [] for name in (*_PATHS, "speaker", *_TIMES)}
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
        turns = [(words[1], float(words[3]), float(words[4]), words[7]) for words in lines if words[:1] == ["SPEAKER"]]
    except (OSError, ValueError, IndexError) as error:
        fix = "lines are SPEAKER recording channel start seconds <NA> <NA> speaker <NA> <NA>"
        raise CorpusError(str(file), "", f"not a readable RTTM file: {error}", fix) from None
    for recording, start, seconds, speaker in turns:
        for name, suffixes in (("audio_path", AUDIO_SUFFIXES), ("video_path", VIDEO_SUFFIXES)):
            found = sorted(recording + suffix for suffix in suffixes if (root / (recording + suffix)).exists())
            columns[name].append(found[0] if found else None)
        if columns["audio_path"][-1] is columns["video_path"][-1] is None:
            columns["audio_path"][-1] = recording  # the reader says that it is not there
        for name, text in (("speaker", speaker), ("start", f"{start}"), ("end", f"{start + seconds:.6f}")):
            columns[name].append(text)
    return columns


def _parquet(file: Path) -> _Columns:
    try:
        known = [name for name in pq.read_schema(file).names if name in _READ]
        table = pq.read_table(file, columns=known)
        return {name: table[name].cast(pa.string()).to_pylist() for name in known}
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise CorpusError(str(file), "", f"not a readable Parquet table: {error}", "write it again") from None


def _csv(file: Path) -> _Columns:
    known = [name for name in read_header(file) if name in _READ]
    values: Sequence[Sequence[str | None]] = read_text_columns(file.parent, file.name, known) if known else []
    return {name: list(column) for name, column in zip(known, values, strict=True)}


def _check_ids(file: Path, clips: Sequence[ClipInput]) -> None:
    if not clips:
        raise CorpusError(str(file), "", "the table has no rows", "name at least one clip")
    empty = next((row for row, clip in enumerate(clips, start=1) if not clip.clip_id), None)
    if empty is not None:
        raise CorpusError(str(file), f"clip_id, row {empty}", "is empty", "give every clip a name of its own")
    clip_id, count = Counter(clip.clip_id for clip in clips).most_common(1)[0]
    if count > 1:
        raise CorpusError(str(file), "clip_id", f"{clip_id!r} stands there {count} times", "keep one row per clip")


def _check_paths(file: Path, clips: Sequence[ClipInput], root: Path) -> None:
    for row, clip in enumerate(clips, start=1):
        for name in (clip.audio, clip.video):
            if name is None:
                continue
            place = Path(os.path.normpath(root / name))
            is_inside = place.is_relative_to(os.path.normpath(root))
            is_of_windows = bool(PureWindowsPath(name).drive) and not place.exists()
            problem = "holds a null character" if "\0" in name else f"lies outside the root: {place}"
            if "\0" in name or is_of_windows or not is_inside:
                problem = "is a path of Windows" if is_of_windows else problem
                fix = f"name files below {root}, or give root=DIRECTORY"
                raise CorpusError(str(file), f"row {row}, {clip.clip_id}", f"{name}: {problem}", fix)


def store_clips(place: Path | str, model: ModelDescription) -> tuple[ClipsFound, StoreSource]:
    """Return the clips of a store and their source; no features are copied or read.

    Features of another corpus than the model's are welcome as long as the same extractor made them.

    Raises:
        StoreError: there is no store, or its features are not those of the model.
        InputError: the address cannot be reached.
    """
    notes = local_store(place)
    content, manifest = read_content(notes), Manifest.read(notes)
    modalities = [name for name in MODALITIES if name in content["modalities"] and getattr(model, name).trained]
    if not modalities:
        problem = f"holds {', '.join(content['modalities'])}; the model was trained on neither"
        raise StoreError(str(place), "modalities", problem, "use a store that has a modality which the model knows")
    for name in modalities:
        statistics = FeatureStatistics.from_dict(getattr(model, name).statistics)
        statistics.check(statistics.corpus, ModalityInfo.from_entry(content["modalities"][name]))
    found = ClipsFound("store", _clips(manifest, model, modalities))
    return found, StoreSource(place, str(content["store_hash"]), tuple(modalities))


def _clips(manifest: Manifest, model: ModelDescription, modalities: list[str]) -> list[ClipInput]:
    names = {"clip_id": "clip_id", "corpus": "corpus", "speaker": "speaker"}
    trained, known = model.provenance, manifest.table.column_names
    split = f"split_{trained.get('fold')}"  # of the fold that the model was trained on, where the store has its splits
    is_same = (manifest.corpus, manifest.protocol) == (trained.get("corpus"), trained.get("protocol"))
    if is_same and split in known:
        names["split"] = split
    for modality in modalities:
        # A store knows what it has when its rows are asked for; paths are for people.
        for column in (f"{modality}_table_key", f"{modality}_path"):
            if column in known and manifest.table[column].null_count < len(manifest):
                names[modality] = column
    columns = {name: manifest.table[column].to_pylist() for name, column in names.items()}
    return [ClipInput(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
