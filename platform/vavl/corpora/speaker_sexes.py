"""The sex of every speaker, from the clips' names or from a table of the speakers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vavl.corpora.card import CorpusCard
from vavl.corpora.card_sources import GroupValue, SexTable
from vavl.corpora.discovery import Found
from vavl.corpora.label_tables import group_value
from vavl.errors import CorpusError
from vavl.media.csv_table import read_text_columns


def speaker_sexes(
    card: CorpusCard, root: Path, clips: Mapping[str, Found], speakers: Mapping[str, str]
) -> dict[str, str | None]:
    """Return speaker -> sex; None where it is not known.

    Args:
        card: the corpus.
        root: absolute corpus folder.
        clips: clip -> one side of it.
        speakers: clip -> speaker.

    Raises:
        CorpusError: a speaker has two, the table is missing or broken, or the card's map lacks a value.
    """
    match card.sex:
        case GroupValue() as value:
            return _from_names(value, clips, speakers)
        case SexTable() as table:
            return _from_table(table, root, set(speakers.values()))
        case None:
            return dict.fromkeys(speakers.values())


def _from_names(
    value: GroupValue, clips: Mapping[str, Found], speakers: Mapping[str, str]
) -> dict[str, str | None]:
    sexes: dict[str, str | None] = {}
    for clip_id, found in clips.items():
        sex, speaker = group_value("sex", value, found), speakers[clip_id]
        if sexes.setdefault(speaker, sex) != sex:
            raise CorpusError(
                found.place, "sex", f"speaker {speaker} is {sex} here and {sexes[speaker]} elsewhere",
                "correct the name or the card's sex",
            )  # fmt: skip
    return sexes


def _from_table(table: SexTable, root: Path, speakers: set[str]) -> dict[str, str | None]:
    file = str(root / table.file)
    sexes: dict[str, str | None] = {}
    columns = read_text_columns(root, table.file, (table.speaker_column, table.sex_column))
    for speaker, text in zip(*columns, strict=True):
        if table.map is not None and text and text not in table.map:
            raise CorpusError(
                file, table.sex_column, f"`{text}` of speaker {speaker} is not in the card's map",
                "add it to sex.map of the card",
            )  # fmt: skip
        sex = (text or None) if table.map is None else table.map.get(text)
        if sexes.setdefault(speaker, sex) != sex:
            raise CorpusError(
                file, table.speaker_column, f"speaker {speaker} is {sexes[speaker]} and {sex}",
                "keep one row per speaker",
            )  # fmt: skip
    if not speakers & sexes.keys():
        raise CorpusError(
            file, table.speaker_column,
            f"no row is about a speaker of the corpus; rows e.g. {sorted(sexes)[:1]}, "
            f"speakers e.g. {sorted(speakers)[:1]}", "correct sex.speaker_column of the card",
        )  # fmt: skip
    return {speaker: sexes.get(speaker) for speaker in sorted(speakers)}
