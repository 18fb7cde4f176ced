"""The proposed card: its content, section by section, with what a person must decide."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from vavl.description import roles
from vavl.description.layout import Layout, Side, escaped, has_sex
from vavl.description.tables import TableFound

DECIDE = "DECIDE: "
_SPEAKERS_FOR_FIVE_FOLDS = 10
_MOST_LISTED = 500
_FEWEST_SPEAKERS = 3


class _CardDumper(yaml.SafeDumper):
    """Writes cards as people do: lists of names in one line, texts of digits in quotes, nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  the name is that of the base
        return True


def _list_node(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    is_short = all(isinstance(item, str | int | float) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=is_short)


def _text_node(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="'" if data.isdecimal() else None)


_CardDumper.add_representer(list, _list_node)
_CardDumper.add_representer(str, _text_node)


@dataclass(frozen=True)
class Section:
    """A piece of the card with the comment above it; a comment that begins with ``DECIDE`` is a task."""

    content: Mapping[str, Any]
    comment: str = ""


@dataclass(frozen=True)
class Found:
    """What a card is drafted from.

    Attributes:
        name: of the corpus.
        layout: of its media.
        has_sound: the video files hold the audio.
        tables: found beside the media.
        clips: clip id -> speaker.
    """

    name: str
    layout: Layout
    has_sound: bool
    tables: Sequence[TableFound]
    clips: Mapping[str, str]

    @property
    def speakers(self) -> list[str]:
        """Names of the speakers, sorted."""
        return sorted(set(self.clips.values()))

    @property
    def feature_table(self) -> TableFound | None:
        """The table of ready features that stands for the video, where there are no video files."""
        has_directory_groups = any(place.level for place in self.layout.groups()) or self.layout.folders
        if self.layout.video is not None or has_directory_groups:
            return None
        return next((table for table in self.tables if table.key_column and table.feature_columns), None)

    @property
    def label_tables(self) -> list[TableFound]:
        """Tables whose rows join with clips and hold what could be labels."""
        return [table for table in self.tables if table.key_column and table.is_labels]


def draft_card(found: Found) -> list[Section]:
    """Return the sections of a card, in the order of a shipped one."""
    return [
        _origin(found),
        *_labels(found),
        *_sides(found),
        *_people(found),
        *_groups(found),
        _splits(found),
        Section(
            {"expected": {"clips": len(found.clips), "speakers": len(found.speakers)}},
            "What was found here. Correct it where the corpus as published has more.",
        ),
    ]


def card_content(sections: Sequence[Section]) -> dict[str, Any]:
    """Return the card as one mapping."""
    return {key: value for section in sections for key, value in section.content.items()}


def card_text(sections: Sequence[Section], head: str) -> str:
    """Return the card as YAML with its comments."""
    blocks = [_commented(head)]
    for section in sections:
        text = yaml.dump(
            dict(section.content), Dumper=_CardDumper, sort_keys=False, allow_unicode=True, width=1000
        )
        blocks.append((_commented(section.comment) if section.comment else "") + text)
    return "\n".join(blocks)


def _commented(text: str) -> str:
    return "".join(f"# {line}\n" for line in text.splitlines())


def _origin(found: Found) -> Section:
    return Section(
        {
            "name": found.name,
            "title": f"Recordings of the directory {found.name}",
            "licence": "unknown",
            "citation": "none",
            "obtain": "own recordings",
            "root_environment_variable": f"{found.name.upper()}_ROOT",
        },
        f"{DECIDE}title, licence, citation, and how others get the corpus.",
    )


def _labels(found: Found) -> list[Section]:
    sets: dict[str, Any] = {}
    classes: list[str] = []
    comments = []
    emotion = found.layout.roles.emotion
    if emotion is not None:
        mapping = _class_map(emotion.distinct, is_named=found.layout.roles.is_emotion_named)
        classes = list(dict.fromkeys(mapping.values()))
        is_plain = all(value == name for value, name in mapping.items())
        sets["file_name"] = {"source": "pattern", "target": "emotion in the file name", "group": "emotion"}
        sets["file_name"] |= {} if is_plain else {"map": mapping}
        if not found.layout.roles.is_emotion_named:
            comments.append(
                f"{DECIDE}the field `emotion` could be the class; name its values, or take it out."
            )
        comments.append(f"{DECIDE}target: what the label means, e.g. intended emotion, perceived emotion.")
    for table in found.label_tables:
        name = re.sub(r"[^a-z0-9]+", "_", PurePosixPath(table.file).stem.lower()).strip("_")
        content, named = _table_labels(table)
        classes += [name for name in named if name not in classes]
        key = name if name[:1].isalpha() and name not in sets else f"table_{len(sets)}"
        sets[key] = {"source": "tables", "target": f"labels of {table.file}", "tables": [content]}
        comments.append(f"{DECIDE}{table.file}: what do its labels mean, and are columns and range right?")
    if not sets:
        return [Section({"classes": []}, f"{DECIDE}no labels were found: the corpus is taken as unlabelled.")]
    comments.append("The first set is the default of a training; data.labels chooses another.")
    return [Section({"classes": classes, "labels": sets}, "\n".join(comments))]


def _class_map(values: Sequence[str], *, is_named: bool) -> dict[str, str]:
    if is_named:
        return {value: roles.emotion_of(value) or value.lower() for value in values}
    return {value: f"class_{value}" for value in values}


def _table_labels(table: TableFound) -> tuple[dict[str, Any], list[str]]:
    content: dict[str, Any] = {"file": table.file, "key_column": table.key_column}
    content |= {"key_pattern": table.key_pattern} if table.key_pattern != r"(?P<clip>.+)" else {}
    named: list[str] = []
    if table.label_column:
        mapping = _class_map(table.label_values, is_named=True)
        is_plain = all(value == name for value, name in mapping.items())
        content |= {"label_column": table.label_column} | ({} if is_plain else {"map": mapping})
        named += mapping.values()
    if table.soft_columns:
        content["soft_columns"] = dict(table.soft_columns)
        named += table.soft_columns
    if table.attribute_columns and table.attribute_range:
        content["attribute_columns"] = dict(table.attribute_columns)
        content["attribute_range"] = list(table.attribute_range)
    return content, list(dict.fromkeys(named))


def _sides(found: Found) -> list[Section]:
    layout = found.layout
    audio, video = layout.audio, layout.video
    sections = []
    if audio is None and video is not None and found.has_sound:
        files = _files(layout, video)
        note = "One file holds audio and video of a clip."
        return [Section({"audio": files}, note), Section({"video": {"source": "files", **files}})]
    if audio is not None:
        sections.append(Section({"audio": _files(layout, audio)}, _others(audio)))
    if video is not None:
        sections.append(Section({"video": {"source": "files", **_files(layout, video)}}, _others(video)))
    table = found.feature_table
    if table is not None:
        content = {
            "source": "table",
            "file": table.file,
            "key_column": table.key_column,
            "pattern": layout.clip_pattern(),
            "feature_columns": columns_expression(table),
            "width": len(table.feature_columns),
        }
        comment = f"{DECIDE}{table.file} is taken as ready features of the video, one row per clip."
        sections += [Section({"video": content}, comment), Section({"unpaired": {"video_only": "drop"}})]
    return sections


def _files(layout: Layout, side: Side) -> dict[str, Any]:
    return {"pattern": layout.pattern(side), "suffixes": _suffixes(layout, side)}


def _suffixes(layout: Layout, side: Side) -> list[str]:
    """Return all suffixes, or the most frequent one where a clip is there with several."""
    ids = layout.clip_ids(side)
    return list(side.suffixes if len(set(ids)) == len(ids) else side.suffixes[:1])


def _others(side: Side) -> str:
    found = side.table.strangers
    return f"{DECIDE}{len(found)} files are named otherwise and left out, e.g. {found[0]}" if found else ""


def columns_expression(table: TableFound) -> str:
    """Return a regular expression for exactly the feature columns of a table."""
    shapes = dict.fromkeys(re.sub(r"\d+", r"\\d+", escaped(name)) for name in table.feature_columns)
    general = "|".join(shapes)
    matching = [name for name in table.columns if re.fullmatch(general, name)]
    exact = "|".join(escaped(name) for name in table.feature_columns)
    return general if matching == list(table.feature_columns) else exact


def _people(found: Found) -> list[Section]:
    speaker = found.layout.roles.speaker
    if speaker is None:
        comment = (
            f"{DECIDE}no field of the names tells who speaks. Every clip counts as a speaker of its own, so test\n"
            "scores will be too good wherever one person speaks in several clips. Name the speaker in the files."
        )
        return [Section({"speaker": {"group": "clip"}}, comment)]
    sections = [Section({"speaker": {"group": "speaker"}})]
    if has_sex(speaker.values):
        letters = sorted({value[0] for value in speaker.distinct})
        mapping = {letter: roles.SEXES[letter.lower()] for letter in letters}
        sections.append(Section({"sex": {"group": "sex", "map": mapping}}))
    return sections


def _groups(found: Found) -> list[Section]:
    groups = {name: {"group": name} for name in found.layout.roles.groups}
    unnamed = [name for name in groups if name.startswith("field_")]
    comment = f"{DECIDE}give {', '.join(unnamed)} a name, or take them out." if unnamed else ""
    return [Section({"groups": groups}, comment)] if groups else []


def _splits(found: Found) -> Section:
    table = next((table for table in found.tables if table.speaker_column and table.fold_column), None)
    speakers = found.speakers
    rules: dict[str, Any] = {"protocol": f"{found.name}-proposed"}
    if table is not None:
        rules["folds"] = {
            "source": "table",
            "file": table.file,
            "speaker_column": table.speaker_column,
            "fold_column": table.fold_column,
            "speaker_digits": table.speaker_digits,
        }
        comment = f"{DECIDE}the test speakers of each fold are those of {table.file}."
    else:
        folds = draw_folds(speakers)
        rules["folds"] = {"source": "list", "test_speakers": folds}
        listed = sum(len(names) for names in folds.values())
        rules |= {"untested_speakers": "train"} if listed < len(speakers) else {}
        comment = f"{DECIDE}test speakers were drawn by their names alone. Take published folds where there are some."
    rules["validation_speakers"] = max(1, min(len(speakers) // 6, 4))
    if not found.layout.roles.emotion and any(
        table.joined < len(found.clips) for table in found.label_tables
    ):
        rules["labelled"] = []
    if len(speakers) < _FEWEST_SPEAKERS:
        comment += (
            f"\n{DECIDE}{len(speakers)} speakers are too few to test, validate and train on different ones."
        )
    return Section({"splits": rules}, comment)


def draw_folds(speakers: Sequence[str]) -> dict[int, list[str]]:
    """Deal speakers to test folds in an order that depends on their names alone.

    Five folds that test each speaker once; one fold of a quarter of them where there are fewer than ten.
    """
    by_first_letter = sorted(speakers, key=lambda name: (name[:1], hashlib.sha256(name.encode()).digest()))
    if len(speakers) >= _SPEAKERS_FOR_FIVE_FOLDS and len(speakers) <= _MOST_LISTED:
        return {fold: sorted(by_first_letter[fold::5]) for fold in range(5)}
    step = max(4, -(-len(speakers) // _MOST_LISTED))
    return {0: sorted(by_first_letter[::step])}
