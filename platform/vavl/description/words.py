"""Words and abbreviations that people write into the names of recordings and the heads of tables."""

from __future__ import annotations

from collections.abc import Collection

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
SEXES = {"f": "female", "female": "female", "m": "male", "male": "male", "w": "female", "woman": "female",
         "man": "male"}  # fmt: skip
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
