"""Schemes of file names that published corpora use, and those of recorded sessions: they say who speaks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

_LEAST_SHARE = 0.9
MOST_VOICES = 6
"""Letters of who speaks in a session: more are something else."""

_SESSION = r"(?i:session|sess|ses|dialogue|dialog|dia|conversation|conv|recording|rec|meeting|interview)[-_ ]?\d+"


@dataclass(frozen=True)
class Scheme:
    """How a corpus names its files.

    Attributes:
        pieces: text before the field, what the field is, and its expression, from the left.
        classes: code of the field ``emotion`` -> class, as published.
        names_people: the scheme is published, so that the speaker is certain; False where names only look like it.
        cuts: fields are taken as the scheme says; False where marks between them part them as well.
        doubt: what a person must decide all the same.
        sentence: fields that name the sentence together, where its number begins anew in each of them.
    """

    title: str
    pieces: tuple[tuple[str, str, str], ...]
    classes: Mapping[str, str] = field(default_factory=dict)
    names_people: bool = True
    cuts: bool = True
    doubt: str = ""
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
