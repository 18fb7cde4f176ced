"""What words in names and tables mean: emotions, splits, people, sentences, sessions, missing values."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vavl.media.csv_table import is_missing

# One line per class: forms of one word. Near-synonyms (joy, fright) are classes of their own: whether they are
# one class is for a person to say.
_EMOTIONS: dict[str, str] = {
    "angry": "angry anger ang an",
    "happy": "happy happiness hap ha",
    "joy": "joy joyful joyous",
    "sad": "sad sadness sa",
    "fearful": "fearful fear fea fe fearfull",
    "afraid": "afraid",
    "scared": "scared",
    "anxious": "anxious anxiety anx",
    "disgust": "disgust disgusted disgusting dis di",
    "surprised": "surprised surprise sur su surp",
    "pleasant_surprise": "ps pleasant_surprise pleasant_surprised",
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
    "proud": "proud pride",
    "relieved": "relieved relief",
    "ashamed": "ashamed shame",
    "interested": "interested interest",
    "despair": "despair desperate",
    "worried": "worried worry",
    "love": "love loving",
    "hate": "hate hatred",
    "sarcastic": "sarcastic sarcasm",
    "other": "other oth",
}
_CLASS_OF = {form: name for name, forms in _EMOTIONS.items() for form in forms.split()}
_SHORTEST_WORD = 3
NO_AGREEMENT = re.compile(
    r"(?i)unknown|undefined|unlabel+ed|unassigned|no[ _-]?(?:agreement|label|consensus)|ambiguous"
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SPEAKER_WORDS = _words(
    "actor actors actress subject subjects subj sub speaker speakers spk spkr spkrid participant person talker "
    "patient respondent performer"
)
SENTENCE_WORDS = _words("sentence sentences sent stmt statement text utt utterance phrase line script")
TAKE_WORDS = _words("take takes t rep repetition r trial version ver v turn")
SESSION_WORDS = _words("session sess ses dialog dialogue dia scene conversation conv meeting interview recording rec")
LEVELS = _words("lo md hi xx low medium middle high normal strong weak mild intense")
_SEXES = {"female": "f female w woman", "male": "m male man"}
SEXES = {form: name for name, forms in _SEXES.items() for form in forms.split()}
ATTRIBUTES = {
    "arousal": ("arousal", "aro", "activation", "act", "emoact"),
    "valence": ("valence", "val", "emoval"),
    "dominance": ("dominance", "dom", "emodom"),
}
_SPLITS = {
    "train": "train training trn tr",
    "validation": "dev devel development val valid validation vali valdiation",
    "test": "test testing tst eval evaluation",
}
_SPLIT_OF = {form: name for name, forms in _SPLITS.items() for form in forms.split()}
_SET_WORD = re.compile(r"(?:sub)?sets?$|splits?$|part(?:ition)?$")


def emotion_of(text: str) -> str | None:
    """Return the usual name of the emotion that ``text`` means; None where it means none."""
    return _CLASS_OF.get(re.sub(r"[\s-]+", "_", text.strip().lower()))


def are_emotions(values: Collection[str]) -> float:
    """Return how surely the distinct ``values`` name emotions: 0 no, up to 2 for whole words.

    Marks of missing values do not count. Abbreviations of two letters are believed only where every value is one.
    """
    values = [value for value in values if not is_missing(value)]
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
class ClassNames:
    """Classes for the values of a label field."""

    by_value: Mapping[str, str | None]  # value -> class, None for a value that is no label
    doubts: tuple[str, ...] = ()  # what a person must decide about them

    @property
    def classes(self) -> list[str]:
        """Each class once, in the order of its first value."""
        return list(dict.fromkeys(name for name in self.by_value.values() if name is not None))


def class_names(values: Sequence[str], codes: Mapping[str, str] | None = None) -> ClassNames:
    """Name the classes of distinct values; values become one class only where they differ in case alone.

    The names that a published scheme gives to them, ``codes``, come first.
    """
    codes, doubts = codes or {}, []
    found: dict[str, str | None] = {}
    for value in values:
        word = value.strip().lower()
        no_label = value not in codes and (is_missing(value) or NO_AGREEMENT.fullmatch(word))
        found[value] = None if no_label else codes.get(value) or emotion_of(value) or _name_of(word)
    vague = [value for value in found if NO_AGREEMENT.fullmatch(value.strip())]
    if vague:
        doubts.append(f"{_quoted(vague)} counts as no label; make it a class if it is one.")
    forms: dict[str, dict[str, list[str]]] = {}
    for value, name in found.items():
        if name is not None:
            forms.setdefault(name, {}).setdefault(value.strip().lower(), []).append(value)
    for name, words in forms.items():
        if len(words) > 1:
            found |= {value: _name_of(word) for word, same in words.items() for value in same}
            doubts.append(
                f"{_quoted(words)} look like one class, {name}, and are kept apart; map them to one if they are."
            )
    return ClassNames(found, tuple(doubts))


def _name_of(word: str) -> str:
    number = re.fullmatch(r"(-?\d+)(?:[.,]0+)?", word)
    return f"class_{number[1]}" if number else word


def _quoted(values: Collection[str]) -> str:
    return " and ".join(f"`{value}`" for value in values)


def split_of(text: str) -> str | None:
    """Return train, validation or test where ``text`` names one of them: Train, dev_splits, trainset, Test2."""
    words = (_SET_WORD.sub("", word) or word for word in re.findall(r"[a-z]+", text.lower()))
    found = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    return found.pop() if len(found) == 1 else None


def splits_of(values: Collection[str], *, with_others: bool = False) -> dict[str, str]:
    """Return value -> train, validation or test; empty unless there is one to train on and another one.

    Next to ``test`` a split ``eval`` is the one to validate on; "" does not count. A field with values that name no
    split names no splits at all, unless it is allowed ``with_others``, which are then ``none``.
    """
    found = {value: split_of(value) or "none" for value in sorted(values) if value}
    evaluated = [value for value in found if re.match(r"eval", value.lower())]
    if "validation" not in found.values() and len(evaluated) < list(found.values()).count("test"):
        found |= dict.fromkeys(evaluated, "validation")
    named = set(found.values()) - {"none"}
    if "none" in found.values() and not with_others:
        return {}
    return found if len(named) > 1 and "train" in named else {}
