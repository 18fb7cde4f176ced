"""The fields of file names, cut at what is no letter and no digit, and what they mean: speaker, class, take."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

_FIELD = re.compile(r"[^\W_]+")
# A directory level or file name is cut into fields where so many agree on the marks between them.
_AGREEING_SHARE = 0.9
_LEAST_RUNS = 3
_LEAST_SPEAKER_SCORE = 2.0
_MOST_CLASSES = 30
_LETTERS_AND_NUMBER = re.compile(r"([^\W\d_]+)(\d+)")
_SEX_AND_NUMBER = re.compile(r"[fmwFMW]\d+")
_EMOTIONS: dict[str, str] = {
    "angry": "angry anger ang an",
    "happy": "happy happiness hap ha joy joyful joy",
    "sad": "sad sadness sa",
    "fearful": "fearful fear fea fe fearfull afraid scared anxious anxiety anx",
    "disgust": "disgust disgusted disgusting dis di",
    "surprised": "surprised surprise sur su surp ps",
    "neutral": "neutral neu ne neut",
    "calm": "calm cal",
    "bored": "bored boredom bor",
    "contempt": "contempt con contemptuous",
    "frustrated": "frustrated frustration fru",
    "excited": "excited excitement exc",
    "amused": "amused amusement amu",
    "glad": "glad",
    "mad": "mad",
    "bothered": "bothered",
    "confused": "confused confusion",
    "thinking": "thinking",
    "concentrating": "concentrating concentration",
    "unsure": "unsure",
    "other": "other oth xxx",
}
_CLASS_OF = {form: name for name, forms in _EMOTIONS.items() for form in forms.split()}
_SHORTEST_WORD = 3


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SPEAKER_WORDS = _words(
    "actor actors actress subject subjects subj sub speaker speakers spk spkr spkrid participant person talker "
    "patient respondent performer"
)
SENTENCE_WORDS = _words("sentence sentences sent stmt statement text utt utterance phrase line script")
TAKE_WORDS = _words("take takes t rep repetition r trial version ver v")
SESSION_WORDS = _words("session sess ses dialog dialogue dia scene")
LEVELS = _words("lo md hi xx low medium middle high normal strong weak mild intense")
_SEXES = {"female": "f female w woman", "male": "m male man"}
SEXES = {form: name for name, forms in _SEXES.items() for form in forms.split()}
ATTRIBUTES = {
    "arousal": ("arousal", "aro", "activation", "act", "emoact"),
    "valence": ("valence", "val", "emoval"),
    "dominance": ("dominance", "dom", "emodom"),
}
SPLIT_NAMES = _words("train training dev development val valid validation test testing eval")


def emotion_of(text: str) -> str | None:
    """Return the usual name of the emotion that ``text`` means; None where it means none."""
    return _CLASS_OF.get(text.strip().lower())


def are_emotions(values: Collection[str]) -> float:
    """Return how surely the distinct ``values`` name emotions: 0 no, up to 2 for whole words.

    Abbreviations of two letters are believed only where every value is one.
    """
    known = [value for value in values if emotion_of(value)]
    meanings = {emotion_of(value) for value in known}
    if len(meanings) < 2 or len(known) < 0.5 * len(values):
        return 0.0
    is_short = any(len(value) < _SHORTEST_WORD for value in known)
    if is_short and (len(known) < len(values) or len(meanings) < _SHORTEST_WORD):
        return 0.0
    share = len(known) / len(values)
    whole_words = sum(value.lower() == emotion_of(value) or len(value) > 4 for value in known) / len(values)
    return share + whole_words


@dataclass(frozen=True)
class Part:
    """One directory level of the names, or the file name without its suffix.

    Attributes:
        separators: before, between and after the fields.
        fields: one tuple of values per field, one value per name; "" where an optional level is absent.
        is_whole: the level is not cut: its one field is all of it.
        is_optional: some names lack this level.
    """

    separators: tuple[str, ...]
    fields: tuple[tuple[str, ...], ...]
    is_whole: bool = False
    is_optional: bool = False


@dataclass(frozen=True)
class NameTable:
    """Names of one modality as a table.

    Attributes:
        names: those that fit the parts, with their suffix.
        parts: from the outermost directory to the file name.
        strangers: names that do not fit.
    """

    names: tuple[str, ...]
    parts: tuple[Part, ...]
    strangers: tuple[str, ...]


def cut_names(names: Sequence[str]) -> NameTable:
    """Cut names (relative paths) into the parts and fields that most of them share."""
    levels = {name: name.rpartition(".")[0].split("/") for name in names}
    depth = Counter(len(parts) for parts in levels.values()).most_common(1)[0][0]
    shapes = _common_shapes([parts for parts in levels.values() if len(parts) == depth])
    optional = _optional_level([parts for parts in levels.values() if len(parts) == depth - 1], shapes)
    rows: dict[str, list[str]] = {}
    for name, parts in levels.items():
        full = parts
        if optional is not None and len(parts) == depth - 1:
            full = [*parts[:optional], "", *parts[optional:]]
        if len(full) == depth and _fits(full, shapes, optional):
            rows[name] = full
    columns = list(zip(*rows.values(), strict=True))
    cut = tuple(_part(columns[level], shapes[level], is_optional=level == optional) for level in range(depth))
    strangers = tuple(name for name in names if name not in rows)
    return NameTable(tuple(rows), cut, strangers)


def digit_runs(value: str) -> tuple[str, ...]:
    """Return the runs of digits and of other characters in ``value``."""
    return tuple("".join(run) for _, run in groupby(value, key=str.isdecimal))


def _common_shapes(names: Sequence[Sequence[str]]) -> list[tuple[str, ...] | None]:
    """Return per level the marks between the fields that nearly all share; None where they differ."""
    shapes: list[tuple[str, ...] | None] = []
    for level in zip(*names, strict=True):
        shape, count = Counter(_separators(text) for text in level).most_common(1)[0]
        is_cut = count >= _AGREEING_SHARE * len(level) and len(shape) > 1
        shapes.append(shape if is_cut else None)
    return shapes


def _separators(text: str) -> tuple[str, ...]:
    return tuple(_FIELD.split(text))


def _fits(parts: Sequence[str], shapes: Sequence[tuple[str, ...] | None], optional: int | None) -> bool:
    return all(
        (level == optional and not text) or shape is None or _separators(text) == shape
        for level, (text, shape) in enumerate(zip(parts, shapes, strict=True))
    )


def _optional_level(shorter: Sequence[Sequence[str]], shapes: Sequence[tuple[str, ...] | None]) -> int | None:
    """Return the directory level that names with one level less lack; None where no level explains them."""
    if not shorter:
        return None
    fitting = {
        level: sum(_fits([*parts[:level], "", *parts[level:]], shapes, level) for parts in shorter)
        for level in range(len(shapes) - 1)
    }
    best = max(fitting, key=lambda level: fitting[level], default=None)
    return best if best is not None and fitting[best] >= _AGREEING_SHARE * len(shorter) else None


def _part(level: Sequence[str], shape: tuple[str, ...] | None, *, is_optional: bool) -> Part:
    if shape is None:
        return Part(("", ""), (tuple(level),), is_whole=True, is_optional=is_optional)
    found = [_FIELD.findall(text) or [""] * (len(shape) - 1) for text in level]
    part = Part(shape, tuple(zip(*found, strict=True)), is_optional=is_optional)
    return _without_long_runs(part)


def _without_long_runs(part: Part) -> Part:
    """Cut fields such as 03a01Fa further, where digits and letters take turns alike in all names."""
    separators: list[str] = [part.separators[0]]
    fields: list[tuple[str, ...]] = []
    for values, after in zip(part.fields, part.separators[1:], strict=True):
        runs = [digit_runs(value) for value in values]
        shapes = {tuple((run.isdecimal(), len(run)) for run in value) for value in runs}
        if len(shapes) == 1 and len(runs[0]) >= _LEAST_RUNS:
            fields += list(zip(*runs, strict=True))
            separators += [""] * (len(runs[0]) - 1)
        else:
            fields.append(values)
        separators.append(after)
    return replace(part, separators=tuple(separators), fields=tuple(fields))


@dataclass(frozen=True, order=True)
class Place:
    """Where a field stands: ``level`` counts from the file name (0) outwards, ``field`` from the left."""

    level: int
    field: int


@dataclass(frozen=True)
class Column:
    """One field of all names.

    Attributes:
        place: of the field.
        values: one per name; "" where an optional directory is absent.
        word: the constant word before it in the same level, or its own constant letters, lower case.
        same_as: other places that always say the same.
    """

    place: Place
    values: tuple[str, ...]
    word: str = ""
    same_as: tuple[Place, ...] = ()

    @property
    def distinct(self) -> list[str]:
        """The values, each once, sorted; without the absent one."""
        return sorted(set(self.values) - {""})


@dataclass(frozen=True)
class Roles:
    """The meaning of the fields of one modality.

    Attributes:
        speaker: None where no field looks like one.
        emotion: the class of a clip; None where no field looks like one.
        is_emotion_named: the values are words for emotions; False for a field that only could be one.
        groups: name -> further field.
        columns: all fields that vary, those that say the same only once.
    """

    speaker: Column | None
    emotion: Column | None
    is_emotion_named: bool
    groups: Mapping[str, Column] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()


def find_roles(table: NameTable) -> Roles:
    """Infer what each field of the names means."""
    columns = _merged(list(_varying(table)))
    is_one_field = len(table.parts[-1].fields) == 1
    emotion = max(columns, key=lambda column: are_emotions(column.distinct), default=None)
    is_named = emotion is not None and are_emotions(emotion.distinct) > 0
    # A file name of one field, say a number, tells recordings apart and not who speaks in them.
    people = [column for column in columns if column.place.level or not is_one_field or _names_people(column)]
    speaker = _speaker(people, emotion if is_named else None)
    if not is_named:
        emotion = _possible_classes(columns, speaker)
    rest = [column for column in columns if column not in (speaker, emotion)]
    groups = dict(_groups(rest, len(table.names)))
    return Roles(speaker, emotion, is_named, groups, tuple(columns))


def _varying(table: NameTable) -> Iterator[Column]:
    """Yield the fields that have more than one value, each with the word that introduces it."""
    for number, part in enumerate(table.parts):
        level = len(table.parts) - 1 - number
        before = ""
        for place, values in enumerate(part.fields):
            distinct = set(values) - {""}
            if len(distinct) > 1:
                yield Column(Place(level, place), values, before or _own_letters(distinct))
                before = ""
            else:
                before = "".join(distinct).lower()


def _own_letters(values: set[str]) -> str:
    """Return the letters that all values begin with before their number, e.g. ``s`` for s01, s02."""
    matches = [_LETTERS_AND_NUMBER.fullmatch(value) for value in values]
    letters = {match[1].lower() for match in matches if match}
    return letters.pop() if all(matches) and len(letters) == 1 else ""


def _merged(columns: Sequence[Column]) -> list[Column]:
    """Keep one of the columns that are translations of each other: the one that says most.

    A field of the file name is preferred to one of a directory, words for emotions to abbreviations.
    """
    kept: list[Column] = []
    for column in sorted(columns, key=_preference):
        twin = next((place for place, other in enumerate(kept) if _say_the_same(column, other)), None)
        if twin is None:
            kept.append(column)
            continue
        other = kept[twin]
        named = other.word in SPEAKER_WORDS or other.word in SENTENCE_WORDS
        word = other.word if named or not column.word else column.word
        kept[twin] = Column(other.place, other.values, word, (*other.same_as, column.place))
    return sorted(kept, key=lambda column: (-column.place.level, column.place.field))


def _preference(column: Column) -> tuple[float, int, int]:
    return (-are_emotions(column.distinct), column.place.level, column.place.field)


def _say_the_same(one: Column, other: Column) -> bool:
    if "" in one.values or "" in other.values:
        return False
    pairs = len(set(zip(one.values, other.values, strict=True)))
    return pairs == len(one.distinct) == len(other.distinct)


def _speaker(columns: Sequence[Column], emotion: Column | None) -> Column | None:
    scored = [
        (_speaker_score(column, emotion), column)
        for column in columns
        if column is not emotion and "" not in column.values
    ]
    best = max(scored, key=lambda pair: pair[0], default=(0.0, None))
    return best[1] if best[0] >= _LEAST_SPEAKER_SCORE else None


def _speaker_score(column: Column, emotion: Column | None) -> float:
    """Return how much a field looks like the speaker; each sign has a weight of its own."""
    values = column.distinct
    if len(column.values) < 2 * len(values):
        return -1.0
    first_in_name = column.place.level == 0 and column.place.field == 0
    signs = [
        (_names_people(column), 5.0),
        (column.word in SENTENCE_WORDS | TAKE_WORDS, -5.0),
        (any(place.level > 0 for place in column.same_as), 2.0),
        (first_in_name, 1.5),
        (column.place.level > 0, 1.0),
        (column.word in {"s", "p", "sp", "id", "pid"}, 1.0),
        ({value.lower() for value in values} <= LEVELS, -5.0),
        (_meets_all(column, emotion), 1.5),
    ]
    return sum(weight for is_true, weight in signs if is_true) + math.log2(len(values)) / 4


def _names_people(column: Column) -> bool:
    is_sex_and_number = all(_SEX_AND_NUMBER.fullmatch(value) for value in column.distinct)
    return is_sex_and_number or column.word in SPEAKER_WORDS


def _meets_all(column: Column, other: Column | None) -> bool:
    """Tell whether each value of a field occurs with at least half of the values of another."""
    if other is None:
        return False
    partners = Counter(value for value, _ in set(zip(column.values, other.values, strict=True)))
    return min(partners.values()) >= len(other.distinct) / 2


def _possible_classes(columns: Sequence[Column], speaker: Column | None) -> Column | None:
    """Return the field with most values, of those that every speaker goes through and that name no order."""
    unlikely = SENTENCE_WORDS | TAKE_WORDS | SPEAKER_WORDS
    possible = [
        column
        for column in columns
        if column is not speaker
        and 2 < len(column.distinct) <= _MOST_CLASSES
        and column.word not in unlikely
        and (speaker is None or _meets_all(speaker, column))
    ]
    return max(possible, key=lambda column: len(column.distinct), default=None)


def _groups(columns: Sequence[Column], names: int) -> Iterator[tuple[str, Column]]:
    """Yield further fields with a name; one that numbers the files says nothing and is left out."""
    used: set[str] = {"clip", "speaker", "emotion", "sex"}
    for number, column in enumerate(columns, start=1):
        if len(column.distinct) > names / 2:
            continue
        name = _group_name(column)
        if not name or name in used:
            name = f"field_{number}"
        used.add(name)
        yield name, column


def _group_name(column: Column) -> str:
    known = ((SENTENCE_WORDS, "sentence"), (TAKE_WORDS, "take"), (SESSION_WORDS, "session"))
    for names, name in known:
        if column.word in names:
            return name
    if {value.lower() for value in column.distinct} <= LEVELS:
        return "intensity"
    if column.word == "s":
        return "sentence"
    return column.word if re.fullmatch(r"[a-z]{3,}", column.word) else ""
