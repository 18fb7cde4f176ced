"""CSV tables of a directory: which column names the clips or the speakers, and what the others could be."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from vavl.description import words
from vavl.errors import CorpusError
from vavl.media.csv_table import is_missing, read_form

_MOST_ROWS = 200_000
_MOST_BYTES = 256 << 20
_LEAST_JOINED = 0.5
_MOST_CLASSES = 30
_MOST_CODES = 12
_FEWEST_FEATURES = 8
_FEWEST_SHARES = 3
_LEAST_OF_SCALE = 10
_SCALES = ((0.0, 1.0), (-1.0, 1.0), (1.0, 5.0), (-3.0, 3.0), (1.0, 7.0), (1.0, 9.0), (0.0, 100.0))
_FOLD_NAME = re.compile(r"(?i)fold|split|partition|set")
_ANY_KEY = r"(?P<clip>.+)"
_LABEL_TITLE = re.compile(r"(?i)label|class|emotion|\bemo\b|emoclass|categor|majority|sentiment|target|affect")
_NO_LABEL_TITLE = re.compile(
    r"(?i)intens|confid|agree|count|votes|(?<![a-z])time|start|(?<![a-z])end|duration|file|path|speaker"
)
_RATER_TITLE = re.compile(r"(?i)rater|annotator|evaluator|worker|judge|listener|participant")


@dataclass(frozen=True)
class TableFound:
    """A table of the directory and what it could be used for."""

    file: str
    rows: int = 0
    columns: tuple[str, ...] = ()
    key_column: str | None = None  # names the clips; ``key_pattern`` reads the clip id out of it
    key_pattern: str = _ANY_KEY
    joined: int = 0  # clips that have a row
    skips: int = 0  # fields of a clip id before the part that the key holds
    repeated: str | None = None  # a column that names clips in several rows each; ``rater_column`` who judges there
    rater_column: str | None = None
    speaker_column: str | None = None  # names speakers, one row each; ``speaker_digits`` fills them up
    speaker_digits: int = 0
    person_column: str | None = None  # names the speaker of a clip
    label_column: str | None = None  # of classes, ``label_values``; ``label_columns`` are all that could be
    label_values: tuple[str, ...] = ()
    label_columns: tuple[str, ...] = ()
    soft_columns: Mapping[str, str] | None = None  # class -> column of shares
    attribute_columns: Mapping[str, str] | None = None
    attribute_range: tuple[float, float] | None = None  # inferred from the values
    fold_column: str | None = None  # test folds of speakers
    split_column: str | None = None  # train, validation and test; ``split_names`` says what they are called
    split_names: Mapping[str, str] = field(default_factory=dict)
    mixed_splits: tuple[str, ...] = ()  # columns of splits and other words
    feature_columns: tuple[str, ...] = ()  # of numbers that are nothing else
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    problem: str = ""  # why it could not be read

    @property
    def is_labels(self) -> bool:
        """True where a column of it could be labels of clips."""
        return bool(self.label_column or self.soft_columns or self.attribute_columns)

    def by_clip(self, title: str) -> dict[str, str]:
        """Return clip id -> value of a column; of rows without a clip id nothing."""
        assert self.key_column is not None
        matches = (re.fullmatch(self.key_pattern, _slashed(key)) for key in self.texts[self.key_column])
        pairs = zip(matches, self.texts[title], strict=True)
        return {match["clip"]: value for match, value in pairs if match is not None}

    def by_speaker(self, title: str) -> dict[str, str]:
        """Return speaker -> value of a column, of a table with one row per speaker."""
        assert self.speaker_column is not None
        names = (name.zfill(self.speaker_digits) for name in self.texts[self.speaker_column])
        return dict(zip(names, self.texts[title], strict=True))


def look_at_table(root: Path, name: str, clip_ids: Collection[str], speakers: Collection[str]) -> TableFound:
    """Read the first rows of a table and infer what its columns are."""
    try:
        if (root / name).stat().st_size > _MOST_BYTES:
            return TableFound(name, problem=f"larger than {_MOST_BYTES >> 20} MB; not looked at")
        header, rows, points = _read(root / name)
    except CorpusError as error:
        is_empty = error.problem == "the table is empty"
        return TableFound(name, problem="holds no rows" if is_empty else f"cannot be read: {error.problem}")
    except (OSError, UnicodeError, csv.Error) as error:
        return TableFound(name, problem=f"cannot be read: {error}")
    if not rows:
        return TableFound(name, columns=tuple(header), problem="holds no rows")
    columns = {title: [row[place].strip() for row in rows] for place, title in enumerate(header) if title}
    facts: dict[str, Any] = {"file": name, "rows": len(rows), "columns": tuple(header), "texts": columns}
    facts |= _key(columns, clip_ids)
    facts |= _speaker_key(columns, speakers)
    taken = {facts.get("key_column"), facts.get("speaker_column")}
    others = {title: values for title, values in columns.items() if title not in taken}
    if "key_column" not in facts:
        facts |= _repeated(columns, clip_ids)
    facts |= _meanings(others, points)
    return TableFound(**facts)


def _read(path: Path) -> tuple[list[str], list[list[str]], tuple[str, ...]]:
    """Return the header, the first rows that have all fields, and what may stand before decimals."""
    form = read_form(path)
    with path.open(encoding="utf-8-sig" if form.encoding == "utf8" else form.encoding, newline="") as stream:
        reader = csv.reader(stream, delimiter=form.mark, skipinitialspace=True)
        rows = [row for row in islice(reader, form.head_lines, _MOST_ROWS) if len(row) == len(form.header)]
    return form.header, rows, form.decimal_points()


def _key(columns: Mapping[str, Sequence[str]], clip_ids: Collection[str]) -> dict[str, Any]:
    """Return the column whose values are clip ids, as they are, with a suffix, or without their beginning."""
    known = set(clip_ids)
    found: dict[str, Any] = {"joined": 0}
    shortened = _shortened(clip_ids)
    for title, values in columns.items():
        if len(set(values)) < len(values):
            continue
        for joined, pattern, skips in _joins(values, known, shortened):
            if joined > found["joined"] and joined >= _LEAST_JOINED * min(len(values), len(known)):
                found = {"key_column": title, "key_pattern": pattern, "joined": joined, "skips": skips}
    return found


def _joins(
    values: Sequence[str], known: set[str], shortened: Sequence[tuple[int, list[str]]]
) -> list[tuple[int, str, int]]:
    """Return for each way to read a clip id out of a key: clips found, pattern, fields left out of the clip id."""
    values = [_slashed(value) for value in values]
    levels = max((clip_id.count("/") for clip_id in known), default=0)  # directories that belong to the clip
    bare = ["/".join(value.split("/")[-1 - levels :]) for value in values]
    stems = [re.sub(r"(?<=[^/])\.\w+$", "", value) for value in bare]
    directory = "(?:.*/)?" if bare != values else ""
    ends = "" if stems == bare else r"\.\w+"
    clip = rf"(?P<clip>(?:[^/]+/){{{levels}}}[^/]+?)" if levels else "(?P<clip>[^/]+?)"
    return [
        (len(known.intersection(values)), _ANY_KEY, 0),
        (len(known.intersection(stems)), f"{directory}{clip}{ends}", 0),
        *((len(set(short).intersection(values)), _ANY_KEY, skips) for skips, short in shortened),
    ]


def _slashed(key: str) -> str:
    """Return a path as it is written here; tables from Windows name drives and part directories by backslashes."""
    return key.replace("\\", "/")


def _repeated(columns: Mapping[str, Sequence[str]], clip_ids: Collection[str]) -> dict[str, Any]:
    """Return a column that names most clips in several rows each, and the one that names the rater."""
    known, shortened = set(clip_ids), _shortened(clip_ids)
    for title, values in columns.items():
        distinct = list(dict.fromkeys(values))
        joined = max(found for found, _, _ in _joins(distinct, known, shortened))
        if len(distinct) < len(values) and joined >= max(2, _LEAST_JOINED * min(len(distinct), len(known))):
            rater = next((other for other in columns if other != title and _RATER_TITLE.search(other)), None)
            return {"repeated": title, "rater_column": rater}
    return {}


def _shortened(clip_ids: Collection[str]) -> list[tuple[int, list[str]]]:
    """Return the clip ids without one or two fields at their beginning, where all begin alike."""
    ids = sorted(clip_ids)
    shorter: list[tuple[int, list[str]]] = []
    for fields in (1, 2):
        match = re.match(rf"(?:[^\W_]+[\W_]+){{{fields}}}", ids[0]) if ids else None
        if match and all(clip_id.startswith(match[0]) for clip_id in ids):
            shorter.append((fields, [clip_id[len(match[0]) :] for clip_id in ids]))
    return shorter


def _speaker_key(columns: Mapping[str, Sequence[str]], speakers: Collection[str]) -> dict[str, Any]:
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


def _meanings(columns: Mapping[str, Sequence[str]], points: Sequence[str]) -> dict[str, Any]:
    found = {title: _numbers(values, points) for title, values in columns.items()}
    numbers = {title: read for title, read in found.items() if read is not None}
    facts: dict[str, Any] = {}
    for title, values in columns.items():
        known = {value for value in values if not is_missing(value)}
        names = words.splits_of(known)
        if names and "split_column" not in facts:
            facts |= {"split_column": title, "split_names": names}
        elif words.splits_of(known, with_others=True):
            facts["mixed_splits"] = (*facts.get("mixed_splits", ()), title)
        is_person = set(re.findall(r"[a-z]+", title.lower().replace("id", " "))) & words.SPEAKER_WORDS
        if is_person and not _RATER_TITLE.search(title) and len(set(values)) > 1:
            facts.setdefault("person_column", title)
    for title, read in numbers.items():
        if _FOLD_NAME.search(title) and all(value == int(value) and 0 <= value < 100 for value in read):
            facts["fold_column"] = title
    facts |= _shares(numbers) | _attributes(numbers)
    used = {title for key in ("soft_columns", "attribute_columns") for title in facts.get(key, {}).values()}
    used |= {facts.get(name) for name in ("fold_column", "split_column", "person_column")}
    facts |= _classes({title: values for title, values in columns.items() if title not in used}, numbers)
    features = tuple(title for title in numbers if title not in used and title != facts.get("label_column"))
    return facts | ({"feature_columns": features} if len(features) >= _FEWEST_FEATURES else {})


def _classes(columns: Mapping[str, Sequence[str]], numbers: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the column of classes: words for emotions, or what its title calls labels (texts, or numbers 0, 1, 2)."""
    surety: dict[str, float] = {}
    for title, values in columns.items():
        distinct = {value for value in values if not is_missing(value)}
        is_titled = bool(_LABEL_TITLE.search(title)) and not _NO_LABEL_TITLE.search(title)
        if not 1 < len(distinct) <= _MOST_CLASSES:
            continue
        if title in numbers:
            whole = all(value == int(value) for value in numbers[title])
            surety[title] = 0.1 if is_titled and whole and len(distinct) <= _MOST_CODES else 0.0
        else:
            named = words.are_emotions(distinct)
            is_possible = named or (is_titled and len(distinct) < len(values))
            surety[title] = named + 0.2 * is_titled if is_possible else 0.0
    likely = sorted((title for title in surety if surety[title]), key=lambda title: -surety[title])
    if not likely:
        return {}
    best = likely[0]
    # Marks of missing values come last: they are no classes.
    known = sorted({value for value in columns[best] if not is_missing(value)})
    if best in numbers:
        known.sort(key=lambda text: float(text.replace(",", ".")))
    marks = sorted({value for value in columns[best] if value and is_missing(value)})
    return {"label_column": best, "label_values": (*known, *marks), "label_columns": tuple(likely)}


def _shares(numbers: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    titles = [title for title in numbers if words.emotion_of(title)]
    # Forms of one word (anger, angry) stay classes of their own, as in a column of classes.
    named = {name: title for title, name in words.class_names(titles).by_value.items() if name is not None}
    is_positive = all(min(numbers[title]) >= 0 for title in titles)
    return {"soft_columns": named} if len(named) >= _FEWEST_SHARES and is_positive else {}


def _attributes(numbers: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    named = {
        attribute: title
        for attribute, forms in words.ATTRIBUTES.items()
        for title in numbers
        if title.strip().lower() in forms
    }
    if not named:
        return {}
    values = [value for title in named.values() for value in numbers[title]]
    low, high = min(values), max(values)
    likely = (scale for scale in _SCALES if scale[0] <= low and high <= scale[1])
    # A scale of a hundred is not believed of values up to ten.
    scale = next((scale for scale in likely if high > scale[1] / _LEAST_OF_SCALE), (low, high))
    return {"attribute_columns": named, "attribute_range": scale}


def _numbers(values: Sequence[str], points: Sequence[str]) -> list[float] | None:
    """Return the values as numbers, missing ones left out; None if one of them is text or none is there."""
    for point in points:
        try:
            read = [float(value.replace(point, ".")) for value in values if not is_missing(value)]
        except ValueError:
            continue
        return read if read and all(map(math.isfinite, read)) else None
    return None
