"""The fields of file names: names are cut at what is no letter and no digit, or as a scheme says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby, product

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
_SESSION_NUMBER = re.compile(
    r"(?i)(?:session|sess|ses|dialogue|dialog|dia|conversation|conv|meeting|interview)[\W_]*\d"
)
CODE = "code"
"""Word of a field of letters that stood before a number."""


@dataclass(frozen=True)
class Part:
    """One directory level of the names, or the file name without its suffix."""

    separators: tuple[str, ...]  # before, between and after the fields
    # one tuple of values per field, one value per name; "" where an optional level is absent
    fields: tuple[tuple[str, ...], ...]
    is_whole: bool = False  # the level is not cut: its one field is all of it
    is_optional: bool = False  # some names lack this level
    # words, expressions: what each field is and how a card reads it, where a published scheme says so
    words: tuple[str, ...] = ()
    expressions: tuple[str, ...] = ()


@dataclass(frozen=True)
class NameTable:
    """Names of one modality as a table."""

    names: tuple[str, ...]  # those that fit the parts, with their suffix
    parts: tuple[Part, ...]  # from the outermost directory to the file name
    unmatched: tuple[str, ...]  # names that do not fit
    scheme: Scheme | None = None  # of a published corpus or a session that the file names follow, if any


def cut_names(names: Sequence[str]) -> NameTable:
    """Cut names (relative paths) into the parts and fields that most of them share."""
    levels = {name: name.rpartition(".")[0].split("/") for name in names}
    depth = Counter(len(parts) for parts in levels.values()).most_common(1)[0][0]
    shapes = _common_shapes([parts for parts in levels.values() if len(parts) == depth])
    optional = _optional_level([parts for parts in levels.values() if len(parts) == depth - 1], shapes)
    scheme = find_scheme([parts[-1] for parts in levels.values()])
    rows: dict[str, list[str]] = {}
    is_cut = scheme is not None and scheme.cuts
    for name, parts in levels.items():
        full = parts
        if optional is not None and len(parts) == depth - 1:
            full = [*parts[:optional], "", *parts[optional:]]
        fits = scheme is None or not is_cut or scheme.cut(full[-1]) is not None
        if fits and len(full) == depth and _fits(full, shapes, optional, is_cut=is_cut):
            rows[name] = full
    columns = list(zip(*rows.values(), strict=True))
    cut = [_part(columns[level], shapes[level], is_optional=level == optional) for level in range(depth)]
    if scheme is not None and is_cut:
        cut[-1] = _scheme_part(columns[-1], scheme)
    else:
        cut = _with_voices(cut)
    unmatched = tuple(name for name in names if name not in rows)
    return NameTable(tuple(rows), tuple(cut), unmatched, scheme)


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


def _fits(
    parts: Sequence[str], shapes: Sequence[tuple[str, ...] | None], optional: int | None, *, is_cut: bool = False
) -> bool:
    """Tell whether a name has the marks of its levels; the file name's do not count where a scheme cuts it."""
    return all(
        (level == optional and not text)
        or shape is None
        or (is_cut and level == len(shapes) - 1)
        or _separators(text) == shape
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


def _with_voices(parts: list[Part]) -> list[Part]:
    """Cut the letter of who speaks off the number of a turn (Session1/F003), where turns count anew per session."""
    *_, values = parts[-1].fields
    matches = [_VOICE_AND_TURN.fullmatch(value) for value in values]
    voices = {match[1] for match in matches if match}
    fields = (other for part in parts for other in part.fields if other is not values)
    session = next((other for other in fields if all(_SESSION_NUMBER.match(value) for value in other)), None)
    if session is None or not all(matches) or not 1 < len(voices) <= MOST_VOICES:
        return parts
    if len(set(zip(session, values, strict=True))) == len(set(values)):
        return parts
    last = parts[-1]
    cut = [tuple(match[group] for match in matches if match) for group in (1, 2)]
    names = last.words or ("",) * len(last.fields)
    last = replace(
        last,
        separators=(*last.separators[:-1], "", last.separators[-1]),
        fields=(*last.fields[:-1], *cut),
        words=(*names[:-1], "who", "turn"),
        is_whole=False,
    )
    return [*parts[:-1], last]


def _scheme_part(level: Sequence[str], scheme: Scheme) -> Part:
    """Cut file names as their scheme does."""
    cuts = [cut for text in level if (cut := scheme.cut(text)) is not None]
    separators, words, expressions = zip(*scheme.pieces, strict=True)
    return Part((*separators, ""), tuple(zip(*cuts, strict=True)), words=words, expressions=expressions)


def _without_long_runs(part: Part) -> Part:
    """Cut fields further where digits and letters take turns alike in all names, as in 03a01Fa.

    A code before a number is cut off too (a01, sa02): where there are at least three codes, each with several
    numbers. Two letters (f01, m01) stay with their number: they name people.
    """
    separators: list[str] = [part.separators[0]]
    fields: list[tuple[str, ...]] = []
    words: list[str] = []
    for values, after in zip(part.fields, part.separators[1:], strict=True):
        runs = [digit_runs(value) for value in values]
        shapes = {tuple((run.isdecimal(), len(run)) for run in value) for value in runs}
        if (len(shapes) == 1 and len(runs[0]) >= _LEAST_RUNS) or _are_codes(runs):
            fields += list(zip(*runs, strict=True))
            separators += [""] * (len(runs[0]) - 1)
            words += [CODE, ""] if len(runs[0]) < _LEAST_RUNS else [""] * len(runs[0])
        else:
            fields.append(values)
            words.append("")
        separators.append(after)
    return replace(part, separators=tuple(separators), fields=tuple(fields), words=tuple(words))


def _are_codes(runs: Sequence[tuple[str, ...]]) -> bool:
    if not all(len(run) == 2 and run[1].isdecimal() for run in runs):
        return False
    numbers: dict[str, set[str]] = {}
    for letters, number in runs:
        numbers.setdefault(letters, set()).add(number)
    return _FEWEST_CODES <= len(numbers) <= _MOST_CODES and all(len(found) > 1 for found in numbers.values())
