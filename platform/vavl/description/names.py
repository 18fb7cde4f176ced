"""The fields of file names: names are cut at what is no letter and no digit, or as a scheme says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby, product
from pathlib import PurePosixPath

_LEAST_SHARE = 0.9
MOST_VOICES = 6
"""Letters of who speaks in a session: more are something else."""

_SESSION = r"(?i:session|sess|ses|dialogue|dialog|dia|conversation|conv|recording|rec|meeting|interview)[-_ ]?\d+"


@dataclass(frozen=True)
class Scheme:
    """How a corpus names its files."""

    title: str
    # text before the field, what the field is, and its expression, from the left
    pieces: tuple[tuple[str, str, str], ...]
    classes: Mapping[str, str] = field(default_factory=dict)  # code of the field ``emotion`` -> class, as published
    # the scheme is published, so that the speaker is certain; False where names only look like it
    names_people: bool = True
    cuts: bool = True  # fields are taken as the scheme says; False where marks between them part them as well
    doubt: str = ""  # what a person must decide all the same
    # fields that name the sentence together, where its number begins anew in each of them
    sentence: tuple[str, ...] = ()

    @cached_property
    def expression(self) -> re.Pattern[str]:
        """The whole file name without its suffix."""
        return re.compile("".join(f"{re.escape(before)}(?P<{word}>{text})" for before, word, text in self.pieces))

    def cut(self, name: str) -> tuple[str, ...] | None:
        """Return the fields of a file name, one per piece; None for another name."""
        match = self.expression.fullmatch(name)
        return None if match is None else match.groups()


_RAVDESS = {
    "01": "neutral", "02": "calm", "03": "happy", "04": "sad", "05": "angry", "06": "fearful", "07": "disgust",
    "08": "surprised",
}  # fmt: skip
_SAVEE = {
    "a": "angry", "d": "disgust", "f": "fearful", "h": "happy", "n": "neutral", "sa": "sad", "su": "surprised",
}  # fmt: skip
_EMO_DB = {
    "W": "angry", "L": "bored", "E": "disgust", "A": "fearful", "F": "happy", "T": "sad", "N": "neutral",
}  # fmt: skip
_SAVEE_CLIP = (("", "emotion", "sa|su|[adfhn]"), ("", "sentence", r"\d\d?"))
_PUBLISHED = (
    Scheme(
        "IEMOCAP",
        (("", "session", r"Ses\d\d"), ("", "worn", "[FM]"), ("_", "dialogue", r"(?:impro|script)\w+?"),
         ("_", "who", "[FM]"), ("", "turn", r"\d{3}")),
    ),
    Scheme(
        "EMO-DB",
        (("", "speaker", r"\d\d"), ("", "sentence", r"[ab]\d\d"), ("", "emotion", "[AEFLNTW]"), ("", "take", "[a-z]")),
        _EMO_DB,
    ),
    Scheme("SAVEE", (("", "speaker", "DC|JE|JK|KL"), ("_", *_SAVEE_CLIP[0][1:]), _SAVEE_CLIP[1]), _SAVEE,
           sentence=("emotion", "sentence")),
    Scheme("SAVEE", _SAVEE_CLIP, _SAVEE, names_people=False, sentence=("emotion", "sentence")),
    Scheme(
        "TESS",
        (("", "speaker", "[OY]AF?"), ("_", "sentence", "[a-z]+"),
         ("_", "emotion", "angry|disgust|fear|happy|neutral|ps|sad")),
    ),
    Scheme(
        "RAVDESS",
        (("", "modality", "0[123]"), ("-", "channel", "0[12]"), ("-", "emotion", "0[1-8]"),
         ("-", "intensity", "0[12]"), ("-", "sentence", "0[12]"), ("-", "take", "0[12]"), ("-", "speaker", r"\d\d")),
        _RAVDESS, cuts=False,
    ),
    Scheme(
        "CREMA-D",
        (("", "speaker", r"1\d{3}"), ("_", "sentence", "[A-Z]{3}"), ("_", "emotion", "ANG|DIS|FEA|HAP|NEU|SAD"),
         ("_", "intensity", "XX?|LO|MD|HI")),
        cuts=False,
    ),
    Scheme(
        "MSP-IMPROV",
        (("MSP-IMPROV-S", "sentence", r"\d\d"), ("", "intended", "[AHSN]"), ("-", "speaker", r"[FM]\d\d"),
         ("-", "scenario", "[PRST]"), ("-", "pair", "[FM]{2}"), ("", "turn", r"\d\d")),
        doubt="MSP-IMPROV records two actors (F01, M01) in one session: list both in the same splits.",
    ),
    Scheme(
        "MSP-PODCAST",
        (("MSP-PODCAST_", "recording", r"\d{4}"), ("_", "turn", r"\d{4}(?:_\d{4})?")),
        names_people=False,
    ),
)  # fmt: skip


def find_scheme(names: Sequence[str]) -> Scheme | None:
    """Return the scheme that file names (without suffix) follow: one of a published corpus, or of sessions."""
    distinct = list(dict.fromkeys(names))
    for scheme in (*_PUBLISHED, *_sessions()):
        fitting = [cut for name in distinct if (cut := scheme.cut(name)) is not None]
        if len(fitting) >= max(2, _LEAST_SHARE * len(distinct)) and _is_believed(scheme, fitting):
            return scheme
    return None


def _sessions() -> Iterator[Scheme]:
    """Yield schemes of a session, perhaps a part of it, the letter of who speaks and the number of the turn."""
    for mark, has_part, worn, within in product("_-", (True, False), ("", "[A-Za-z]"), ("", "same")):
        session = [("", "session", _SESSION), *([("", "worn", worn)] if worn else [])]
        part = [(mark, "dialogue", ".+?")] if has_part else []
        turn = [(mark, "who", "[A-Za-z]"), (mark if within else "", "turn", r"\d+")]
        yield Scheme("sessions", (*session, *part, *turn), names_people=False)


def _is_believed(scheme: Scheme, cuts: Sequence[tuple[str, ...]]) -> bool:
    """Tell whether the fields are what the scheme says, where single letters could be anything.

    Codes of emotions must be several, each with several numbers; a session must have two voices or more.
    """
    words = [word for _, word, _ in scheme.pieces]
    if scheme.names_people and scheme.cuts and scheme.title != "EMO-DB":
        return True
    rows = [dict(zip(words, cut, strict=True)) for cut in cuts]
    if "who" in words:
        voices: dict[str, set[str]] = {}
        for row in rows:
            voices.setdefault(row["session"], set()).add(row["who"])
        several = sum(len(found) > 1 for found in voices.values())
        return len({row["who"] for row in rows}) <= MOST_VOICES and several >= len(voices) / 2
    return "emotion" not in words or len({row["emotion"] for row in rows}) > 2


_FIELD = re.compile(r"[^\W_]+")
# A directory level or file name is cut into fields where so many agree on the marks between them.
_AGREEING_SHARE = 0.9
_LEAST_RUNS = 3
_MOST_CODES = 30
_FEWEST_CODES = 3
_VOICE_AND_TURN = re.compile(r"([A-Za-z])(\d+)")
_LETTERS_AND_NUMBER = re.compile(r"([^\W\d_]+)(\d+)")
_SESSION_NUMBER = re.compile(
    r"(?i)(?:session|sess|ses|dialogue|dialog|dia|conversation|conv|meeting|interview)[\W_]*\d"
)
CODE = "code"
"""Word of a field of letters that stood before a number."""
Place = tuple[int, int]
"""Of a field: level and number."""


@dataclass(frozen=True)
class Field:
    """One field of all names."""

    level: int  # counts from the file name (0) outwards
    number: int  # counts from the left
    before: str  # mark before it
    values: tuple[str, ...]  # one per name; "" where an optional directory is absent
    # what it is: as a scheme says, the constant word before it in its level, or the letters that all values begin with
    word: str = ""
    expression: str = ""  # how a card reads it, where a scheme says so
    same_as: tuple[Place, ...] = ()  # other fields that always say the same

    @property
    def place(self) -> Place:
        """Where it stands."""
        return self.level, self.number

    @cached_property
    def distinct(self) -> list[str]:
        """The values, each once, sorted; without the absent one."""
        return sorted(set(self.values) - {""})


@dataclass(frozen=True)
class Part:
    """One directory level of the names, or the file name without its suffix."""

    fields: tuple[Field, ...]
    after: str = ""  # mark after the last field
    is_whole: bool = False  # the level is not cut: its one field is all of it
    is_optional: bool = False  # some names lack this level


@dataclass(frozen=True)
class Names:
    """The names of one modality, cut into fields."""

    names: tuple[str, ...]  # those that fit the parts, with their suffix
    suffixes: tuple[str, ...]  # most frequent first
    parts: tuple[Part, ...]  # from the outermost directory to the file name
    unmatched: tuple[str, ...]  # names that do not fit
    scheme: Scheme | None = None  # of a published corpus or a session that the file names follow, if any

    def level(self, number: int) -> Part | None:
        """Return a level, counted from the file name (0); None where there are not so many."""
        return self.parts[-1 - number] if number < len(self.parts) else None


def cut_names(names: Sequence[str]) -> Names:
    """Cut names (relative paths) into the parts and fields that most of them share."""
    suffixes = Counter(PurePosixPath(name).suffix.lower() for name in names)
    levels = {name: name.rpartition(".")[0].split("/") for name in names}
    depth = Counter(len(parts) for parts in levels.values()).most_common(1)[0][0]
    shapes = _common_shapes([parts for parts in levels.values() if len(parts) == depth])
    optional = _optional_level([parts for parts in levels.values() if len(parts) == depth - 1], shapes)
    scheme = find_scheme([parts[-1] for parts in levels.values()])
    cutting = scheme if scheme is not None and scheme.cuts else None
    if cutting is not None:
        shapes[-1] = None  # the scheme cuts the file name, whatever its marks are
    rows: dict[str, list[str]] = {}
    for name, parts in levels.items():
        full = parts
        if optional is not None and len(parts) == depth - 1:
            full = [*parts[:optional], "", *parts[optional:]]
        is_named = cutting is None or cutting.cut(full[-1]) is not None
        if is_named and len(full) == depth and _fits(full, shapes, optional):
            rows[name] = full
    columns = list(zip(*rows.values(), strict=True))
    cut = [
        _part(depth - 1 - place, columns[place], shapes[place], is_optional=place == optional) for place in range(depth)
    ]
    cut = _with_voices(cut) if cutting is None else [*cut[:-1], _scheme_part(columns[-1], cutting)]
    parts_with_words = tuple(replace(part, fields=tuple(_with_words(part.fields))) for part in cut)
    unmatched = tuple(name for name in names if name not in rows)
    ordered = tuple(suffix for suffix, _ in suffixes.most_common())
    return Names(tuple(rows), ordered, parts_with_words, unmatched, scheme)


def digit_runs(value: str) -> tuple[str, ...]:
    """Return the runs of digits and of other characters in ``value``."""
    return tuple("".join(run) for _, run in groupby(value, key=str.isdecimal))


def _common_shapes(names: Sequence[Sequence[str]]) -> list[tuple[str, ...] | None]:
    """Return per level the marks between the fields that nearly all share; None where they differ."""
    shapes: list[tuple[str, ...] | None] = []
    for level in zip(*names, strict=True):
        shape, count = Counter(_marks(text) for text in level).most_common(1)[0]
        is_cut = count >= _AGREEING_SHARE * len(level) and len(shape) > 1
        shapes.append(shape if is_cut else None)
    return shapes


def _marks(text: str) -> tuple[str, ...]:
    return tuple(_FIELD.split(text))


def _fits(parts: Sequence[str], shapes: Sequence[tuple[str, ...] | None], optional: int | None) -> bool:
    """Tell whether a name has the marks of its levels."""
    return all(
        (level == optional and not text) or shape is None or _marks(text) == shape
        for level, (text, shape) in enumerate(zip(parts, shapes, strict=True))
    )


def _optional_level(shorter: Sequence[Sequence[str]], shapes: Sequence[tuple[str, ...] | None]) -> int | None:
    """Return the directory level that names with one level less lack; None where no level explains them."""
    fitting = {
        level: sum(_fits([*parts[:level], "", *parts[level:]], shapes, level) for parts in shorter)
        for level in range(len(shapes) - 1)
    }
    best = max(fitting, key=lambda level: fitting[level], default=None)
    return best if shorter and best is not None and fitting[best] >= _AGREEING_SHARE * len(shorter) else None


def _part(level: int, texts: Sequence[str], shape: tuple[str, ...] | None, *, is_optional: bool) -> Part:
    if shape is None:
        return Part((Field(level, 0, "", tuple(texts)),), is_whole=True, is_optional=is_optional)
    found = [_FIELD.findall(text) or [""] * (len(shape) - 1) for text in texts]
    cut = [
        piece
        for before, values in zip(shape[:-1], zip(*found, strict=True), strict=True)
        for piece in _cut_runs(before, values)
    ]
    fields = (Field(level, number, *piece) for number, piece in enumerate(cut))
    return Part(tuple(fields), shape[-1], is_optional=is_optional)


def _cut_runs(before: str, values: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Cut a field further where digits and letters take turns alike in all names, as in 03a01Fa.

    A code before a number is cut off too (a01, sa02): where there are at least three codes, each with several
    numbers. Two letters (f01, m01) stay with their number: they name people.

    Yields:
        Mark before the field, its values and its word.
    """
    runs = [digit_runs(value) for value in values]
    shapes = {tuple((run.isdecimal(), len(run)) for run in value) for value in runs}
    is_long = len(runs[0]) >= _LEAST_RUNS
    if not (len(shapes) == 1 and is_long) and not _are_codes(runs):
        yield before, values, ""
        return
    for number, cut in enumerate(zip(*runs, strict=True)):
        yield "" if number else before, cut, "" if number or is_long else CODE


def _are_codes(runs: Sequence[tuple[str, ...]]) -> bool:
    if not all(len(run) == 2 and run[1].isdecimal() for run in runs):
        return False
    numbers: dict[str, set[str]] = {}
    for letters, number in runs:
        numbers.setdefault(letters, set()).add(number)
    return _FEWEST_CODES <= len(numbers) <= _MOST_CODES and all(len(found) > 1 for found in numbers.values())


def _with_voices(parts: list[Part]) -> list[Part]:
    """Cut the letter of who speaks off the number of a turn (Session1/F003), where turns count anew per session."""
    *others, last = parts[-1].fields
    matches = [_VOICE_AND_TURN.fullmatch(value) for value in last.values]
    voices = {match[1] for match in matches if match}
    fields = [*(field for part in parts[:-1] for field in part.fields), *others]
    session = next((one.values for one in fields if all(map(_SESSION_NUMBER.match, one.values))), None)
    if session is None or not all(matches) or not 1 < len(voices) <= MOST_VOICES:
        return parts
    if len(set(zip(session, last.values, strict=True))) == len(last.distinct):
        return parts
    who, turn = (tuple(match[group] for match in matches if match) for group in (1, 2))
    after = replace(last, number=last.number + 1, before="", values=turn, word="turn")
    cut = (*others, replace(last, values=who, word="who"), after)
    return [*parts[:-1], replace(parts[-1], fields=cut, is_whole=False)]


def _scheme_part(texts: Sequence[str], scheme: Scheme) -> Part:
    """Cut file names as their scheme does."""
    cuts = zip(*(cut for text in texts if (cut := scheme.cut(text)) is not None), strict=True)
    fields = [
        Field(0, number, before, values, word, expression)
        for number, ((before, word, expression), values) in enumerate(zip(scheme.pieces, cuts, strict=True))
    ]
    return Part(tuple(fields))


def _with_words(fields: Iterable[Field]) -> Iterator[Field]:
    """Name the fields that vary after the constant word before them, or after their own constant letters."""
    before = ""
    for one in fields:
        if len(one.distinct) > 1:
            yield replace(one, word=one.word or before or _own_letters(one.distinct))
            before = ""
        else:
            yield one
            before = "".join(one.distinct).lower()


def _own_letters(values: Sequence[str]) -> str:
    """Return the letters that all values begin with before their number, e.g. ``s`` for s01, s02."""
    matches = [_LETTERS_AND_NUMBER.fullmatch(value) for value in values]
    letters = {match[1].lower() for match in matches if match}
    return letters.pop() if all(matches) and len(letters) == 1 else ""
