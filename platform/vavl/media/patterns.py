"""The regular expressions of a card, matched within a time: an expression can take longer than the universe."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any

import regex

from vavl.errors import CorpusError

# A name takes microseconds; a process that has to wait for its turn may take a little longer.
LONGEST_MATCH_S = 2.0


def whole_match(expression: str, text: str, field: str) -> Any:
    """Return the match of a card's expression with the whole of ``text``; None where it does not match.

    ``field`` is the key of the card that holds the expression, for the message.

    Raises:
        CorpusError: the expression is still at work after ``LONGEST_MATCH_S``.
    """
    try:
        return _compiled(expression).fullmatch(text, timeout=LONGEST_MATCH_S)
    except TimeoutError:
        problem = f"{expression} is still at work on {text[:80]!r} after {LONGEST_MATCH_S:g} s"
        fix = "write it so that a text can be matched in one way only: no repeat in a repeat, e.g. a+ for (a|aa)+"
        raise CorpusError("card", field, problem, fix) from None


def named_in(expression: str, key: str, field: str, group: str = "clip") -> str | None:
    """Return what ``group`` of a card's expression reads in the key of a table; None where it does not match.

    A path that was written on Windows is read with its own marks and with ``/``, and without them where that matches.

    Raises:
        CorpusError: see ``whole_match``.
    """
    texts = dict.fromkeys((key, key.replace("\\", "/")))
    matches = [match for text in texts if (match := whole_match(expression, text, field)) is not None]
    found = min((match[group] or "" for match in matches), key=lambda name: "\\" in name, default="")
    return one_writing(found) or None


def one_writing(name: str) -> str:
    """Return a name with letters such as u with dots as one sign: a Mac stores them as two (Unicode NFC)."""
    return unicodedata.normalize("NFC", name)


@lru_cache(maxsize=256)
def _compiled(expression: str) -> Any:
    return regex.compile(expression)
