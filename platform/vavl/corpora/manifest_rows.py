"""Put what was found of a corpus into the rows of a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from vavl.corpora.card import CorpusCard, card_hash
from vavl.corpora.card_sources import (
    CsdSource,
    GroupValue,
    NameLabels,
    SexTable,
    SpeakerTable,
    TableSource,
    original_ranges,
)
from vavl.corpora.discovery import Found, Side, find_clips, find_rows
from vavl.corpora.hf_dataset import label_names
from vavl.corpora.label_sets import Column, Labels, columns_of_labels, group_value, read_labels
from vavl.corpora.splits import check_disjoint, clip_splits, published_folds
from vavl.errors import CorpusError
from vavl.media.csv_table import is_missing, read_text_columns
from vavl.media.patterns import named_in


def manifest_table(card: CorpusCard, root: Path, *, listed: bool = False) -> tuple[pa.Table, dict[str, Any]]:
    """Return the rows of the manifest, sorted by clip id, and the facts for its schema's metadata.

    Raises:
        CorpusError: see ``vavl.corpora.manifest.build_manifest``.
    """
    hash_of_card = card_hash(card)
    if not card.classes and card.datasets:
        card = card.model_copy(update={"classes": label_names(card, root)})
    audio, video = ({}, {}) if listed else find_clips(card, root)
    clips = _listed_clips(card, root) if listed else _both_sides(card, audio, video)
    labels = read_labels(card, root, clips)
    speakers = clip_speakers(card, root, clips)
    sexes = speaker_sexes(card, root, clips, speakers)
    splits = clip_splits(card, root, clips, speakers, sexes)
    test_folds = published_folds(card, root)
    groups = {
        name: [group_value(f"groups.{name}", value, found) for found in clips.values()]
        for name, value in card.groups.items()
    }
    for name in card.splits.disjoint_groups:
        check_disjoint(f"{card.name} card", splits, dict(zip(clips, groups[name], strict=True)), name)
    _check_labeled(card, clips, labels, splits)

    columns: list[Column] = [
        ("clip_id", pa.string(), list(clips)),
        ("corpus", pa.string(), [card.name] * len(clips)),
        ("speaker", pa.string(), list(speakers.values())),
        ("sex", pa.string(), [sexes[speaker] for speaker in speakers.values()]),
    ]
    columns += columns_of_labels(list(clips), labels)
    columns += _place_columns(card, clips, audio, video)
    columns.append(("test_fold", pa.int16(), [test_folds.get(speaker) for speaker in speakers.values()]))
    columns += [
        (f"split_{fold}", pa.string(), [of_clip[clip_id] for clip_id in clips]) for fold, of_clip in splits.items()
    ]
    columns += [(f"group_{name}", pa.string(), values) for name, values in groups.items()]
    table = pa.table({name: pa.array(values, kind) for name, kind, values in columns})
    return table, {"clips": len(clips)} | _metadata(card, tuple(splits)) | {"card_hash": hash_of_card}


def _listed_clips(card: CorpusCard, root: Path) -> dict[str, Found]:
    if card.clip_list is None:
        fix = "name one (file, key_column, pattern), or look at the corpus with its media"
        raise CorpusError(f"{card.name} card", "clip_list", "the card names no list of clips", fix)
    clips = find_rows("clip_list", card.clip_list, root)
    return {clip_id: clips[clip_id] for clip_id in sorted(clips)}


def _both_sides(card: CorpusCard, audio: Side, video: Side) -> dict[str, Found]:
    """Return one modality of every clip, sorted by clip id, after a check that the two modalities agree."""
    values = [("speaker", card.speaker)] if isinstance(card.speaker, GroupValue) else []
    values += [
        (f"labels.{name}", labels.value) for name, labels in card.labels.items() if isinstance(labels, NameLabels)
    ]
    for clip_id in audio.keys() & video.keys():
        one, other = audio[clip_id], video[clip_id]
        for fact, value in values:
            for group in value.groups:
                if one.groups[group] != other.groups[group]:
                    problem = f"group {group} is {one.groups[group]}, but {other.groups[group]} in {other.place}"
                    fix = "rename one of them: they are the two modalities of one clip"
                    raise CorpusError(one.place, fact, problem, fix)
    clips = video | audio
    return {clip_id: clips[clip_id] for clip_id in sorted(clips)}


def clip_speakers(card: CorpusCard, root: Path, clips: Mapping[str, Found]) -> dict[str, str]:
    """Return clip -> speaker. Raises CorpusError if a clip has no speaker, or rows of a table that name two."""
    match card.speaker:
        case GroupValue() as value:
            known = {clip_id: group_value("speaker", value, found) for clip_id, found in clips.items()}
            fix = "let the speaker's group of the pattern always match"
        case SpeakerTable() as table:
            listed = _listed_speakers(table, root)
            own = table.unknown == "own"
            known = {clip_id: listed.get(clip_id) or (clip_id if own else None) for clip_id in clips}
            fix = f"name the speaker in {table.file}, or write `unknown: own` into speaker of the card"
    speakers = {clip_id: speaker for clip_id, speaker in known.items() if speaker is not None}
    nameless = next((clip_id for clip_id in clips if clip_id not in speakers), None)
    if nameless is not None:
        raise CorpusError(clips[nameless].place, "speaker", "the clip has no speaker, so it can be in no split", fix)
    return speakers


def _listed_speakers(table: SpeakerTable, root: Path) -> dict[str, str]:
    file = str(root / table.file)
    speakers: dict[str, str] = {}
    columns = read_text_columns(root, table.file, (table.key_column, table.speaker_column))
    for row, (key, speaker) in enumerate(zip(*columns, strict=True), start=1):
        clip_id = named_in(table.key_pattern, key, "speaker.key_pattern")
        if clip_id is None or is_missing(speaker) or speaker.lower() == "unknown":
            continue
        if speakers.setdefault(clip_id, speaker) != speaker:
            problem = f"clip {clip_id} is spoken by {speakers[clip_id]} and by {speaker}"
            raise CorpusError(file, f"{table.speaker_column}, row {row}", problem, "keep one speaker per clip")
    return speakers


def _check_labeled(
    card: CorpusCard, clips: Mapping[str, Found], labels: Mapping[str, Labels], splits: Mapping[int, Mapping[str, str]]
) -> None:
    """Refuse a clip without default label in a labeled split; a card may also name no labels at all."""
    if not labels:
        return
    default, known = next(iter(labels.items()))
    for fold, of_clip in splits.items():
        for clip_id, split in of_clip.items():
            if clip_id not in known and split in card.splits.labelled:
                problem = f"the clip has no label and is in the {split} split of fold {fold}"
                fix = "give it a label, remove it, or take the split out of splits.labelled of the card"
                raise CorpusError(clips[clip_id].place, f"labels.{default}", problem, fix)


def _place_columns(card: CorpusCard, clips: Mapping[str, Found], audio: Side, video: Side) -> list[Column]:
    nowhere = [None] * len(clips)
    columns: list[Column] = []
    for modality, source, side in (("audio", card.audio, audio), ("video", card.video, video)):
        places = [side[clip_id].place if clip_id in side else None for clip_id in clips]
        ready = isinstance(source, TableSource | CsdSource)
        columns.append((f"{modality}_path", pa.string(), nowhere if ready else places))
        columns.append((f"{modality}_table_key", pa.string(), places if ready else nowhere))
    return columns


def _metadata(card: CorpusCard, folds: tuple[int, ...]) -> dict[str, Any]:
    rules, default = card.splits, next(iter(card.labels), "")
    drawn = f"{rules.validation_speakers} speakers per fold, drawn by protocol and fold, balanced by sex"
    return {
        "corpus": card.name,
        "classes": list(card.classes),
        "labels": {
            name: {
                "target": labels.target,
                # Attributes stand in the manifest as 0 .. 1; these are the ranges that they come from.
                "rescaled_from": {key: list(ends) for key, ends in original_ranges(labels).items()},
            }
            for name, labels in card.labels.items()
        },
        "label_set": default,
        "target": card.labels[default].target if default else "",
        "protocol": rules.protocol,
        "folds": list(folds),
        "licence": card.licence,
        "citation": card.citation,
        "expected": card.expected.model_dump(mode="json"),
        "subset": None if card.subset is None else card.subset.model_dump(mode="json"),
        "yardsticks": [note.model_dump(mode="json") for note in card.yardsticks],
        "validation": "as published" if rules.validation_speakers is None else drawn,
    }


def speaker_sexes(
    card: CorpusCard, root: Path, clips: Mapping[str, Found], speakers: Mapping[str, str]
) -> dict[str, str | None]:
    """Return speaker -> sex; None where it is not known.

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


def _from_names(value: GroupValue, clips: Mapping[str, Found], speakers: Mapping[str, str]) -> dict[str, str | None]:
    sexes: dict[str, str | None] = {}
    for clip_id, found in clips.items():
        sex, speaker = group_value("sex", value, found), speakers[clip_id]
        if sexes.setdefault(speaker, sex) != sex:
            problem = f"speaker {speaker} is {sex} here and {sexes[speaker]} elsewhere"
            raise CorpusError(found.place, "sex", problem, "correct the name or the card's sex")
    return sexes


def _from_table(table: SexTable, root: Path, speakers: set[str]) -> dict[str, str | None]:
    file = str(root / table.file)
    sexes: dict[str, str | None] = {}
    columns = read_text_columns(root, table.file, (table.speaker_column, table.sex_column))
    for speaker, text in zip(*columns, strict=True):
        if table.map is not None and text and text not in table.map:
            problem = f"`{text}` of speaker {speaker} is not in the card's map"
            raise CorpusError(file, table.sex_column, problem, "add it to sex.map of the card")
        sex = (text or None) if table.map is None else table.map.get(text)
        if sexes.setdefault(speaker, sex) != sex:
            problem = f"speaker {speaker} is {sexes[speaker]} and {sex}"
            raise CorpusError(file, table.speaker_column, problem, "keep one row per speaker")
    if not speakers & sexes.keys():
        problem = (
            f"no row is about a speaker of the corpus; rows e.g. {sorted(sexes)[:1]}, "
            f"speakers e.g. {sorted(speakers)[:1]}"
        )
        raise CorpusError(file, table.speaker_column, problem, "correct sex.speaker_column of the card")
    return {speaker: sexes.get(speaker) for speaker in sorted(speakers)}
