"""Progress of a long loop: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")


def show_progress(
    items: Iterable[Item], total: int, label: str, every_s: float = 10.0, stream: TextIO | None = None
) -> Iterator[Item]:
    """Yield ``items`` and show how many of ``total`` have passed.

    Args:
        items: what is worked on; an item counts as done when the next one is asked for.
        total: number of items expected.
        label: what is going on, e.g. ``rendering clips``.
        every_s: seconds between two lines where there is no terminal.
        stream: where to write; standard error by default.
    """
    stream = stream or sys.stderr
    console = Console(file=stream)
    shown = (
        _as_bar(items, total, label, console)
        if console.is_terminal
        else _as_lines(items, total, label, every_s, stream)
    )
    yield from shown


def progress_bar(console: Console, *notes: str) -> Progress:
    """Return the bar that all long work of the platform shows.

    Args:
        console: a terminal.
        notes: names of task fields to show as text between the count and the times.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(f"{{task.fields[{note}]}}") for note in notes),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _as_bar(items: Iterable[Item], total: int, label: str, console: Console) -> Iterator[Item]:
    with progress_bar(console) as progress:
        task = progress.add_task(label, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _as_lines(
    items: Iterable[Item], total: int, label: str, every_s: float, stream: TextIO
) -> Iterator[Item]:
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= every_s and done < total:
            last = now
            left = (now - start) / done * (total - done)
            print(f"{label}: {done} of {total}, about {left:.0f} s left", file=stream, flush=True)
    print(f"{label}: {done} of {total} in {time.monotonic() - start:.1f} s", file=stream, flush=True)
