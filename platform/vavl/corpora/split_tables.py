"""Complete published splits, read from one table per fold and checked: no speaker on two sides."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from vavl.corpora.card_splits import SplitTables
from vavl.errors import CorpusError
from vavl.media.csv_table import read_text_columns
from vavl.media.patterns import one_writing, whole_match

logger = logging.getLogger(__name__)

NO_SPLIT = "none"


def read_split_tables(
    tables: SplitTables, root: Path, speakers: Mapping[str, str]
) -> dict[int, dict[str, str]]:
    """Return fold -> clip -> "train", "validation", "test" or "none".

    Args:
        tables: of the card.
        root: absolute corpus folder.
        speakers: clip -> speaker, of all clips at hand.

    Raises:
        CorpusError: a table is missing or broken, names an unknown split, repeats or contradicts itself,
            says another speaker than the clip's name, lacks a clip where the card refuses that, or no clip at
            hand is in its test split.
    """
    return {fold: _splits_of_fold(tables, root, fold, speakers) for fold in sorted(tables.tables)}


def check_disjoint(
    place: str, splits: Mapping[int, Mapping[str, str]], values: Mapping[str, str | None], what: str
) -> None:
    """Refuse splits that share a value, e.g. a speaker.

    Args:
        place: for messages: the table or card that the splits come from.
        splits: fold -> clip -> split.
        values: clip -> value, None where it is unknown.
        what: name of the value.

    Raises:
        CorpusError: clips with the same value are in two splits of a fold.
    """
    for fold, of_clip in splits.items():
        first: dict[str, tuple[str, str]] = {}
        for clip_id, split in of_clip.items():
            value = values[clip_id]
            if value is None or split == NO_SPLIT:
                continue
            seen, other = first.setdefault(value, (split, clip_id))
            if seen != split:
                raise CorpusError(
                    place, f"fold {fold}",
                    f"{what} {value} is in {seen} (clip {other}) and in {split} (clip {clip_id})",
                    "the splits of a fold may share nobody: correct the table or the card",
                )  # fmt: skip


def _splits_of_fold(
    tables: SplitTables, root: Path, fold: int, speakers: Mapping[str, str]
) -> dict[str, str]:
    file = str(root / tables.tables[fold])
    listed = _rows(tables, root, fold)
    keys = {clip_id: clip_id if tables.key == "clip" else speaker for clip_id, speaker in speakers.items()}
    splits = {clip_id: listed[key] for clip_id, key in keys.items() if key in listed}
    if "test" not in splits.values():
        raise CorpusError(
            file, tables.split_column, f"no clip at hand is in the test split; rows e.g. {sorted(listed)[:1]}, "
            f"clips e.g. {sorted(keys.values())[:1]}", "correct key_column, key_pattern or names of the card",
        )  # fmt: skip
    if tables.speaker_column is not None:
        _check_speakers(tables, root, fold, speakers)
    absent = len(listed.keys() - set(keys.values()))
    if absent:
        logger.info("%s: %d rows belong to no %s at hand", file, absent, tables.key)
    check_disjoint(file, {fold: splits}, speakers, "speaker")
    return splits | _unlisted(tables, file, fold, speakers, splits)


def _rows(tables: SplitTables, root: Path, fold: int) -> dict[str, str]:
    """Return clip or speaker -> split."""
    name = tables.tables[fold]
    texts, published = read_text_columns(root, name, (tables.key_column, tables.split_column))
    names = {tables.names.train: "train", tables.names.validation: "validation", tables.names.test: "test"}
    listed: dict[str, str] = {}
    for row, (text, split) in enumerate(zip(texts, published, strict=True), start=1):
        place = f"{tables.key_column}, row {row}"
        if split not in names:
            raise CorpusError(
                str(root / name), f"{tables.split_column}, row {row}", f"split {split!r} is none of {', '.join(names)}",
                "correct the table, or splits.folds.names of the card",
            )  # fmt: skip
        key = _key(tables, text)
        if not key:
            raise CorpusError(
                str(root / name), place, f"key {text!r} does not match {tables.key_pattern or 'anything'}",
                "correct the table, or splits.folds.key_pattern of the card",
            )  # fmt: skip
        # Rows of one speaker may repeat what is said already; a clip has one row.
        if key in listed and (tables.key == "clip" or listed[key] != names[split]):
            raise CorpusError(str(root / name), place, f"key {text!r} is there twice", "keep one of the rows")
        listed[key] = names[split]
    return listed


def _key(tables: SplitTables, text: str) -> str | None:
    if tables.key_pattern is None:
        return one_writing(text) or None
    match = whole_match(tables.key_pattern, text, "splits.folds.key_pattern")
    return one_writing(match[tables.key]) if match and match[tables.key] else None


def _check_speakers(tables: SplitTables, root: Path, fold: int, speakers: Mapping[str, str]) -> None:
    name, column = tables.tables[fold], str(tables.speaker_column)
    for row, (text, said) in enumerate(
        zip(*read_text_columns(root, name, (tables.key_column, column)), strict=True), start=1
    ):
        known = speakers.get(_key(tables, text) or "")
        if known is not None and known != said:
            raise CorpusError(
                str(root / name), f"{column}, row {row}", f"says speaker {said}, the clip's name says {known}",
                "correct the table, or splits.folds.speaker_column or speaker of the card",
            )  # fmt: skip


def _unlisted(
    tables: SplitTables, file: str, fold: int, speakers: Mapping[str, str], splits: Mapping[str, str]
) -> dict[str, str]:
    """Return the split of every clip that the table lacks."""
    missing = [clip_id for clip_id in speakers if clip_id not in splits]
    if not missing:
        return {}
    if tables.unlisted_clips == "refuse":
        raise CorpusError(
            file, f"fold {fold}", f"{len(missing)} clips are not listed, e.g. {missing[0]}",
            "complete the table, or write splits.folds.unlisted_clips: none (or train) into the card",
        )  # fmt: skip
    held_out = {speakers[clip_id] for clip_id, split in splits.items() if split != "train"}
    trains = tables.unlisted_clips == "train"
    found = {
        clip_id: "train" if trains and speakers[clip_id] not in held_out else NO_SPLIT for clip_id in missing
    }
    outside = sum(split == NO_SPLIT for split in found.values())
    message = "%s: fold %d: %d clips are not listed: %d train, %d are in no split"
    logger.info(message, file, fold, len(missing), len(missing) - outside, outside)
    return found
