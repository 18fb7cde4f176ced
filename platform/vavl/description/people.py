"""Who speaks in which clip, and which split a clip is in: known by a stated rule, or for a person to decide."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from vavl.description.layout import Layout
from vavl.description.roles import Roles
from vavl.description.tables import TableFound
from vavl.description.words import NO_AGREEMENT, split_of, splits_of
from vavl.media.csv_table import is_missing

DECIDE = "DECIDE: "
"""Begins a comment of a card that a person has to look at."""

_SPEAKERS_FOR_FIVE_FOLDS = 10
_MOST_LISTED = 500
_FEWEST_SPEAKERS = 3
_ANY_KEY = r"(?P<clip>.+)"


@dataclass(frozen=True)
class People:
    """Who speaks."""

    content: Mapping[str, Any]
    clips: Mapping[str, str]  # clip id -> speaker; the clip itself where nobody is known
    comments: tuple[str, ...]  # of the card; those that begin with ``DECIDE`` are tasks
    is_certain: bool  # a stated rule names the speaker


@dataclass(frozen=True)
class Section:
    """A piece of the card with the comments above it; one that begins with ``DECIDE`` is a task."""

    content: Mapping[str, Any]
    comments: Sequence[str] = ()


@dataclass(frozen=True)
class _Published:
    """Splits that come with the corpus: where they stand, the card's ``folds``, and the split of each clip."""

    place: str
    folds: Mapping[str, Any]
    clips: Mapping[str, str]


def find_people(layout: Layout, tables: Sequence[TableFound]) -> People:
    """Take the speaker from the names by a sure rule, else from a column of a table, else as a guess."""
    roles = layout.roles
    of_names = layout.speakers_of_clips()
    of_names_content = {"group": roles.people[0] if len(roles.people) == 1 else list(roles.people)}
    listed = next((found for table in tables if (found := _listed(table, of_names))), None)
    if roles.people and roles.rule:
        comments = [f"Who speaks is certain: {roles.rule}."]
        scheme = layout.lead.scheme
        comments += [f"{DECIDE}{scheme.doubt}"] if scheme is not None and scheme.doubt else []
        if listed is not None and not _agree(of_names, listed.clips):
            file, column = listed.content["file"], listed.content["speaker_column"]
            comments.append(f"{DECIDE}{file} names other speakers in `{column}`, which are not used.")
        return People(of_names_content, of_names, tuple(comments), is_certain=True)
    if listed is not None:
        return listed
    if not roles.people:
        return nobody(layout, "no field of the names tells who speaks")
    return People(of_names_content, of_names, (f"{DECIDE}{_inferred(roles, of_names)}",), is_certain=False)


def nobody(layout: Layout, reason: str) -> People:
    """Return every clip as a speaker of its own, with the reason."""
    comment = (
        f"{DECIDE}{reason}. Every clip counts as a speaker of its own, so test scores will be too good wherever one "
        "person speaks in several clips. Name the speaker in the files, or in a column of a table."
    )
    clips = {clip: clip for clip in layout.speakers_of_clips()}
    return People({"group": "clip"}, clips, (comment,), is_certain=False)


def _inferred(roles: Roles, clips: Mapping[str, str]) -> str:
    names = sorted(set(clips.values()))
    examples = f"{', '.join(names[:3])} ... ({len(names)})"
    match len(roles.people), roles.people[0]:
        case 1, "speaker":
            return f"{examples} are taken as the speakers: the field looks like it, and no word of the names says so."
        case 1, _:
            return (
                f"nothing in the names tells who speaks. The sessions {examples} are taken in place of the speakers, "
                "which keeps clips of a session in one split; a person of several sessions would be in several splits."
            )
        case _:
            return (
                f"the speaker is taken as session and letter: {examples}. Correct it where a letter is no person, or "
                "where one person is in several sessions."
            )


def _agree(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    pairs = {(one[clip], name) for clip, name in other.items() if clip in one and name != clip}
    return len(pairs) == len({name for name, _ in pairs}) == len({name for _, name in pairs})


def _listed(table: TableFound, clips: Mapping[str, str]) -> People | None:
    """Return the speakers that a column of a table names; None where it has no such column."""
    column = table.person_column
    if column is None or table.key_column is None:
        return None
    named = {clip: name for clip, name in table.by_clip(column).items() if not is_missing(name)}
    known = {clip: named[clip] for clip in clips if clip in named and not NO_AGREEMENT.fullmatch(named[clip])}
    if not known or len(set(known.values())) == len(known):
        return None
    content = {"source": "table", "file": table.file, "key_column": table.key_column}
    content |= {"key_pattern": table.key_pattern} if table.key_pattern != _ANY_KEY else {}
    content |= {"speaker_column": column}
    comments = [f"Who speaks is certain: the column `{column}` of {table.file} says so."]
    if len(known) < len(clips):
        content |= {"unknown": "own"}
        count = len(clips) - len(known)
        comments.append(f"{DECIDE}{count} clips have no speaker there and count as speakers of their own.")
    return People(content, {clip: known.get(clip, clip) for clip in clips}, tuple(comments), is_certain=True)


def find_splits(layout: Layout, tables: Sequence[TableFound], people: People) -> tuple[Section, People]:
    """Take published splits as they are; draw test speakers where there are none, or where they share speakers.

    Returns:
        The card's ``splits`` but for its protocol, and the people: every clip on its own where a guess at the speaker
        contradicts published splits.
    """
    folds = next((found for table in tables if (found := _fold_table(table, people))), None)
    published = list(_published(layout, tables, people))
    if folds is not None and not published:
        return folds, people
    comments = []
    for candidate in published:
        shared = _shared(candidate.clips, people.clips)
        if shared and not people.is_certain:
            people = nobody(layout, f"{shared} is in several of the published splits, so it is no speaker")
        elif shared:
            comments.append(
                f"{DECIDE}{candidate.place} names published splits that share speakers, e.g. {shared}: not used. "
                "Scores on them would not be of unknown people."
            )
            continue
        others = (other.place for other in published if other is not candidate)
        unused = tuple(f"{DECIDE}{place} names splits too, which are not used." for place in others)
        found = _as_published(candidate, people)
        return replace(found, comments=(*comments, *found.comments, *unused)), people
    drawn = _drawn(people)
    unused = tuple(f"{DECIDE}{text}" for text in _unused_splits(layout, tables))
    return replace(drawn, comments=(*comments, *drawn.comments, *unused)), people


def _shared(splits: Mapping[str, str], speakers: Mapping[str, str]) -> str:
    """Return a speaker who is in two splits; "" where there is none."""
    first: dict[str, str] = {}
    for clip, split in splits.items():
        if first.setdefault(speakers[clip], split) != split:
            return speakers[clip]
    return ""


def _published(layout: Layout, tables: Sequence[TableFound], people: People) -> Iterator[_Published]:
    """Yield the splits that names, columns of clips and columns of speakers tell."""
    of_names = layout.splits_of_clips()
    names = splits_of(set(of_names.values()), with_others=True)
    if names:
        where = "a directory" if layout.roles.split and layout.roles.split.level else "a field"
        place = f"{where} of the names ({', '.join(sorted(names))})"
        folds = {"source": "pattern", "group": "split", "map": names}
        yield _Published(place, folds, {clip: names[text] for clip, text in of_names.items()})
    for table in tables:
        column = table.split_column
        if column is None or not (table.key_column or table.speaker_column):
            continue
        content: dict[str, Any] = {"source": "split_tables", "tables": {0: table.file}}
        if table.key_column:
            of_clips = table.by_clip(column)
            content |= {"key_column": table.key_column}
            content |= {"key_pattern": table.key_pattern} if table.key_pattern != _ANY_KEY else {}
        else:
            of_speakers = table.by_speaker(column)
            of_clips = {clip: of_speakers[name] for clip, name in people.clips.items() if name in of_speakers}
            content |= {"key": "speaker", "key_column": table.speaker_column}
        splits = {
            clip: table.split_names[of_clips[clip]] for clip in people.clips if of_clips.get(clip) in table.split_names
        }
        content |= {"split_column": column, "names": _names(table.split_names)}
        content |= {"unlisted_clips": "none"} if len(splits) < len(people.clips) else {}
        if "train" in splits.values() and len(set(splits.values())) > 1:
            yield _Published(f"the column `{column}` of {table.file}", content, splits)


def _names(splits: Mapping[str, str]) -> dict[str, Any]:
    texts = {split: [text for text, of in splits.items() if of == split] for split in splits.values()}
    return {split: found[0] if len(found) == 1 else found for split, found in sorted(texts.items())}


def _as_published(found: _Published, people: People) -> Section:
    """Return published splits as rules; what they lack is drawn, or taken from the other one with a question."""
    folds, there = dict(found.folds), set(found.clips.values())
    comments = [f"The splits are published: {found.place}."]
    outside = [text for text, split in folds.get("map", {}).items() if split == "none"]
    if outside:
        comments.append(f"{DECIDE}clips of {', '.join(outside)} are in no split.")
    if "test" not in there:
        comments.append(f"{DECIDE}no split is called test: the validation split is taken as the test split.")
        key = "map" if "map" in folds else "names"
        old = folds[key]
        if key == "map":
            folds[key] = {text: "test" if split == "validation" else split for text, split in old.items()}
        else:
            folds[key] = {"train": old["train"], "test": old["validation"]}
    if there >= {"train", "validation", "test"}:
        return Section({"folds": folds}, comments)
    if "names" in folds:
        folds["names"] = {split: text for split, text in folds["names"].items() if split != "validation"}
    training = {people.clips[clip] for clip, split in found.clips.items() if split == "train"}
    own = people.content.get("group") == "clip"
    count = max(1, len(training) // 10 if own else min(len(training) // 6, 4))
    comments.append(f"No validation split is published: {count} training {'clips' if own else 'speakers'} are drawn.")
    return Section({"folds": folds, "validation_speakers": count}, comments)


def _fold_table(table: TableFound, people: People) -> Section | None:
    """Return test folds of a table with one row per speaker, or per clip where a speaker has one fold."""
    speakers = sorted(set(people.clips.values()))
    if table.fold_column is None or not (table.speaker_column or table.key_column):
        return None
    rules: dict[str, Any]
    if table.speaker_column:
        rules = {
            "source": "table",
            "file": table.file,
            "speaker_column": table.speaker_column,
            "fold_column": table.fold_column,
            "speaker_digits": table.speaker_digits,
        }
    else:
        folds = {clip: text for clip, text in table.by_clip(table.fold_column).items() if clip in people.clips}
        if people.content.get("group") == "clip" or len(folds) < len(people.clips) or _shared(folds, people.clips):
            return None
        listed: dict[int, list[str]] = {}
        for name in speakers:
            fold = next(text for clip, text in folds.items() if people.clips[clip] == name)
            listed.setdefault(int(float(fold)), []).append(name)
        if len(listed) < 2:
            return None
        rules = {"source": "list", "test_speakers": dict(sorted(listed.items()))}
    comment = f"{DECIDE}the test speakers of each fold are those of {table.file}."
    return Section({"folds": rules, "validation_speakers": _validating(speakers)}, (comment,))


def _validating(speakers: Sequence[str]) -> int:
    return max(1, min(len(speakers) // 6, 4))


def _drawn(people: People) -> Section:
    speakers = sorted(set(people.clips.values()))
    # The people of a session talk to each other: they are tested together.
    sessions = {name: name.rpartition("_")[0] if _is_of_session(people) else name for name in speakers}
    drawn = draw_folds(sorted(set(sessions.values())))
    folds = {fold: [name for name in speakers if sessions[name] in units] for fold, units in drawn.items()}
    rules: dict[str, Any] = {"folds": {"source": "list", "test_speakers": folds}}
    listed = sum(len(names) for names in folds.values())
    rules |= {"untested_speakers": "train"} if listed < len(speakers) else {}
    rules |= {"validation_speakers": _validating(speakers)}
    comments = [f"{DECIDE}test speakers were drawn by their names alone. Take published folds where there are some."]
    if _is_of_session(people):
        comments.append("All people of a session are tested in the same fold.")
    if len(speakers) < _FEWEST_SPEAKERS:
        text = f"{len(speakers)} speakers are too few to test, validate and train on different ones."
        comments.append(DECIDE + text)
    return Section(rules, comments)


def _is_of_session(people: People) -> bool:
    group = people.content.get("group")
    return isinstance(group, list) and group[0] == "session"


def _unused_splits(layout: Layout, tables: Sequence[TableFound]) -> Iterator[str]:
    """Yield what looks like splits and could not be used."""
    by_split: dict[str, list[str]] = {}
    for column in layout.roles.columns:
        if all(split_of(text) for text in column.distinct) and column is not layout.roles.split:
            yield f"{', '.join(column.distinct)} in the names are splits, none of which is to train on; not used."
    for table in tables:
        if table.split_column is not None and not (table.key_column or table.speaker_column):
            yield f"the column `{table.split_column}` of {table.file} names splits, and its rows join with no clip."
        for title in table.mixed_splits:
            others = [text for text in dict.fromkeys(table.texts[title]) if not is_missing(text) and not split_of(text)]
            yield f"the column `{title}` of {table.file} names splits and {', '.join(others[:5])}; it is not used."
        if table.fold_column is not None:
            yield f"the column `{table.fold_column}` of {table.file} could be folds and is not used."
        by_split.setdefault(split_of(PurePosixPath(table.file).stem) or "", []).append(table.file)
    named = [file for split, files in by_split.items() if split for file in files]
    if len(by_split.keys() - {""}) > 1 and layout.roles.split is None:
        yield (
            f"{', '.join(named)} are named like published splits, which a card takes from a column of a table or from "
            "the names of the clips: put them into one table with a column of the split."
        )


def draw_folds(speakers: Sequence[str]) -> dict[int, list[str]]:
    """Deal speakers to test folds in an order that depends on their names alone.

    Five folds that test each speaker once; one fold of a quarter of them where there are fewer than ten.
    """
    by_first_letter = sorted(speakers, key=lambda name: (name[:1], hashlib.sha256(name.encode()).digest()))
    if len(speakers) >= _SPEAKERS_FOR_FIVE_FOLDS and len(speakers) <= _MOST_LISTED:
        return {fold: sorted(by_first_letter[fold::5]) for fold in range(5)}
    step = max(4, -(-len(speakers) // _MOST_LISTED))
    return {0: sorted(by_first_letter[::step])}
