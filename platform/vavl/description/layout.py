"""From fields to the patterns of a card: which run of a name is the clip, and where the groups stand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import PurePosixPath

from vavl.description.names import Field, Names, Part, Place, cut_names, digit_runs
from vavl.description.roles import Roles, find_roles

_FEWEST_TO_COUNT = 3
_SPECIAL = re.compile(r"([.^$*+?{}\[\]\\|()])")
_MOST_PREFIX_LETTERS = 6


@dataclass(frozen=True)
class Layout:
    """How the clips of a directory are named."""

    audio: Names | None  # audio, video: the modalities at hand; the same where one file holds both
    video: Names | None
    roles: Roles
    first: int = 0  # first field of the file name that belongs to the clip
    last: int = 0  # last one, counted from the end, 0 for the last field of all
    directories: int = 0  # levels of directories that belong to the clip, because file names alone are not unique

    @property
    def modalities(self) -> list[Names]:
        """Those at hand, audio first."""
        return [names for names in (self.audio, self.video) if names is not None]

    @property
    def lead(self) -> Names:
        """The modality that the roles were read from."""
        return self.modalities[0]

    def groups(self) -> dict[Place, str]:
        """Return the place of every named group but the clip's and the sex's."""
        roles = self.roles
        named = {column.place: name for name, column in roles.groups.items()}
        chosen = {"emotion": roles.emotion, "speaker": roles.speaker, "split": roles.split}
        return named | {column.place: name for name, column in chosen.items() if column is not None}

    def pattern(self, names: Names) -> str:
        """Return the regular expression of one modality for a card."""
        groups, texts = self.groups(), []
        for number, part in enumerate(names.parts):
            level = len(names.parts) - 1 - number
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

    def matches(self, names: Names) -> Iterator[re.Match[str] | None]:
        """Yield what the pattern of one modality reads in each of its names."""
        expression = re.compile(self.pattern(names))
        return (expression.fullmatch(name.rpartition(".")[0]) for name in names.names)

    def clip_ids(self, names: Names) -> list[str]:
        """Return the clip ids that the pattern will read, one per name."""
        return [match["clip"] if match else "" for match in self.matches(names)]

    def without_first(self, fields: int) -> Layout:
        """Return the layout whose clips begin so many fields later, as a table names them."""
        later = replace(self, first=self.first + fields)
        return later if not self.directories and later.is_unique else self

    @property
    def is_unique(self) -> bool:
        """Tell whether no clip is there twice; one file per suffix may stand for it."""
        return all(
            len(set(zip(self.clip_ids(one), map(_suffix, one.names), strict=True))) == len(one.names)
            for one in self.modalities
        )

    def speakers_of_clips(self) -> dict[str, str]:
        """Return clip id -> speaker, over both modalities; the clip itself where no speaker is known."""
        found: dict[str, str] = {}
        for match in chain.from_iterable(map(self.matches, self.modalities)):
            if match is not None:
                texts = [match[group] for group in self.roles.people]
                found.setdefault(match["clip"], "_".join(texts) if texts and all(texts) else match["clip"])
        return found

    def splits_of_clips(self) -> dict[str, str]:
        """Return clip id -> what its name calls its split; empty where no field is one."""
        if self.roles.split is None:
            return {}
        matches = chain.from_iterable(map(self.matches, self.modalities))
        return {match["clip"]: match["split"] for match in matches if match is not None}

    def _part(self, part: Part, level: int, groups: Mapping[Place, str]) -> str:
        """Return the expression of one level; the clip begins and ends at fields of the file name, or above it."""
        end = len(part.fields) - self.last
        text = ""
        for one in part.fields:
            mark = escaped(one.before)
            if level == 0 and one.number == self.first and not self.directories:
                mark = f"{mark}(?P<clip>" if one.number else f"(?P<clip>{mark}"
            named = groups.get(one.place)
            expression = field_expression(one.values, is_whole=part.is_whole, splits_sex=named == "speaker")
            if one.expression and len(one.distinct) > 1 and "(?P<sex>" not in expression:
                expression = one.expression
            if not named and "|" in expression:
                expression = f"(?:{expression})"
            text += mark + (f"(?P<{named}>{expression})" if named else expression)
            if level == 0 and one.number == end - 1 < len(part.fields) - 1:
                text += ")"
        text += escaped(part.after)
        if level == 0 and end == len(part.fields):
            text += ")"
        return "(?P<clip>" + text if self.directories and level == self.directories else text


def find_layout(audio: Sequence[str], video: Sequence[str]) -> Layout:
    """Return the layout of media files; ``audio`` is empty where the audio is inside the video files."""
    found = [cut_names(names) if names else None for names in (audio, video)]
    lead = found[0] or found[1]
    assert lead is not None, "no media"
    layout = Layout(found[0], found[1], find_roles(lead))
    if len(layout.modalities) > 1:
        layout = _joined(layout)
    # Directories belong to the clip until none is there twice.
    wider = (
        replace(layout, directories=directories, first=layout.first if not directories else 0)
        for directories in range(min(len(names.parts) for names in layout.modalities))
    )
    return next((one for one in wider if one.is_unique), layout)


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


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix


def _joined(layout: Layout) -> Layout:
    """Leave out of the clip what stands before or after it and differs between audio and video."""
    audio, video = (names.parts[-1] for names in layout.modalities)
    shared = _roles_for_both(layout)
    if [one.before for one in audio.fields] + [audio.after] != [one.before for one in video.fields] + [video.after]:
        return shared
    pairs = zip(audio.fields, video.fields, strict=True)
    differing = [not set(one.values) & set(other.values) for one, other in pairs]
    first = differing.index(False) if False in differing else 0
    last = differing[::-1].index(False) if False in differing else 0
    return replace(shared, first=first, last=last)


def _roles_for_both(layout: Layout) -> Layout:
    """Keep the groups that both modalities have; a speaker in a directory of one alone helps nobody."""

    def known(column: Field | None) -> Field | None:
        parts = [names.level(column.level) for names in layout.modalities] if column is not None else [None]
        is_there = all(part is not None and column and column.number < len(part.fields) for part in parts)
        return column if is_there else None

    roles = layout.roles
    shared = replace(
        roles,
        speaker=known(roles.speaker),
        split=known(roles.split),
        joint=roles.joint if all(known(roles.groups[name]) for name in roles.joint) else (),
        emotion=known(roles.emotion),
        groups={name: column for name, column in roles.groups.items() if known(column)},
    )
    return replace(layout, roles=shared)
