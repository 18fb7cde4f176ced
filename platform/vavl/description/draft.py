"""The proposed card: its content, section by section, with what a person must decide."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from vavl.description import words
from vavl.description.layout import Layout, escaped, has_sex
from vavl.description.names import Names
from vavl.description.people import DECIDE, People, Section
from vavl.description.roles import Roles
from vavl.description.tables import TableFound
from vavl.description.words import ClassNames, class_names
from vavl.media.csv_table import is_missing


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
class Found:
    """What a card is drafted from."""

    name: str
    layout: Layout
    has_sound: bool  # the video files hold the audio
    tables: Sequence[TableFound]
    people: People  # who speaks in which clip
    splits: Section  # but for the protocol
    notes: Sequence[str] = ()  # on video files and their sound, for the comment of their section

    @property
    def clips(self) -> Mapping[str, str]:
        """Clip id -> speaker."""
        return self.people.clips

    @property
    def feature_table(self) -> TableFound | None:
        """The table of ready features that stands for the video, where there are no video files."""
        has_directory_groups = any(level for level, _ in self.layout.groups()) or self.layout.directories
        if self.layout.video is not None or has_directory_groups:
            return None
        return next((table for table in self.tables if table.key_column and table.feature_columns), None)

    @property
    def has_name_labels(self) -> bool:
        """True where a field of the names is the class: surely, or because nothing else could be it."""
        roles = self.layout.roles
        is_known = roles.is_emotion_named or bool(roles.class_names)
        return roles.emotion is not None and (is_known or not self.label_tables)

    @property
    def label_tables(self) -> list[TableFound]:
        """Tables whose rows join with clips and hold what could be labels."""
        return [table for table in self.tables if table.key_column and table.is_labels]


def draft_card(found: Found) -> list[Section]:
    """Return the sections of a card, in the order of a shipped one."""
    return [
        _origin(found),
        *_labels(found),
        *_modalities(found),
        *_people(found),
        *_groups(found),
        _splits(found),
        Section(
            {"expected": {"clips": len(found.clips), "speakers": len(set(found.clips.values()))}},
            ["What was found here. Correct it where the corpus as published has more."],
        ),
    ]


def card_content(sections: Sequence[Section]) -> dict[str, Any]:
    """Return the card as one mapping."""
    return {key: value for section in sections for key, value in section.content.items()}


def card_text(sections: Sequence[Section], head: str) -> str:
    """Return the card as YAML with its comments."""
    blocks = [_commented(head.splitlines())]
    for section in sections:
        text = yaml.dump(dict(section.content), Dumper=_CardDumper, sort_keys=False, allow_unicode=True, width=1000)
        blocks.append(_commented(section.comments) + text)
    return "\n".join(blocks)


def _commented(lines: Sequence[str]) -> str:
    return "".join(f"# {line}\n" for text in lines for line in text.splitlines())  # names of files may hold line breaks


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
        [f"{DECIDE}title, license, citation, and how others get the corpus."],
    )


def _labels(found: Found) -> list[Section]:
    sets: dict[str, Any] = {}
    classes: list[str] = []
    comments: list[str] = []
    if found.has_name_labels:
        named = _name_labels(found.layout.roles, sets, comments)
        classes = named.classes
    for tables in _by_set(found.label_tables):
        name = re.sub(r"[^a-z0-9]+", "_", PurePosixPath(tables[0].file).stem.lower()).strip("_")
        if len(tables) > 1:
            name = "labels"
        key = name if name[:1].isalpha() and name not in sets else f"table_{len(sets)}"
        contents = []
        for table in tables:
            content, named_classes = _table_labels(table, comments)
            classes += [name for name in named_classes if name not in classes]
            contents.append(content)
        files = ", ".join(table.file for table in tables)
        sets[key] = {"source": "tables", "target": f"labels of {files}", "tables": contents}
        comments.append(f"{DECIDE}{files}: what do its labels mean, and are columns and range right?")
    comments += [f"{DECIDE}{line}" for table in found.tables for line in _unused_labels(table)]
    if not sets:
        none = f"{DECIDE}no labels were found: the corpus is taken as unlabeled."
        return [Section({"classes": []}, [none, *comments])]
    comments.append("The first set is the default of a training run; data.labels chooses another.")
    return [Section({"classes": classes, "labels": sets}, comments)]


def _name_labels(roles: Roles, sets: dict[str, Any], comments: list[str]) -> ClassNames:
    """Add the labels of the names to ``sets``, and what is to decide about them to ``comments``."""
    assert roles.emotion is not None
    values = roles.emotion.distinct
    is_known = roles.is_emotion_named or roles.class_names
    named = class_names(values, roles.class_names if is_known else {v: f"class_{v}" for v in values})
    labels = {"source": "pattern", "target": "emotion in the file name", "group": "emotion"}
    sets["file_name"] = labels | _map(named)
    if not is_known:
        comments.append(f"{DECIDE}the field `emotion` could be the class; name its values, or take it out.")
    elif not roles.is_emotion_named:
        example = next(f"{value} is {name}" for value, name in named.by_value.items())
        comments.append(f"{DECIDE}the classes are named as by the scheme of these names, e.g. {example}.")
    if roles.also_emotions:
        others = "; ".join(", ".join(column.distinct[:4]) for column in roles.also_emotions)
        comments.append(f"{DECIDE}the names hold further emotions, which are not used: {others}.")
    comments += [f"{DECIDE}{doubt}" for doubt in named.doubts]
    comments.append(f"{DECIDE}target: what the label means, e.g. intended emotion, perceived emotion.")
    return named


def _map(named: ClassNames) -> dict[str, Any]:
    is_plain = all(value == name for value, name in named.by_value.items())
    return {} if is_plain else {"map": dict(named.by_value)}


def _by_set(tables: Sequence[TableFound]) -> list[list[TableFound]]:
    """Put tables together that hold one set of labels in parts: equal columns, no clip in two of them."""
    sets: list[list[TableFound]] = []
    for table in tables:
        for other in sets:
            if other[0].columns == table.columns and not any(_share_clips(table, part) for part in other):
                other.append(table)
                break
        else:
            sets.append([table])
    return sets


def _share_clips(one: TableFound, other: TableFound) -> bool:
    key = str(one.key_column)
    return one.key_column != other.key_column or bool(one.by_clip(key).keys() & other.by_clip(key).keys())


def _unused_labels(table: TableFound) -> Iterator[str]:
    """Yield why a table that could hold labels gives none."""
    if table.key_column or not (table.is_labels or table.repeated):
        return
    names = [table.label_column, *(table.soft_columns or {}).values(), *(table.attribute_columns or {}).values()]
    columns = ", ".join(f"`{name}`" for name in names if name)
    if table.repeated:
        rater = f" (one per `{table.rater_column}`)" if table.rater_column else ""
        yield (
            f"{table.file} has several rows per clip in `{table.repeated}`{rater} and is not used: make it one row per "
            f"clip, e.g. a column of votes for each class, or choose rows (`rows` of a table); its labels: "
            f"{columns or 'none known'}."
        )
    else:
        yield (
            f"{table.file} joins with no clip and is not used: no column of it holds the names of clips; "
            f"its labels: {columns}."
        )


def _table_labels(table: TableFound, comments: list[str]) -> tuple[dict[str, Any], list[str]]:
    content: dict[str, Any] = {"file": table.file, "key_column": table.key_column}
    content |= {"key_pattern": table.key_pattern} if table.key_pattern != r"(?P<clip>.+)" else {}
    classes: list[str] = []
    if table.label_column:
        named = class_names(table.label_values)
        content |= {"label_column": table.label_column} | _map(named)
        classes += named.classes
        comments += [f"{DECIDE}{table.file}: {doubt}" for doubt in named.doubts]
        others = [f"`{name}`" for name in table.label_columns if name != table.label_column]
        if others:
            comments.append(
                f"{DECIDE}{table.file}: `{table.label_column}` is taken as the class, not {', '.join(others)}."
            )
        if not words.are_emotions(named.classes):
            comments.append(f"{DECIDE}{table.file}: name the classes of `{table.label_column}`, or take it out.")
        missing = [value or "nothing" for value, name in named.by_value.items() if name is None]
        if missing:
            comments.append(f"{table.file}: no label where the table says {', '.join(missing)}.")
    if table.soft_columns:
        content["soft_columns"] = dict(table.soft_columns)
        classes += table.soft_columns
    if table.attribute_columns and table.attribute_range:
        content["attribute_columns"] = dict(table.attribute_columns)
        content["attribute_range"] = list(table.attribute_range)
    return content, list(dict.fromkeys(classes))


def _modalities(found: Found) -> list[Section]:
    layout = found.layout
    audio, video = layout.audio, layout.video
    sections = []
    if audio is None and video is not None and found.has_sound:
        files = _files(layout, video)
        notes = ["One file holds audio and video of a clip.", *found.notes]
        return [Section({"audio": files}, notes), Section({"video": {"source": "files", **files}})]
    if audio is not None:
        sections.append(Section({"audio": _files(layout, audio)}, _others(audio)))
    if video is not None:
        notes = [*_others(video), *found.notes]
        sections.append(Section({"video": {"source": "files", **_files(layout, video)}}, notes))
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
        sections += [Section({"video": content}, [comment]), Section({"unpaired": {"video_only": "drop"}})]
    return sections


def _files(layout: Layout, names: Names) -> dict[str, Any]:
    """Take all suffixes, or the most frequent one where a clip is there with several."""
    ids = layout.clip_ids(names)
    suffixes = names.suffixes if len(set(ids)) == len(ids) else names.suffixes[:1]
    return {"pattern": layout.pattern(names), "suffixes": list(suffixes)}


def _others(names: Names) -> list[str]:
    found = names.unmatched
    return [f"{DECIDE}{len(found)} files are named otherwise and left out, e.g. {found[0]}"] if found else []


def columns_expression(table: TableFound) -> str:
    """Return a regular expression for exactly the feature columns of a table."""
    shapes = dict.fromkeys(re.sub(r"\d+", r"\\d+", escaped(name)) for name in table.feature_columns)
    general = "|".join(shapes)
    matching = [name for name in table.columns if re.fullmatch(general, name)]
    exact = "|".join(escaped(name) for name in table.feature_columns)
    return general if matching == list(table.feature_columns) else exact


def _people(found: Found) -> list[Section]:
    roles, content = found.layout.roles, found.people.content
    sections = [Section({"speaker": content}, found.people.comments)]
    letters: dict[str, set[str]] = {}
    if content.get("group") == "speaker" and roles.speaker and has_sex(roles.speaker.values):
        letters["sex"] = {value[0] for value in roles.speaker.distinct}
    who = roles.groups.get("who") if "who" in content.get("group", ()) else None
    if who is not None and {letter.lower() for letter in who.distinct} == {"f", "m"}:
        letters["who"] = set(who.distinct)
    for group, found_letters in letters.items():
        mapping = {letter: words.SEXES[letter.lower()] for letter in sorted(found_letters)}
        sections.append(Section({"sex": {"group": group, "map": mapping}}))
    return sections


def _groups(found: Found) -> list[Section]:
    groups: dict[str, Any] = {name: {"group": name} for name in found.layout.roles.groups}
    unnamed = [name for name in groups if name.startswith("field_")]
    comments = [f"{DECIDE}give {', '.join(unnamed)} a name, or take them out."] if unnamed else []
    scheme = found.layout.lead.scheme
    if scheme is not None and scheme.sentence and found.has_name_labels and groups.pop("sentence", None):
        groups["text"] = {"group": list(scheme.sentence)}
        comments.append("Numbers of sentences begin anew in each emotion: both name a sentence together.")
    return [Section({"groups": groups}, comments)] if groups else []


def _splits(found: Found) -> Section:
    labelled: dict[str, Any] = {} if _is_labeled(found) else {"labelled": []}
    rules = {"protocol": f"{found.name}-proposed", **found.splits.content, **labelled}
    return Section({"splits": rules}, found.splits.comments)


def _is_labeled(found: Found) -> bool:
    """Tell whether the first set of labels says something of every clip."""
    roles = found.layout.roles
    if found.has_name_labels and roles.emotion is not None:
        return None not in class_names(roles.emotion.distinct, roles.class_names).by_value.values()
    for table in found.label_tables[:1]:
        columns = [table.label_column] if table.label_column else [*(table.attribute_columns or {}).values()]
        values = [table.by_clip(column) for column in columns]
        return all(not is_missing(known.get(clip, "")) for known in values for clip in found.clips) and (
            table.joined >= len(found.clips)
        )
    return True
