"""Speaker-disjoint splits: published tables, or published test folds with seeded validation speakers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vavl.corpora.card import CorpusCard
from vavl.corpora.card_splits import FoldTable, ListedFolds, SplitRules, SplitTables
from vavl.corpora.split_tables import read_split_tables
from vavl.errors import CorpusError
from vavl.media.csv_table import read_text_columns

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


def clip_splits(
    card: CorpusCard, root: Path, speakers: Mapping[str, str], sexes: Mapping[str, str | None]
) -> dict[int, dict[str, str]]:
    """Return fold -> clip -> "train", "validation", "test" or "none".

    Args:
        card: the corpus.
        root: absolute corpus folder.
        speakers: clip -> speaker.
        sexes: speaker -> sex, None where unknown.

    Raises:
        CorpusError: see ``read_split_tables``, ``published_folds`` and ``assign_splits``.
    """
    match card.splits.folds:
        case SplitTables() as tables:
            return read_split_tables(tables, root, speakers)
        case ListedFolds() | FoldTable():
            by_speaker = assign_splits(card.splits, sexes, published_folds(card, root))
            return {
                fold: {clip_id: split[speaker] for clip_id, speaker in speakers.items()}
                for fold, split in by_speaker.items()
            }


def published_folds(card: CorpusCard, root: Path) -> dict[str, int]:
    """Return the test fold of every speaker that the protocol lists, also of absent ones.

    Empty with split tables: their folds may test a speaker again.

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
        case SplitTables():
            return {}
    folds: dict[str, int] = {}
    for speaker, fold in pairs:
        if folds.setdefault(speaker, fold) != fold:
            raise CorpusError(
                place, speaker, f"the speaker is in the test set of fold {folds[speaker]} and of fold {fold}",
                "a speaker may be tested in one fold only",
            )  # fmt: skip
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
        raise CorpusError(
            rules.protocol, "splits.folds", f"speakers without a fold: {', '.join(unlisted[:8])}",
            "list them in the card's folds, remove their clips, or write `untested_speakers: train`",
        )  # fmt: skip
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
        raise CorpusError(
            rules.protocol, "splits.folds",
            f"no test speaker is at hand; the folds list {', '.join(test_folds)}",
            "complete the corpus, or correct the speakers' names in the card",
        )  # fmt: skip
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
        raise CorpusError(
            rules.protocol, f"fold {fold}", f"{len(candidates)} speakers outside the test set, of which "
            f"{wanted} are to validate: none is left to train on",
            "lower splits.validation_speakers or complete the corpus",
        )  # fmt: skip
    digest = hashlib.sha256(f"{rules.protocol}\n{fold}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    by_sex: dict[str, list[str]] = {}
    for speaker in sorted(candidates):
        by_sex.setdefault(candidates[speaker] or "", []).append(speaker)
    queues = [[by_sex[sex][i] for i in generator.permutation(len(by_sex[sex]))] for sex in sorted(by_sex)]
    # The sex that begins gets the odd speaker; drawn too, so that no sex is favoured over the folds.
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
            raise CorpusError(
                str(root / table.file), table.fold_column,
                f"fold {fold!r} of speaker {speaker} is not a number",
                "write folds as 0, 1, 2 ...",
            )  # fmt: skip
        pairs.append((speaker.zfill(table.speaker_digits), int(fold)))
    return pairs


def _report_absent(protocol: str, present: set[str], test_folds: Mapping[str, int]) -> None:
    absent = sorted(set(test_folds) - present)
    if absent:
        logger.info("%s: %d listed speakers are absent: %s", protocol, len(absent), ", ".join(absent))
