"""Pages that need nothing but themselves: one HTML file, style and pictures inside, no outside address."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vavl.config.files import write_text
from vavl.reports.pictures import Picture, svg_of
from vavl.reports.theme import LIGHT

_STYLE = Path(__file__).with_name("page.css")


@dataclass(frozen=True)
class Html:
    """Text that is HTML already; every other text is escaped on its way into a page."""

    text: str


@dataclass(frozen=True)
class Tile:
    """A number that matters, large.

    Attributes:
        value: as it is to be read.
        label: what it is.
        colour: name of a colour of the style sheet, e.g. ``audio``.
    """

    value: str
    label: str
    colour: str = "other"


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart; ``percent`` is its length, ``note`` a second line under the label."""

    label: str
    percent: float
    colour: str = "other"
    note: str = ""


def page(title: str, subtitle: str, parts: Iterable[Html]) -> str:
    """Return a whole page made of ``parts``, in their order."""
    style = _STYLE.read_text(encoding="utf-8")
    body = "\n".join(part.text for part in parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escaped(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{_escaped(title)}</h1>\n<p class="subtitle">{_escaped(subtitle)}</p>\n{body}\n</main>\n</body>\n</html>\n'
    )


def write_page(path: Path, title: str, subtitle: str, parts: Iterable[Html]) -> Path:
    """Write a page, whole or not at all, and return its path."""
    write_text(path, page(title, subtitle, parts))
    return path


def section(title: str, *parts: Html, note: str = "") -> Html:
    """Return a titled box around ``parts``."""
    inside = "\n".join(part.text for part in parts)
    foot = f'\n<p class="note">{_escaped(note)}</p>' if note else ""
    return Html(f"<section>\n<h2>{_escaped(title)}</h2>\n{inside}{foot}\n</section>")


def mark(title: str, text: str) -> Html:
    """Return a box that cannot be overlooked: something that changes what the numbers mean."""
    return Html(
        f'<section class="mark" role="note"><strong>{_escaped(title)}</strong><p>{_escaped(text)}</p></section>'
    )


def speaker_normalisation_mark() -> Html:
    """Return the box of every report whose features were normalised per speaker."""
    return mark(
        "Features are normalised per speaker",
        "The statistics come from unlabelled clips of each speaker, test speakers included. These scores "
        "do not compare with scores without per-speaker normalisation.",
    )


def waived_audit_mark(checks: Sequence[str]) -> Html:
    """Return the box of every report of a training that was allowed although its data failed an audit."""
    return mark(
        f"Checks of the audit were waived: {', '.join(checks)}",
        "The data may hold what these checks look for, leaks between the splits among them: see audit.html "
        "beside the feature store. Such scores may be too high.",
    )


def columns(*sections: Html) -> Html:
    """Return boxes side by side where the screen is wide enough."""
    return Html('<div class="columns">\n' + "\n".join(part.text for part in sections) + "\n</div>")


def tiles(entries: Sequence[Tile]) -> Html:
    """Return a row of large numbers."""
    boxes = "\n".join(
        f'<div class="tile" style="--color: var(--{_escaped(entry.colour)})">'
        f"<b>{_escaped(entry.value)}</b><span>{_escaped(entry.label)}</span></div>"
        for entry in entries
    )
    return Html(f'<section class="tiles">\n{boxes}\n</section>')


def table(header: Sequence[str | Html], rows: Iterable[Sequence[Any]]) -> Html:
    """Return a table; a row of one cell heads the rows below it."""
    head = "".join(f"<th>{_escaped(cell)}</th>" for cell in header)
    body = "\n".join(_row(row, len(header)) for row in rows)
    return Html(
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def with_small(text: str, below: str) -> Html:
    """Return a table cell with a second line in small letters."""
    return Html(f"{_escaped(text)}<small>{_escaped(below)}</small>")


def prose(text: str, below: str = "") -> Html:
    """Return a table cell of words, which may break its lines, with a second text in small letters."""
    small = f"<small>{_escaped(below)}</small>" if below else ""
    return Html(f'<div class="prose">{_escaped(text)}{small}</div>')


def facts(entries: Mapping[str, Any]) -> Html:
    """Return names with their values."""
    lines = "\n".join(
        f"<dt>{_escaped(name)}</dt><dd>{_escaped(value)}</dd>" for name, value in entries.items()
    )
    return Html(f"<dl>\n{lines}\n</dl>")


def bars(entries: Sequence[Bar]) -> Html:
    """Return a bar chart of percentages that needs no picture."""
    return Html('<div class="bars">\n' + "\n".join(_bar(entry) for entry in entries) + "\n</div>")


def pictures(entries: Sequence[Picture], *, large: bool = False) -> Html:
    """Return pictures, light on dark screens too; ``large`` ones take the whole width."""
    kind = "plots large" if large else "plots"
    return Html(f'<div class="{kind}">\n' + "\n".join(_figure(entry) for entry in entries) + "\n</div>")


def paragraphs(texts: Iterable[str]) -> Html:
    """Return texts, one paragraph each."""
    return Html("\n".join(f"<p>{_escaped(text)}</p>" for text in texts))


def _row(cells: Sequence[Any], width: int) -> str:
    if len(cells) == 1:
        return f'<tr class="group"><td colspan="{width}">{_escaped(cells[0])}</td></tr>'
    return "<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in cells) + "</tr>"


def _bar(entry: Bar) -> str:
    note = f"<small>{_escaped(entry.note)}</small>" if entry.note else ""
    # A bar of 100 % leaves room for its number.
    length = f"calc({max(0.0, min(100.0, entry.percent)):.2f}% * .86)"
    return (
        f'<div>{_escaped(entry.label)}{note}</div><div class="bar" style="--color: var(--{_escaped(entry.colour)})">'
        f'<i style="width: {length}"></i><b>{entry.percent:.1f}</b></div>'
    )


def _figure(picture: Picture) -> str:
    drawn = _data_address(svg_of(picture.draw(LIGHT)))
    return (
        f'<figure><img src="{drawn}" alt="{_escaped(picture.description)}">'
        f"<figcaption>{_escaped(picture.caption)}</figcaption></figure>"
    )


def _data_address(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _escaped(value: Any) -> str:
    return value.text if isinstance(value, Html) else html.escape(str(value))
