"""What the fields of file names mean: speaker, class, split, session, take."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vavl.description.names import CODE, MOST_VOICES, Field, Names
from vavl.description.words import (
    LEVELS,
    SENTENCE_WORDS,
    SESSION_WORDS,
    SPEAKER_WORDS,
    TAKE_WORDS,
    are_emotions,
    split_of,
    splits_of,
)

_LEAST_SPEAKER_SCORE = 2.0
_MOST_CLASSES = 30
_SEX_AND_NUMBER = re.compile(r"[fmwFMW]\d+")


@dataclass(frozen=True)
class Roles:
    """The meaning of the fields of one modality."""

    speaker: Field | None  # None where no field looks like one.
    emotion: Field | None  # the class of a clip; None where no field looks like one
    is_emotion_named: bool  # the values are words for emotions; False for a field that only could be one
    groups: Mapping[str, Field] = field(default_factory=dict)  # name -> further field
    columns: tuple[Field, ...] = ()  # all fields that vary, those that say the same only once
    split: Field | None = None  # a field whose values are train, validation and test in some writing
    # groups that name the speaker together (session and letter), or stand for it (session)
    joint: tuple[str, ...] = ()
    rule: str = ""  # by which the speaker is surely known; "" for a guess
    # of the values of ``emotion``, where a published scheme names them
    class_names: Mapping[str, str] = field(default_factory=dict)
    also_emotions: tuple[Field, ...] = ()  # further fields whose values are words for emotions

    @property
    def people(self) -> tuple[str, ...]:
        """Groups of the pattern that name the speaker; none where nobody is known."""
        return self.joint or (("speaker",) if self.speaker is not None else ())


def find_roles(names: Names) -> Roles:
    """Infer what each field of the names means."""
    columns = _merged([one for part in names.parts for one in part.fields if len(one.distinct) > 1])
    split = next((column for column in columns if splits_of(column.distinct, with_others=True)), None)
    meant = [column for column in columns if not _name_splits(column)]
    is_one_field = len(names.parts[-1].fields) == 1
    emotions = [column for column in meant if are_emotions(column.distinct) > 0]
    emotion = max(emotions, key=lambda column: are_emotions(column.distinct), default=None)
    is_named = emotion is not None
    emotion = emotion or next((column for column in meant if column.word == "emotion"), None)
    # A file name of one field, say a number, tells recordings apart and not who speaks in them.
    sure = [column for column in meant if names_people(column) and not _begins_anew(column, meant)]
    people = sure or [column for column in meant if (column.level or not is_one_field) and not names_people(column)]
    joint = {} if sure else _joint_speaker(meant)
    code = next((column for column in meant if column.word == CODE), None)
    speaker = None if len(joint) > 1 else _speaker(people, emotion or code)
    joint = {} if speaker is not None else joint
    taken = [speaker, split, *joint.values()]
    if emotion is None:
        emotion = _possible_classes(
            [column for column in meant if column not in taken], speaker or joint.get("session")
        )
    rest = [column for column in columns if column not in (*taken, emotion)]
    groups = {**joint, **dict(_groups(rest, len(names.names), joint))}
    scheme = names.scheme
    rule = names_people(speaker) if speaker is not None else ""
    if scheme is not None and scheme.names_people and (speaker is not None or len(joint) > 1):
        rule = f"names as of {scheme.title}"
    codes = dict(scheme.classes) if scheme is not None and emotion is not None else {}
    is_coded = emotion is not None and set(emotion.distinct) <= codes.keys()
    others = tuple(column for column in emotions if column is not emotion)
    return Roles(
        speaker, emotion, is_named, groups, tuple(columns), split, tuple(joint), rule, codes if is_coded else {}, others
    )  # fmt: skip


def _name_splits(column: Field) -> bool:
    """Tell whether values of a field name splits: such a field is no speaker and no class, even if others do not."""
    named = [value for value in column.distinct if split_of(value)]
    return len(named) == len(column.distinct) or len({split_of(value) for value in named}) > 1


def _begins_anew(column: Field, columns: Sequence[Field]) -> bool:
    """Tell whether a letter and number counts turns: values occur in several sessions."""
    if column.word in SPEAKER_WORDS:
        return False
    sessions = (other for other in columns if other.word in SESSION_WORDS and other is not column)
    return any(len(set(zip(column.values, session.values, strict=True))) > len(column.distinct) for session in sessions)


def _joint_speaker(columns: Sequence[Field]) -> dict[str, Field]:
    """Return the session and the letter of who speaks in it; the session alone where no field is such a letter.

    Numbers of people begin anew in each session, so neither part names a person alone.
    """
    sessions = [column for column in columns if column.word in SESSION_WORDS and "" not in column.values]
    sessions = [column for column in sessions if len(column.values) >= 2 * len(column.distinct)]
    if not sessions:
        return {}
    # Dialogues of a session may begin anew in the next one.
    session = min(sessions, key=lambda column: (not column.word.startswith("ses"), len(column.distinct)))
    letters = [column for column in columns if _is_letter_of_people(column, session)]
    who = next((column for column in letters if column.word == "who"), letters[-1] if letters else None)
    return {"session": session} | ({"who": who} if who is not None else {})


def _is_letter_of_people(column: Field, session: Field) -> bool:
    """Tell whether a field is a letter of which most sessions have two or more: F and M, A and B."""
    values = column.distinct
    if column is session or column.word == "worn" or "" in column.values:
        return False
    if len(values) > MOST_VOICES or not all(len(value) == 1 and value.isalpha() for value in values):
        return False
    voices = Counter(one for one, _ in set(zip(session.values, column.values, strict=True)))
    return sum(count > 1 for count in voices.values()) >= len(voices) / 2


def _merged(columns: Sequence[Field]) -> list[Field]:
    """Keep one of the columns that are translations of each other: the one that says most.

    A field of the file name is preferred to one of a directory, words for emotions to abbreviations.
    """
    kept: list[Field] = []
    for column in sorted(columns, key=_preference):
        twin = next((place for place, other in enumerate(kept) if _say_the_same(column, other)), None)
        if twin is None:
            kept.append(column)
            continue
        other = kept[twin]
        named = other.word in SPEAKER_WORDS or other.word in SENTENCE_WORDS
        word = other.word if named or not column.word else column.word
        kept[twin] = replace(other, word=word, same_as=(*other.same_as, column.place))
    return sorted(kept, key=lambda column: (-column.level, column.number))


def _preference(column: Field) -> tuple[bool, float, int, int]:
    is_split = bool(splits_of(column.distinct, with_others=True))
    return (not is_split, -are_emotions(column.distinct), column.level, column.number)


def _say_the_same(one: Field, other: Field) -> bool:
    if "" in one.values or "" in other.values:
        return False
    pairs = len(set(zip(one.values, other.values, strict=True)))
    return pairs == len(one.distinct) == len(other.distinct)


def _speaker(columns: Sequence[Field], emotion: Field | None) -> Field | None:
    scored = [
        (_speaker_score(column, emotion), column)
        for column in columns
        if column is not emotion and "" not in column.values
    ]
    best = max(scored, key=lambda pair: pair[0], default=(0.0, None))
    return best[1] if best[0] >= _LEAST_SPEAKER_SCORE else None


def _speaker_score(column: Field, emotion: Field | None) -> float:
    """Return how much a field looks like the speaker; each sign has a weight of its own."""
    values = column.distinct
    if len(column.values) < 2 * len(values):
        return -1.0
    signs = [
        (bool(names_people(column)), 5.0),
        (column.word in SENTENCE_WORDS | TAKE_WORDS | SESSION_WORDS | {CODE}, -5.0),
        (any(level > 0 for level, _ in column.same_as), 2.0),
        (column.place == (0, 0), 1.5),
        (column.level > 0, 1.0),
        (column.word in {"s", "p", "sp", "id", "pid"}, 1.0),
        ({value.lower() for value in values} <= LEVELS, -5.0),
        (_meets_all(column, emotion), 1.5),
    ]
    return sum(weight for is_true, weight in signs if is_true) + math.log2(len(values)) / 4


def names_people(column: Field) -> str:
    """Return the rule by which a field surely names people; "" for a field that only could."""
    if column.word in SPEAKER_WORDS:
        return f"the word `{column.word}` introduces it"
    if all(_SEX_AND_NUMBER.fullmatch(value) for value in column.distinct):
        return "the letter of the sex and a number"
    return ""


def _meets_all(column: Field, other: Field | None) -> bool:
    """Tell whether each value of a field occurs with at least half of the values of another."""
    if other is None:
        return False
    partners = Counter(value for value, _ in set(zip(column.values, other.values, strict=True)))
    return min(partners.values()) >= len(other.distinct) / 2


def _possible_classes(columns: Sequence[Field], speaker: Field | None) -> Field | None:
    """Return the field with most values, of those that every speaker goes through and that name no order."""
    unlikely = SENTENCE_WORDS | TAKE_WORDS | SPEAKER_WORDS | SESSION_WORDS
    possible = [
        column
        for column in columns
        if column is not speaker
        and 2 < len(column.distinct) <= _MOST_CLASSES
        and column.word not in unlikely
        and (speaker is None or _meets_all(speaker, column))
    ]
    return max(possible, key=lambda column: (column.word == CODE, len(column.distinct)), default=None)


def _groups(columns: Sequence[Field], names: int, taken: Mapping[str, Field]) -> Iterator[tuple[str, Field]]:
    """Yield further fields with a name; one that numbers the files says nothing and is left out."""
    used: set[str] = {"clip", "speaker", "emotion", "sex", "split", *taken}
    for number, column in enumerate(columns, start=1):
        if len(column.distinct) > names / 2:
            continue
        name = _group_name(column)
        if name in used and re.fullmatch(r"[a-z]{3,}", column.word):
            name = column.word
        if not name or name in used:
            name = f"field_{number}"
        used.add(name)
        yield name, column


def _group_name(column: Field) -> str:
    known = ((SENTENCE_WORDS, "sentence"), (TAKE_WORDS, "take"), (SESSION_WORDS, "session"))
    for names, name in known:
        if column.word in names:
            return name
    if {value.lower() for value in column.distinct} <= LEVELS:
        return "intensity"
    if column.word == "s":
        return "sentence"
    return column.word if re.fullmatch(r"[a-z]{3,}", column.word) else ""
