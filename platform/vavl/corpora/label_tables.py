"""Labels of clips: every set of labels that a card names, from names and from tables joined by clip id."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from vavl.corpora.card import CorpusCard
from vavl.corpora.card_labels import LabelTable, NameLabels, TableLabels
from vavl.corpora.card_sources import GroupValue
from vavl.corpora.discovery import Found
from vavl.corpora.label_rows import ClipLabel, LabelRows, known_class
from vavl.errors import CorpusError

logger = logging.getLogger(__name__)

Labels = dict[str, ClipLabel]  # clip id -> label; unlabelled clips are absent


def read_labels(card: CorpusCard, root: Path, clips: Mapping[str, Found]) -> dict[str, Labels]:
    """Return the labels of ``clips`` (clip id -> one side of the clip) by the name of their set.

    Raises:
        CorpusError: a label is outside the card's classes (file and classes are named), or a label
            table is missing, broken, repeats a clip or matches no clip at all.
    """
    sets: dict[str, Labels] = {}
    for name, labels in card.labels.items():
        match labels:
            case NameLabels():
                sets[name] = _labels_of_names(card, name, labels, clips)
            case TableLabels(tables=tables):
                sets[name] = _labels_of_tables(card, root, tables, clips)
    return sets


def group_value(fact: str, value: GroupValue, found: Found) -> str | None:
    """Return a fact of a clip, read from the groups of its name; None where it is unknown.

    Raises:
        CorpusError: the card's map does not hold the group's text.
    """
    text = found.groups[value.group]
    if text is None or value.map is None:
        return text or None
    if text not in value.map:
        outcomes = dict.fromkeys(str(name) for name in value.map.values())
        raise CorpusError(
            found.place, fact, f"`{text}` (group {value.group}) is not in the card's map, which leads to "
            f"{', '.join(outcomes)}", f"add it to {fact}.map of the card, or remove the clip",
        )  # fmt: skip
    return value.map[text]


def _labels_of_names(card: CorpusCard, name: str, labels: NameLabels, clips: Mapping[str, Found]) -> Labels:
    fact = f"labels.{name}"
    named = ((clip_id, group_value(fact, labels.value, found)) for clip_id, found in clips.items())
    return {
        clip_id: ClipLabel(name=known_class(card.classes, label, clips[clip_id].place, fact))
        for clip_id, label in named
        if label is not None
    }


def _labels_of_tables(
    card: CorpusCard, root: Path, tables: tuple[LabelTable, ...], clips: Mapping[str, Found]
) -> Labels:
    joined: Labels = {}
    for table in tables:
        file = root / table.file
        of_table = _of_clips(file, LabelRows(card.classes, table, root).labels(), clips)
        for clip_id, label in of_table.items():
            joined[clip_id] = _both(file, clip_id, joined.get(clip_id, ClipLabel()), label)
    return joined


def _of_clips(file: Path, labels: Labels, clips: Mapping[str, Found]) -> Labels:
    surplus = sorted(labels.keys() - clips.keys())
    if len(surplus) == len(labels):
        raise CorpusError(
            str(file), "key_column",
            f"no row belongs to a clip; rows e.g. {surplus[:1]}, clips e.g. {sorted(clips)[:1]}",
            "correct key_column or key_pattern of the card's label table",
        )  # fmt: skip
    if surplus:
        logger.warning(
            "%s: %d labels belong to no clip and are left out, e.g. %s", file, len(surplus), surplus[0]
        )
    return {clip_id: label for clip_id, label in labels.items() if clip_id in clips}


def _both(file: Path, clip_id: str, one: ClipLabel, other: ClipLabel) -> ClipLabel:
    """Join what two tables say of a clip; neither overrules the other."""
    first, second = one.attributes, other.attributes
    twice = [
        part
        for part, is_twice in (
            ("class", one.name is not None and other.name is not None),
            ("shares", one.shares is not None and other.shares is not None),
            ("attributes", any(a is not None and b is not None for a, b in zip(first, second, strict=True))),
        )
        if is_twice
    ]
    if twice:
        raise CorpusError(
            str(file), clip_id, f"an earlier table of the set gives the clip's {' and '.join(twice)} too",
            "name each part of a label in one table only, or make two sets of labels",
        )  # fmt: skip
    arousal, valence, dominance = (a if a is not None else b for a, b in zip(first, second, strict=True))
    return ClipLabel(
        name=one.name if one.name is not None else other.name,
        shares=one.shares if one.shares is not None else other.shares,
        attributes=(arousal, valence, dominance),
    )
