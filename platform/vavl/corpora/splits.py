"""Speaker-disjoint splits: published tables, or published test folds with seeded validation speakers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vavl.corpora.card import CorpusCard
from vavl.corpora.card_splits import FoldTable, ListedFolds, NameSplits, SplitRules, SplitTables
from vavl.corpora.discovery import Found
from vavl.errors import CorpusError
from vavl.media.csv_table import is_missing, read_text_columns
from vavl.media.patterns import named_in

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
NO_SPLIT = "none"


def clip_splits(
    card: CorpusCard,
    root: Path,
    clips: Mapping[str, Found],
    speakers: Mapping[str, str],
    sexes: Mapping[str, str | None],
) -> dict[int, dict[str, str]]:
    """Return fold -> clip -> "train", "validation", "test" or "none".

    ``clips`` hold one modality of each clip, ``speakers`` are by clip and ``sexes`` by speaker, None where unknown.

    Raises:
        CorpusError: see ``read_split_tables``, ``published_folds`` and ``assign_splits``.
    """
    match card.splits.folds:
        case SplitTables() as tables:
            return _with_validation(card.splits, read_split_tables(tables, root, speakers), speakers, sexes)
        case NameSplits() as names:
            found = {0: {clip_id: _split_of_name(names, of_clip) for clip_id, of_clip in clips.items()}}
            check_disjoint(f"{card.name} card", found, speakers, "speaker")
            return _with_validation(card.splits, found, speakers, sexes)
        case ListedFolds() | FoldTable():
            by_speaker = assign_splits(card.splits, sexes, published_folds(card, root))
            return {
                fold: {clip_id: split[speaker] for clip_id, speaker in speakers.items()}
                for fold, split in by_speaker.items()
            }


def _split_of_name(names: NameSplits, clip: Found) -> str:
    text = clip.groups[names.group]
    if text not in names.map:
        problem = f"`{text}` (group {names.group}) is none of {', '.join(names.map)}"
        raise CorpusError(clip.place, "splits.folds", problem, "add it to splits.folds.map of the card")
    return names.map[text]


def _with_validation(
    rules: SplitRules, splits: dict[int, dict[str, str]], speakers: Mapping[str, str], sexes: Mapping[str, str | None]
) -> dict[int, dict[str, str]]:
    """Draw validation speakers from the training ones where no validation split is published."""
    if rules.validation_speakers is None:
        return splits
    found = {}
    for fold, of_clip in splits.items():
        training = {speakers[clip_id] for clip_id, split in of_clip.items() if split == "train"}
        drawn = draw_validation_speakers(rules, fold, {name: sexes[name] for name in training})
        moved = {clip_id: "validation" for clip_id in of_clip if speakers[clip_id] in drawn}
        found[fold] = {**of_clip, **moved}
    return found


def published_folds(card: CorpusCard, root: Path) -> dict[str, int]:
    """Return the test fold of every speaker that the protocol lists, also of absent ones.

    Empty where the splits are published clip by clip: such folds may test a speaker again.

    Raises:
        CorpusError: a table is missing or broken, a fold is no number, or a speaker is in two folds.
    """
    match card.splits.folds:
        case ListedFolds(test_speakers=listed):
            pairs = [(speaker, fold) for fold, speakers in listed.items() for speaker in speakers]
            place = f"{card.name} card"
        case FoldTable() as table:
            pairs = _folds_of_table(table, root)
            place = str(root / table.file)
        case SplitTables() | NameSplits():
            return {}
    folds: dict[str, int] = {}
    for speaker, fold in pairs:
        if folds.setdefault(speaker, fold) != fold:
            problem = f"the speaker is in the test set of fold {folds[speaker]} and of fold {fold}"
            raise CorpusError(place, speaker, problem, "test each speaker in one fold only")
    return folds


def assign_splits(
    rules: SplitRules, sexes: Mapping[str, str | None], test_folds: Mapping[str, int]
) -> dict[int, dict[str, str]]:
    """Give every speaker a split in every fold.

    Args:
        rules: protocol and number of validation speakers.
        sexes: the speakers at hand and their sex, None where unknown.
        test_folds: speaker -> fold in which the speaker is tested; may list absent speakers.

    Returns:
        fold -> speaker -> "train", "validation" or "test". Folds whose test speakers are all absent are
        left out.

    Raises:
        CorpusError: a speaker has no fold and the card does not allow that, no fold is left, or a fold has
            too few speakers to train on.
    """
    unlisted = sorted(set(sexes) - set(test_folds))
    if unlisted and rules.untested_speakers == "refuse":
        fix = "list them in the card's folds, remove their clips, or write `untested_speakers: train`"
        raise CorpusError(rules.protocol, "splits.folds", f"speakers without a fold: {', '.join(unlisted[:8])}", fix)
    _report_absent(rules.protocol, set(sexes), test_folds)
    splits = {}
    for fold in sorted({test_folds[speaker] for speaker in sexes if speaker in test_folds}):
        test = {speaker for speaker in sexes if test_folds.get(speaker) == fold}
        others = {speaker: sex for speaker, sex in sexes.items() if speaker not in test}
        validation = draw_validation_speakers(rules, fold, others)
        train = others.keys() - validation
        assert len(test) + len(validation) + len(train) == len(sexes), "splits share a speaker"
        named = zip(SPLITS, (train, validation, test), strict=True)
        splits[fold] = {speaker: split for split, speakers in named for speaker in speakers}
    if not splits:
        problem = f"no test speaker is at hand; the folds list {', '.join(test_folds)}"
        fix = "complete the corpus, or correct the speakers' names in the card"
        raise CorpusError(rules.protocol, "splits.folds", problem, fix)
    return splits


def draw_validation_speakers(rules: SplitRules, fold: int, candidates: Mapping[str, str | None]) -> set[str]:
    """Draw the validation speakers of one fold, as many of each sex as possible.

    The draw depends on the protocol's name, the fold and the set of candidates, on nothing else.

    Raises:
        CorpusError: no speaker would be left to train on.
    """
    wanted = rules.validation_speakers
    assert wanted is not None
    if len(candidates) <= wanted:
        problem = (
            f"{len(candidates)} speakers outside the test set, of which "
            f"{wanted} are to validate: none is left to train on"
        )
        fix = "lower splits.validation_speakers or complete the corpus"
        raise CorpusError(rules.protocol, f"fold {fold}", problem, fix)
    digest = hashlib.sha256(f"{rules.protocol}\n{fold}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    by_sex: dict[str, list[str]] = {}
    for speaker in sorted(candidates):
        by_sex.setdefault(candidates[speaker] or "", []).append(speaker)
    queues = [[by_sex[sex][i] for i in generator.permutation(len(by_sex[sex]))] for sex in sorted(by_sex)]
    # The sex that begins gets the odd speaker; drawn too, so that no sex is favored over the folds.
    turns = [queues[i] for i in generator.permutation(len(queues))]
    drawn: set[str] = set()
    while len(drawn) < wanted:
        for queue in turns:
            if queue and len(drawn) < wanted:
                drawn.add(queue.pop())
    return drawn


def _folds_of_table(table: FoldTable, root: Path) -> list[tuple[str, int]]:
    speakers, folds = read_text_columns(root, table.file, (table.speaker_column, table.fold_column))
    pairs = []
    for speaker, fold in zip(speakers, folds, strict=True):
        if not fold.isdecimal():
            problem = f"fold {fold!r} of speaker {speaker} is not a number"
            raise CorpusError(str(root / table.file), table.fold_column, problem, "write folds as whole numbers from 0")
        pairs.append((speaker.zfill(table.speaker_digits), int(fold)))
    return pairs


def _report_absent(protocol: str, present: set[str], test_folds: Mapping[str, int]) -> None:
    absent = sorted(set(test_folds) - present)
    if absent:
        logger.info("%s: %d listed speakers are absent: %s", protocol, len(absent), ", ".join(absent))


def read_split_tables(tables: SplitTables, root: Path, speakers: Mapping[str, str]) -> dict[int, dict[str, str]]:
    """Return fold -> clip -> "train", "validation", "test" or "none".

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
                problem = f"{what} {value} is in {seen} (clip {other}) and in {split} (clip {clip_id})"
                fix = "correct the table or the card: the splits of a fold may share nobody"
                raise CorpusError(place, f"fold {fold}", problem, fix)


def _splits_of_fold(tables: SplitTables, root: Path, fold: int, speakers: Mapping[str, str]) -> dict[str, str]:
    file = str(root / tables.tables[fold])
    listed = _rows(tables, root, fold)
    keys = {clip_id: clip_id if tables.key == "clip" else speaker for clip_id, speaker in speakers.items()}
    splits = {clip_id: listed[key] for clip_id, key in keys.items() if key in listed}
    if "test" not in splits.values():
        problem = (
            f"no clip at hand is in the test split; rows e.g. {sorted(listed)[:1]}, "
            f"clips e.g. {sorted(keys.values())[:1]}"
        )
        raise CorpusError(file, tables.split_column, problem, "correct key_column, key_pattern or names of the card")
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
    names = tables.names.by_text
    listed: dict[str, str] = {}
    for row, (text, split) in enumerate(zip(texts, published, strict=True), start=1):
        place = f"{tables.key_column}, row {row}"
        if is_missing(split) and split not in names:
            continue
        if split not in names:
            problem = f"split {split!r} is none of {', '.join(names)}"
            fix = "correct the table, or splits.folds.names of the card"
            raise CorpusError(str(root / name), f"{tables.split_column}, row {row}", problem, fix)
        key = _key(tables, text)
        if not key:
            problem = f"key {text!r} does not match {tables.key_pattern or 'anything'}"
            fix = "correct the table, or splits.folds.key_pattern of the card"
            raise CorpusError(str(root / name), place, problem, fix)
        # Rows of one speaker may repeat what is said already; a clip has one row.
        if key in listed and (tables.key == "clip" or listed[key] != names[split]):
            raise CorpusError(str(root / name), place, f"key {text!r} is there twice", "keep one of the rows")
        listed[key] = names[split]
    return listed


def _key(tables: SplitTables, text: str) -> str | None:
    pattern = tables.key_pattern or f"(?P<{tables.key}>.+)"
    return named_in(pattern, text, "splits.folds.key_pattern", tables.key)


def _check_speakers(tables: SplitTables, root: Path, fold: int, speakers: Mapping[str, str]) -> None:
    name, column = tables.tables[fold], str(tables.speaker_column)
    for row, (text, said) in enumerate(
        zip(*read_text_columns(root, name, (tables.key_column, column)), strict=True), start=1
    ):
        known = speakers.get(_key(tables, text) or "")
        if known is not None and known != said:
            problem = f"says speaker {said}, the clip's name says {known}"
            fix = "correct the table, or splits.folds.speaker_column or speaker of the card"
            raise CorpusError(str(root / name), f"{column}, row {row}", problem, fix)


def _unlisted(
    tables: SplitTables, file: str, fold: int, speakers: Mapping[str, str], splits: Mapping[str, str]
) -> dict[str, str]:
    """Return the split of every clip that the table lacks."""
    missing = [clip_id for clip_id in speakers if clip_id not in splits]
    if not missing:
        return {}
    if tables.unlisted_clips == "refuse":
        fix = "complete the table, or write splits.folds.unlisted_clips: none (or train) into the card"
        raise CorpusError(file, f"fold {fold}", f"{len(missing)} clips are not listed, e.g. {missing[0]}", fix)
    held_out = {speakers[clip_id] for clip_id, split in splits.items() if split != "train"}
    trains = tables.unlisted_clips == "train"
    found = {clip_id: "train" if trains and speakers[clip_id] not in held_out else NO_SPLIT for clip_id in missing}
    outside = sum(split == NO_SPLIT for split in found.values())
    message = "%s: fold %d: %d clips are not listed: %d train, %d are in no split"
    logger.info(message, file, fold, len(missing), len(missing) - outside, outside)
    return found
