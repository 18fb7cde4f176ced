"""Checks of what a leak hides behind: names of speakers that are no people, and sentences that tell the emotion."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vavl.audit.finding import Check, Example, Finding, Material, State, above_chance
from vavl.audit.settings import AuditSettings
from vavl.corpora.manifest import TEST, TRAIN
from vavl.data.protocol import clip_classes

_MOST_VOICES = 6
_SESSION = re.compile(
    r"(?:session|sess|ses|dialogue|dialog|dia|conversation|conv|recording|rec|meeting|interview|scene|scenario)"
    r"[\W_]*\d+(?P<rest>.*)",
    re.IGNORECASE,
)
_NAMES_OF_VOICES = ("who", "speaker", "voice")
_SPLIT = re.compile(r"train(?:ing)?|dev|val(?:id(?:ation)?)?|test|eval", re.IGNORECASE)
_FIX = (
    "look at `speaker` of the card: people whose clips are in training and test make the scores worthless; "
    "see datasets/README.md, People and guesses"
)


def check_speaker_names(material: Material, settings: AuditSettings) -> Finding:
    """Warn of names of speakers that occur in several spellings, or that look like sessions, splits or clips."""
    codes, names = material.speakers
    counts = np.bincount(codes, minlength=len(names))
    own = [name.rpartition("/")[2] if len(material.manifest.corpora) > 1 else name for name in names]
    doubts: list[tuple[str, list[Example]]] = []
    spellings = _spellings(names)
    if spellings:
        listed = " = ".join(spellings[0])
        text = f"{len(spellings)} name(s) in several spellings, e.g. {listed}"
        doubts.append((text, [{"names": same} for same in spellings]))
    sessions = [name for name, text in zip(names, own, strict=True) if _is_session(text)]
    if len(sessions) > len(names) / 2:
        text = f"{len(sessions)} of {len(names)} names look like sessions or dialogues, e.g. {sessions[0]}"
        doubts.append((text, [{"speaker": name} for name in sessions]))
    splits = [name for name, text in zip(names, own, strict=True) if _SPLIT.fullmatch(text)]
    if splits:
        doubts.append((f"names of splits are speakers: {', '.join(splits)}", [{"speaker": name} for name in splits]))
    limits = settings.leaks
    middle = float(np.median(counts)) if len(counts) else 0.0
    if len(names) >= limits.many_speakers and middle < limits.fewest_clips:
        text = f"{len(names)} speakers have {middle:g} clips each in the middle: names may be those of clips"
        doubts.append((text, []))
    doubts += _voices(material, codes, names)
    numbers = {"speakers": len(names), "median_clips": middle, "doubts": len(doubts)}
    if not doubts:
        text = f"{len(names)} speakers of {middle:g} clips in the middle, each name in one spelling"
        return Finding(Check.SPEAKER_NAMES, State.PASSED, text, numbers=numbers)
    examples = tuple(example for _, found in doubts for example in found)[: settings.most_examples]
    text = "; ".join(text for text, _ in doubts)
    return Finding(Check.SPEAKER_NAMES, State.WARNING, text, _FIX, numbers, examples)


def _spellings(names: Sequence[str]) -> list[list[str]]:
    """Return names that differ in case, in zeros before numbers or in separators alone."""
    same: dict[tuple[str | int, ...], list[str]] = {}
    for name in names:
        parts = re.findall(r"[^\W\d_]+|\d+", name.casefold())
        # A name without letters and digits is its own.
        key = tuple(int(part) if part.isdecimal() else part for part in parts) or (name,)
        same.setdefault(key, []).append(name)
    return [found for found in same.values() if len(found) > 1]


def _is_session(name: str) -> bool:
    """Tell whether a name is that of a session: Ses01, dialogue_3, Ses01F_impro01; one letter more is a person."""
    match = _SESSION.fullmatch(name)
    return match is not None and re.fullmatch(r"[\W_]*[A-Za-z]", match["rest"]) is None


def _voices(material: Material, codes: NDArray[np.int32], names: Sequence[str]) -> Iterator[tuple[str, list[Example]]]:
    """Yield fields of the names that are a letter of who speaks, of which most speakers have several."""
    for column in material.manifest.table.column_names:
        known = material.text_column(column) if column.startswith("group_") else None
        if known is None:
            continue
        values = known.to_pylist()
        letters = set(values) - {None}
        if not 1 < len(letters) <= _MOST_VOICES or not all(len(text) == 1 and text.isalpha() for text in letters):
            continue
        # F and M, or a field that is named after people: other single letters may be codes of anything.
        name = column.removeprefix("group_")
        if name == "worn" or ({text.lower() for text in letters} != {"f", "m"} and name not in _NAMES_OF_VOICES):
            continue
        pairs = {(int(code), text) for code, text in zip(codes, values, strict=True) if text is not None}
        voices = np.bincount([code for code, _ in pairs], minlength=len(names))
        several = np.flatnonzero(voices > 1)
        if len(several) > len(names) / 2:
            text = f"{len(several)} of {len(names)} speakers have two voices or more ({name})"
            yield text, [{"speaker": names[int(code)], "voices": int(voices[code])} for code in several]


def check_sentences(material: Material, settings: AuditSettings) -> Finding:
    """Predict the class of the test clips from their sentence alone: the most frequent class of it in training.

    Sentences in several splits are no leak as long as each is spoken in every class alike.
    """
    limits = settings.leaks
    classes = clip_classes(material.manifest)
    columns = {name: material.text_column(f"group_{name}") for name in limits.sentence_groups}
    known = {name: np.asarray(column.to_pylist(), object) for name, column in columns.items() if column is not None}
    if not known:
        text = "the card knows no sentences: whether they tell the emotion was not looked at"
        return Finding(Check.SENTENCES, State.PASSED, text, numbers={"known": []})
    scores: list[Example] = []
    for name, sentences in known.items():
        for fold, split in material.splits.items():
            if (found := _sentence_score(sentences, classes, split)) is not None:
                scores.append({"group": name, "fold": fold, **found})
    if not scores:
        text = "no fold has labeled clips with a sentence to train and to test on"
        return Finding(Check.SENTENCES, State.PASSED, text, numbers={"known": list(known)})
    worst = max(scores, key=lambda score: (float(score["excess"]), float(score["shared"])))
    share, accuracy = f"{worst['shared']:.0%}", f"{worst['accuracy']:.1%}"
    text = (
        f"{share} of the test clips speak a sentence ({worst['group']}) of the training clips; the sentence "
        f"alone gives an accuracy of {accuracy}, chance is {worst['chance']:.1%} (fold {worst['fold']}, the "
        f"highest of {len(scores)})"
    )
    state = State.WARNING if worst["excess"] > limits.sentence_warning else State.PASSED
    fix = (
        "sentences give the emotion away: a network may learn words in place of voice and face; keep sentences apart "
        "(splits.disjoint_groups of the card), or report this next to the scores"
    )
    numbers: dict[str, Any] = {"known": list(known), "scores": scores}
    return Finding(Check.SENTENCES, state, text, fix, numbers, (worst,) if state == State.WARNING else ())


def _sentence_score(
    sentences: NDArray[np.object_], classes: NDArray[np.integer], split: NDArray[np.int8]
) -> dict[str, float] | None:
    """Return what the sentence alone says of a fold's test clips; None without clips to train and test on.

    Returns:
        ``shared`` (share of the test clips whose sentence is trained on, in any label), ``accuracy``, ``chance`` (of
        the most frequent class) and ``excess``, 0 where it may be chance.
    """
    is_known = np.array([text is not None for text in sentences])
    train, test = ((split == code) & is_known for code in (TRAIN, TEST))
    if not test.any() or not train.any():
        return None
    trained = set(sentences[train])
    shared = float(np.mean([text in trained for text in sentences[test]]))
    train, test = train & (classes >= 0), test & (classes >= 0)
    if not test.any() or not train.any():
        return None
    counts: dict[str, NDArray[np.int64]] = {}
    for text, label in zip(sentences[train], classes[train], strict=True):
        counts.setdefault(text, np.zeros(int(classes.max()) + 1, np.int64))[label] += 1
    common = int(np.bincount(classes[train]).argmax())
    predicted = np.array([int(counts[text].argmax()) if text in counts else common for text in sentences[test]])
    accuracy = float((predicted == classes[test]).mean())
    chance = float(np.bincount(classes[test]).max() / test.sum())
    deviation = float(np.sqrt(chance * (1 - chance) / test.sum()))
    excess = above_chance(accuracy, chance, deviation)
    found = {"shared": shared, "accuracy": accuracy, "chance": chance, "excess": excess}
    return {name: round(value, 4) for name, value in found.items()}
