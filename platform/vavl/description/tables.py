"""CSV tables of a directory: which column names the clips or the speakers, and what the others could be."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from vavl.description import roles

_MOST_ROWS = 20_000
_MOST_BYTES = 256 << 20
_LEAST_JOINED = 0.5
_MOST_CLASSES = 30
_FEWEST_FEATURES = 8
_FEWEST_SHARES = 3
_SCALES = ((0.0, 1.0), (-1.0, 1.0), (1.0, 5.0), (-3.0, 3.0), (1.0, 7.0), (1.0, 9.0), (0.0, 100.0))
_FOLD_NAME = re.compile(r"(?i)fold|split|partition|set")


@dataclass(frozen=True)
class TableFound:
    """A table of the directory and what it could be used for.

    Attributes:
        file: path below the directory.
        rows: that were looked at.
        columns: its header.
        key_column: the column that names clips, if any; ``key_pattern`` reads the clip id out of it.
        joined: clips that have a row.
        skips: fields of a clip id before the part that the key holds.
        speaker_column: the column that names speakers, one row each; ``speaker_digits`` fills them up.
        label_column: column of classes, with its values.
        soft_columns: class -> column of shares.
        attribute_columns: attribute -> column; ``attribute_range`` is inferred from the values.
        fold_column: test folds of speakers.
        split_column: column of train, validation and test.
        feature_columns: columns of numbers that are nothing else.
        problem: why it could not be read.
    """

    file: str
    rows: int = 0
    columns: tuple[str, ...] = ()
    key_column: str | None = None
    key_pattern: str = r"(?P<clip>.+)"
    joined: int = 0
    skips: int = 0
    speaker_column: str | None = None
    speaker_digits: int = 0
    label_column: str | None = None
    label_values: tuple[str, ...] = ()
    soft_columns: Mapping[str, str] | None = None
    attribute_columns: Mapping[str, str] | None = None
    attribute_range: tuple[float, float] | None = None
    fold_column: str | None = None
    split_column: str | None = None
    feature_columns: tuple[str, ...] = ()
    problem: str = ""

    @property
    def is_labels(self) -> bool:
        """True where a column of it could be labels of clips."""
        return bool(self.label_column or self.soft_columns or self.attribute_columns)


def look_at_table(root: Path, name: str, clip_ids: Collection[str], speakers: Collection[str]) -> TableFound:
    """Read the first rows of a table and infer what its columns are."""
    try:
        if (root / name).stat().st_size > _MOST_BYTES:
            return TableFound(name, problem=f"larger than {_MOST_BYTES >> 20} MB; not looked at")
        header, rows = _read(root / name)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return TableFound(name, problem=f"cannot be read: {error}")
    if not rows:
        return TableFound(name, columns=tuple(header), problem="holds no rows")
    columns = {title: [row[place].strip() for row in rows] for place, title in enumerate(header) if title}
    facts: dict[str, object] = {"file": name, "rows": len(rows), "columns": tuple(header)}
    facts |= _key(columns, clip_ids)
    facts |= _speaker_key(columns, speakers)
    taken = {facts.get("key_column"), facts.get("speaker_column")}
    facts |= _meanings({title: values for title, values in columns.items() if title not in taken})
    return TableFound(**facts)  # type: ignore[arg-type]


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the first rows that have all fields."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        first = stream.readline()
        mark = max(",;\t", key=first.count)
        stream.seek(0)
        reader = csv.reader(stream, delimiter=mark, skipinitialspace=True)
        header = [title.strip() for title in next(reader, [])]
        rows = [row for row in islice(reader, _MOST_ROWS) if len(row) == len(header)]
    return header, rows


def _key(columns: Mapping[str, Sequence[str]], clip_ids: Collection[str]) -> dict[str, object]:
    """Return the column whose values are clip ids, as they are, with a suffix, or without their beginning."""
    known = set(clip_ids)
    found: dict[str, object] = {"joined": 0}
    shortened = _shortened(clip_ids)
    for title, values in columns.items():
        if len(set(values)) < len(values):
            continue
        bare = [value.rpartition("/")[2] for value in values]
        stems = [PurePosixPath(value).stem if "." in value else value for value in bare]
        folder = "(?:.*/)?" if any("/" in value for value in values) else ""
        ends = "" if stems == bare else r"\.\w+"
        for joined, pattern, skips in (
            (len(known.intersection(values)), r"(?P<clip>.+)", 0),
            (len(known.intersection(stems)), rf"{folder}(?P<clip>[^/]+?){ends}", 0),
            *((len(set(short).intersection(values)), r"(?P<clip>.+)", skips) for skips, short in shortened),
        ):
            if joined > int(str(found["joined"])) and joined >= _LEAST_JOINED * min(len(values), len(known)):
                found = {"key_column": title, "key_pattern": pattern, "joined": joined, "skips": skips}
    return found


def _shortened(clip_ids: Collection[str]) -> list[tuple[int, list[str]]]:
    """Return the clip ids without one or two fields at their beginning, where all begin alike."""
    ids = sorted(clip_ids)
    shorter: list[tuple[int, list[str]]] = []
    for fields in (1, 2):
        match = re.match(rf"(?:[^\W_]+[\W_]+){{{fields}}}", ids[0]) if ids else None
        if match and all(clip_id.startswith(match[0]) for clip_id in ids):
            shorter.append((fields, [clip_id[len(match[0]) :] for clip_id in ids]))
    return shorter


def _speaker_key(columns: Mapping[str, Sequence[str]], speakers: Collection[str]) -> dict[str, object]:
    """Return the column with one row per speaker, numbers filled up with zeros where that helps."""
    known = set(speakers)
    digits = max((len(name) for name in known), default=0)
    for title, values in columns.items():
        if len(set(values)) < len(values) or len(known) < 2:
            continue
        for fill in (0, digits):
            if known <= {value.zfill(fill) for value in values}:
                return {"speaker_column": title, "speaker_digits": fill}
    return {}


def _meanings(columns: Mapping[str, Sequence[str]]) -> dict[str, object]:
    facts: dict[str, object] = {}
    numbers = {title: read for title, values in columns.items() if (read := _numbers(values)) is not None}
    texts = {title: set(values) - {""} for title, values in columns.items() if title not in numbers}
    labels = {
        title: roles.are_emotions(values)
        for title, values in texts.items()
        if 1 < len(values) <= _MOST_CLASSES
    }
    if labels and max(labels.values()) > 0:
        best = max(labels, key=lambda title: labels[title])
        facts |= {"label_column": best, "label_values": tuple(sorted(texts[best]))}
    for title, values in texts.items():
        if {value.lower() for value in values} <= roles.SPLIT_NAMES and len(values) > 1:
            facts["split_column"] = title
    for title, read in numbers.items():
        if _FOLD_NAME.search(title) and all(value == int(value) and 0 <= value < 100 for value in read):
            facts["fold_column"] = title
    facts |= _shares(numbers) | _attributes(numbers)
    used = {*dict(facts.get("soft_columns", {})).values(), *dict(facts.get("attribute_columns", {})).values()}  # type: ignore[call-overload]
    features = tuple(title for title in numbers if title not in used and title != facts.get("fold_column"))
    return facts | ({"feature_columns": features} if len(features) >= _FEWEST_FEATURES else {})


def _shares(numbers: Mapping[str, Sequence[float]]) -> dict[str, object]:
    named = {roles.emotion_of(title): title for title in numbers if roles.emotion_of(title)}
    is_positive = all(min(numbers[title]) >= 0 for title in named.values())
    if len(named) < _FEWEST_SHARES or not is_positive:
        return {}
    return {"soft_columns": {str(name): title for name, title in named.items()}}


def _attributes(numbers: Mapping[str, Sequence[float]]) -> dict[str, object]:
    named = {
        attribute: title
        for attribute, forms in roles.ATTRIBUTES.items()
        for title in numbers
        if title.strip().lower() in forms
    }
    if not named:
        return {}
    values = [value for title in named.values() for value in numbers[title]]
    low, high = min(values), max(values)
    scale = next((scale for scale in _SCALES if scale[0] <= low and high <= scale[1]), (low, high))
    return {"attribute_columns": named, "attribute_range": scale}


def _numbers(values: Sequence[str]) -> list[float] | None:
    """Return the values as numbers, empty ones left out; None if one of them is text or none is there."""
    read = []
    for value in values:
        if not value:
            continue
        try:
            read.append(float(value))
        except ValueError:
            return None
        if not math.isfinite(read[-1]):
            return None
    return read or None
