"""What the fields of the names mean: speaker, class, sentence, take, and facts without a name."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vavl.description import words
from vavl.description.fields import NameTable

_LEAST_SPEAKER_SCORE = 2.0
_MOST_CLASSES = 30
_LETTERS_AND_NUMBER = re.compile(r"([^\W\d_]+)(\d+)")
_SEX_AND_NUMBER = re.compile(r"[fmwFMW]\d+")


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
        values: one per name; "" where an optional folder is absent.
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
    """Guess what each field of the names means."""
    columns = _merged(list(_varying(table)))
    is_one_field = len(table.parts[-1].fields) == 1
    emotion = max(columns, key=lambda column: words.are_emotions(column.distinct), default=None)
    is_named = emotion is not None and words.are_emotions(emotion.distinct) > 0
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

    A field of the file name is preferred to one of a folder, words for emotions to abbreviations.
    """
    kept: list[Column] = []
    for column in sorted(columns, key=_preference):
        twin = next((place for place, other in enumerate(kept) if _say_the_same(column, other)), None)
        if twin is None:
            kept.append(column)
            continue
        other = kept[twin]
        named = other.word in words.SPEAKER_WORDS or other.word in words.SENTENCE_WORDS
        word = other.word if named or not column.word else column.word
        kept[twin] = Column(other.place, other.values, word, (*other.same_as, column.place))
    return sorted(kept, key=lambda column: (-column.place.level, column.place.field))


def _preference(column: Column) -> tuple[float, int, int]:
    return (-words.are_emotions(column.distinct), column.place.level, column.place.field)


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
        (column.word in words.SENTENCE_WORDS | words.TAKE_WORDS, -5.0),
        (any(place.level > 0 for place in column.same_as), 2.0),
        (first_in_name, 1.5),
        (column.place.level > 0, 1.0),
        (column.word in {"s", "p", "sp", "id", "pid"}, 1.0),
        ({value.lower() for value in values} <= words.LEVELS, -5.0),
        (_meets_all(column, emotion), 1.5),
    ]
    return sum(weight for is_true, weight in signs if is_true) + math.log2(len(values)) / 4


def _names_people(column: Column) -> bool:
    is_sex_and_number = all(_SEX_AND_NUMBER.fullmatch(value) for value in column.distinct)
    return is_sex_and_number or column.word in words.SPEAKER_WORDS


def _meets_all(column: Column, other: Column | None) -> bool:
    """Tell whether each value of a field occurs with at least half of the values of another."""
    if other is None:
        return False
    partners = Counter(value for value, _ in set(zip(column.values, other.values, strict=True)))
    return min(partners.values()) >= len(other.distinct) / 2


def _possible_classes(columns: Sequence[Column], speaker: Column | None) -> Column | None:
    """Return the field with most values, of those that every speaker goes through and that name no order."""
    unlikely = words.SENTENCE_WORDS | words.TAKE_WORDS | words.SPEAKER_WORDS
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
    known = (
        (words.SENTENCE_WORDS, "sentence"), (words.TAKE_WORDS, "take"), (words.SESSION_WORDS, "session")
    )  # fmt: skip
    for names, name in known:
        if column.word in names:
            return name
    if {value.lower() for value in column.distinct} <= words.LEVELS:
        return "intensity"
    if column.word == "s":
        return "sentence"
    return column.word if re.fullmatch(r"[a-z]{3,}", column.word) else ""
