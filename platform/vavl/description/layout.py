"""From fields to the patterns of a card: which run of a name is the clip, and where the groups stand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import PurePosixPath

from vavl.description.names import NameTable, Part, cut_names, digit_runs
from vavl.description.roles import Column, Place, Roles, find_roles

_FEWEST_TO_COUNT = 3
_SPECIAL = re.compile(r"([.^$*+?{}\[\]\\|()])")
_MOST_PREFIX_LETTERS = 6


@dataclass(frozen=True)
class Side:
    """One modality of a directory."""

    table: NameTable
    suffixes: tuple[str, ...]  # of its files, most frequent first

    @property
    def levels(self) -> int:
        """Directory levels and the file name."""
        return len(self.table.parts)


@dataclass(frozen=True)
class Layout:
    """How the clips of a directory are named."""

    audio: Side | None  # audio, video: the modalities at hand; the same where one file holds both
    video: Side | None
    roles: Roles
    first: int = 0  # first field of the file name that belongs to the clip
    last: int = 0  # last one, counted from the end, 0 for the last field of all
    directories: int = 0  # levels of directories that belong to the clip, because file names alone are not unique

    @property
    def lead(self) -> Side:
        """The modality that the roles were read from."""
        side = self.audio or self.video
        assert side is not None
        return side

    def groups(self) -> dict[Place, str]:
        """Return the place of every named group but the clip's and the sex's."""
        named = {column.place: name for name, column in self.roles.groups.items()}
        if self.roles.emotion is not None:
            named[self.roles.emotion.place] = "emotion"
        if self.roles.speaker is not None:
            named[self.roles.speaker.place] = "speaker"
        if self.roles.split is not None:
            named[self.roles.split.place] = "split"
        return named

    def pattern(self, side: Side) -> str:
        """Return the regular expression of one modality for a card."""
        groups, texts = self.groups(), []
        for number, part in enumerate(side.table.parts):
            level = side.levels - 1 - number
            text = self._part(part, level, groups)
            if level:
                text = f"(?:{text}/)?" if part.is_optional else f"{text}/"
            texts.append(text)
        return "".join(texts)

    def clip_pattern(self) -> str:
        """Return the group of the clip alone, for tables that name clips and no directories."""
        text = self.pattern(self.lead)
        start, depth = text.index("(?P<clip>"), 0
        for place in range(start, len(text)):
            if text[place] in "()" and text[place - 1 : place] != "\\":
                depth += 1 if text[place] == "(" else -1
            if depth == 0:
                return text[start : place + 1]
        raise AssertionError("the group of the clip is not closed")

    @property
    def sides(self) -> list[Side]:
        """The modalities at hand, audio first."""
        return [side for side in (self.audio, self.video) if side is not None]

    def matches(self, side: Side) -> Iterator[re.Match[str] | None]:
        """Yield what the pattern of one modality reads in each of its names."""
        expression = re.compile(self.pattern(side))
        return (expression.fullmatch(name.rpartition(".")[0]) for name in side.table.names)

    def clip_ids(self, side: Side) -> list[str]:
        """Return the clip ids that the pattern will read, one per name of the side."""
        return [match["clip"] if match else "" for match in self.matches(side)]

    def without_first(self, fields: int) -> Layout:
        """Return the layout whose clips begin so many fields later, as a table names them."""
        later = replace(self, first=self.first + fields)
        return later if not self.directories and all(_are_unique(later, side) for side in self.sides) else self

    def speakers_of_clips(self) -> dict[str, str]:
        """Return clip id -> speaker, over both modalities; the clip itself where no speaker is known."""
        found: dict[str, str] = {}
        for match in chain.from_iterable(map(self.matches, self.sides)):
            if match is not None:
                texts = [match[group] for group in self.roles.people]
                found.setdefault(match["clip"], "_".join(texts) if texts and all(texts) else match["clip"])
        return found

    def splits_of_clips(self) -> dict[str, str]:
        """Return clip id -> what its name calls its split; empty where no field is one."""
        if self.roles.split is None:
            return {}
        matches = chain.from_iterable(map(self.matches, self.sides))
        return {match["clip"]: match["split"] for match in matches if match is not None}

    def _part(self, part: Part, level: int, groups: Mapping[Place, str]) -> str:
        first, end = self.first, len(part.fields) - self.last
        begins_above = self.directories > 0
        text = ""
        for place, values in enumerate(part.fields):
            if level == 0 and place == first and not begins_above:
                text += escaped(part.separators[place]) if place else ""
                text += "(?P<clip>" + ("" if place else escaped(part.separators[0]))
            else:
                text += escaped(part.separators[place])
            named = groups.get(Place(level, place))
            expression = field_expression(values, is_whole=part.is_whole, splits_sex=named == "speaker")
            if part.expressions and len(set(values)) > 1 and "(?P<sex>" not in expression:
                expression = part.expressions[place]
            if not named and "|" in expression:
                expression = f"(?:{expression})"
            text += f"(?P<{named}>{expression})" if named else expression
            if level == 0 and place == end - 1 < len(part.fields) - 1:
                text += ")"
        text += escaped(part.separators[-1])
        if level == 0 and end == len(part.fields):
            text += ")"
        return "(?P<clip>" + text if begins_above and level == self.directories else text


def find_layout(audio: Sequence[str], video: Sequence[str]) -> Layout:
    """Return the layout of media files; ``audio`` is empty where the audio is inside the video files."""
    sides = [_side(names) if names else None for names in (audio, video)]
    lead = sides[0] or sides[1]
    assert lead is not None, "no media"
    layout = Layout(sides[0], sides[1], find_roles(lead.table))
    if sides[0] and sides[1]:
        layout = _joined(layout)
    return _unique(layout)


def field_expression(values: Sequence[str], *, is_whole: bool = False, splits_sex: bool = False) -> str:
    """Return a regular expression for the values of one field, as narrow as is likely to stay true."""
    distinct = sorted(set(values) - {""})
    if len(distinct) == 1:
        return escaped(distinct[0])
    if is_whole:
        return "[^/]+"
    if all(value.isdecimal() for value in distinct):
        return _digits(distinct)
    runs = [digit_runs(value) for value in distinct]
    if all(len(run) == 2 and run[1].isdecimal() for run in runs):
        letters = sorted({run[0] for run in runs})
        numbers = _digits([run[1] for run in runs])
        if splits_sex and {letter.lower() for letter in letters} <= {"f", "m", "w"} and len(letters) > 1:
            return f"(?P<sex>[{''.join(letters)}]){numbers}"
        return _letters(letters) + numbers
    if any(character.isdecimal() for value in distinct for character in value):
        return r"[^\W_]+"
    return _letters(distinct, is_listed=False)


def has_sex(values: Sequence[str]) -> bool:
    """Tell whether speakers are named by the letter of their sex and a number."""
    return "(?P<sex>" in field_expression(values, splits_sex=True)


def escaped(text: str) -> str:
    """Return a literal text for a regular expression; spaces and hyphens stay readable."""
    return _SPECIAL.sub(r"\\\1", text)


def _digits(values: Sequence[str]) -> str:
    widths = {len(value) for value in values}
    if len(widths) > 1:
        return r"\d+"
    width = widths.pop()
    return r"\d" * width if width < _FEWEST_TO_COUNT else rf"\d{{{width}}}"


def _letters(values: Sequence[str], *, is_listed: bool = True) -> str:
    if is_listed and len(values) == 1:
        return escaped(values[0])
    if is_listed and len(values) <= _MOST_PREFIX_LETTERS and all(len(value) == 1 for value in values):
        return f"[{''.join(values)}]"
    if not all(value.isascii() for value in values):
        return r"[^\W\d_]+"
    if all(value.islower() for value in values):
        return "[a-z]+"
    return "[A-Z]+" if all(value.isupper() for value in values) else "[A-Za-z]+"


def _side(names: Sequence[str]) -> Side:
    counts = Counter(PurePosixPath(name).suffix.lower() for name in names)
    return Side(cut_names(names), tuple(suffix for suffix, _ in counts.most_common()))


def _joined(layout: Layout) -> Layout:
    """Leave out of the clip what stands before or after it and differs between audio and video."""
    assert layout.audio
    assert layout.video
    audio, video = (side.table.parts[-1] for side in (layout.audio, layout.video))
    if audio.separators != video.separators:
        return _roles_for_both(layout)
    fields = list(zip(audio.fields, video.fields, strict=True))
    differing = [not set(one) & set(other) for one, other in fields]
    first = differing.index(False) if False in differing else 0
    last = differing[::-1].index(False) if False in differing else 0
    return _roles_for_both(replace(layout, first=first, last=last))


def _roles_for_both(layout: Layout) -> Layout:
    """Keep the groups that both modalities have; a speaker in a directory of one alone helps nobody."""

    def is_there(column: Column | None) -> bool:
        return column is not None and all(
            column.place.level < side.levels
            and column.place.field < len(side.table.parts[-1 - column.place.level].fields)
            for side in layout.sides
        )

    roles = layout.roles
    return replace(
        layout,
        roles=replace(
            roles,
            speaker=roles.speaker if is_there(roles.speaker) else None,
            split=roles.split if is_there(roles.split) else None,
            joint=roles.joint if all(is_there(roles.groups[name]) for name in roles.joint) else (),
            emotion=roles.emotion if is_there(roles.emotion) else None,
            groups={name: column for name, column in roles.groups.items() if is_there(column)},
        ),
    )


def _unique(layout: Layout) -> Layout:
    """Take directories into the clip until no clip is there twice."""
    for directories in range(min(side.levels for side in layout.sides)):
        wider = replace(layout, directories=directories, first=layout.first if not directories else 0)
        if all(_are_unique(wider, side) for side in layout.sides):
            return wider
    return layout


def _are_unique(layout: Layout, side: Side) -> bool:
    # One file per suffix may stand for a clip: a choice of suffix, not of the clip's name.
    suffixes = (PurePosixPath(name).suffix for name in side.table.names)
    return len(set(zip(layout.clip_ids(side), suffixes, strict=True))) == len(side.table.names)
