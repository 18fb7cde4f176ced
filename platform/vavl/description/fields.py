"""The fields of file names: folders and file names cut at what is no letter and no digit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

_FIELD = re.compile(r"[^\W_]+")
# A folder level or file name is cut into fields where so many agree on the marks between them.
_AGREEING_SHARE = 0.9
_LEAST_RUNS = 3


@dataclass(frozen=True)
class Part:
    """One folder level of the names, or the file name without its suffix.

    Attributes:
        separators: before, between and after the fields.
        fields: one tuple of values per field, one value per name; "" where an optional level is absent.
        is_whole: the level is not cut: its one field is all of it.
        is_optional: some names lack this level.
    """

    separators: tuple[str, ...]
    fields: tuple[tuple[str, ...], ...]
    is_whole: bool = False
    is_optional: bool = False


@dataclass(frozen=True)
class NameTable:
    """Names of one modality as a table.

    Attributes:
        names: those that fit the parts, with their suffix.
        parts: from the outermost folder to the file name.
        strangers: names that do not fit.
    """

    names: tuple[str, ...]
    parts: tuple[Part, ...]
    strangers: tuple[str, ...]


def cut_names(names: Sequence[str]) -> NameTable:
    """Cut names (relative paths) into the parts and fields that most of them share."""
    levels = {name: name.rpartition(".")[0].split("/") for name in names}
    depth = Counter(len(parts) for parts in levels.values()).most_common(1)[0][0]
    shapes = _common_shapes([parts for parts in levels.values() if len(parts) == depth])
    optional = _optional_level([parts for parts in levels.values() if len(parts) == depth - 1], shapes)
    rows: dict[str, list[str]] = {}
    for name, parts in levels.items():
        full = parts
        if optional is not None and len(parts) == depth - 1:
            full = [*parts[:optional], "", *parts[optional:]]
        if len(full) == depth and _fits(full, shapes, optional):
            rows[name] = full
    columns = list(zip(*rows.values(), strict=True))
    cut = tuple(_part(columns[level], shapes[level], is_optional=level == optional) for level in range(depth))
    strangers = tuple(name for name in names if name not in rows)
    return NameTable(tuple(rows), cut, strangers)


def digit_runs(value: str) -> tuple[str, ...]:
    """Return the runs of digits and of other characters in ``value``."""
    return tuple("".join(run) for _, run in groupby(value, key=str.isdecimal))


def _common_shapes(names: Sequence[Sequence[str]]) -> list[tuple[str, ...] | None]:
    """Return per level the marks between the fields that nearly all share; None where they differ."""
    shapes: list[tuple[str, ...] | None] = []
    for level in zip(*names, strict=True):
        shape, count = Counter(_separators(text) for text in level).most_common(1)[0]
        is_cut = count >= _AGREEING_SHARE * len(level) and len(shape) > 1
        shapes.append(shape if is_cut else None)
    return shapes


def _separators(text: str) -> tuple[str, ...]:
    return tuple(_FIELD.split(text))


def _fits(parts: Sequence[str], shapes: Sequence[tuple[str, ...] | None], optional: int | None) -> bool:
    return all(
        (level == optional and not text) or shape is None or _separators(text) == shape
        for level, (text, shape) in enumerate(zip(parts, shapes, strict=True))
    )


def _optional_level(shorter: Sequence[Sequence[str]], shapes: Sequence[tuple[str, ...] | None]) -> int | None:
    """Return the folder level that names with one level less lack; None where no level explains them."""
    if not shorter:
        return None
    fitting = {
        level: sum(_fits([*parts[:level], "", *parts[level:]], shapes, level) for parts in shorter)
        for level in range(len(shapes) - 1)
    }
    best = max(fitting, key=lambda level: fitting[level], default=None)
    return best if best is not None and fitting[best] >= _AGREEING_SHARE * len(shorter) else None


def _part(level: Sequence[str], shape: tuple[str, ...] | None, *, is_optional: bool) -> Part:
    if shape is None:
        return Part(("", ""), (tuple(level),), is_whole=True, is_optional=is_optional)
    found = [_FIELD.findall(text) or [""] * (len(shape) - 1) for text in level]
    part = Part(shape, tuple(zip(*found, strict=True)), is_optional=is_optional)
    return _without_long_runs(part)


def _without_long_runs(part: Part) -> Part:
    """Cut fields such as 03a01Fa further, where digits and letters take turns alike in all names."""
    separators: list[str] = [part.separators[0]]
    fields: list[tuple[str, ...]] = []
    for field, after in zip(part.fields, part.separators[1:], strict=True):
        runs = [digit_runs(value) for value in field]
        shapes = {tuple((run.isdecimal(), len(run)) for run in value) for value in runs}
        if len(shapes) == 1 and len(runs[0]) >= _LEAST_RUNS:
            fields += list(zip(*runs, strict=True))
            separators += [""] * (len(runs[0]) - 1)
        else:
            fields.append(field)
        separators.append(after)
    return replace(part, separators=tuple(separators), fields=tuple(fields))
