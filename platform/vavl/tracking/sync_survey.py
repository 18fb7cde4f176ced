"""Which journals below a folder lack something in their tracking store, and which store that is."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vavl.config.load import read_yaml_mapping, validate
from vavl.errors import InputError
from vavl.tracking.journal import Journal
from vavl.tracking.leftovers import JOURNAL_NAME
from vavl.tracking.replay_lock import is_followed
from vavl.tracking.replay_state import read_states
from vavl.tracking.settings import TrackingSettings, TrackingTarget, tracking_place

_TAIL_BYTES = 64 * 1024
_CONFIG_NAME = "config.yaml"
_LEVELS_ABOVE = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Waiting:
    """A journal and what its tracking store lacks of it.

    Attributes:
        journal: its file.
        name: folder of the run, relative to the folder that was looked through.
        settings: where its records belong.
        store: address of that store, without user and password.
        missing: records that the store does not hold.
        is_ended: False when the run goes on, or its process died before its end.
        is_followed: a living run replays it itself.
    """

    journal: Path
    name: str
    settings: TrackingSettings
    store: str
    missing: int
    is_ended: bool
    is_followed: bool


def waiting_journals(folder: Path, target: TrackingTarget) -> list[Waiting]:
    """Return the journals below ``folder`` that are not ended, or not in their store to the end.

    Args:
        folder: of one run or of many.
        target: replaces the store that a run was started with.

    Raises:
        InputError: there is no journal at all, or a run's configuration cannot be read.
    """
    journals = sorted(folder.rglob(JOURNAL_NAME))
    if not journals:
        raise InputError(
            str(folder), "", f"holds no run: there is no {JOURNAL_NAME} in it or below",
            "give the folder of a run (its output_dir) or of many, e.g. runs",
        )  # fmt: skip
    found = [_waiting(path, folder, target) for path in journals]
    return [entry for entry in found if entry.missing or not entry.is_ended]


def _waiting(journal: Path, folder: Path, target: TrackingTarget) -> Waiting:
    settings = target.applied_to(_settings_of(journal))
    if target.uri is None:
        settings = _where_it_began(journal, settings)
    store = tracking_place(settings, os.environ).public_uri
    state = read_states(journal).get(store)
    after, offset = (state.seq, state.offset) if state else (0, 0)
    return Waiting(
        journal=journal,
        name=journal.parent.relative_to(folder).as_posix() if journal.parent != folder else folder.name,
        settings=settings,
        store=store,
        missing=sum(1 for _ in Journal(journal).read(after, offset)),
        is_ended=_is_ended(journal),
        is_followed=is_followed(journal),
    )


def _settings_of(journal: Path) -> TrackingSettings:
    """Return the tracking settings that the run was started with.

    The trainings of a comparison have those of the comparison, which lies above them.
    """
    for folder in list(journal.absolute().parents)[:_LEVELS_ABOVE]:
        for source, content in _configurations(folder):
            if isinstance(content.get("tracking"), dict):
                return validate(TrackingSettings, content["tracking"], f"{source}: tracking")
    return TrackingSettings()


def _configurations(folder: Path) -> list[tuple[Path, Mapping[str, Any]]]:
    """Return what tells how the run of ``folder`` was set up: its file, else its journal's first record."""
    file, journal = folder / _CONFIG_NAME, folder / JOURNAL_NAME
    found: list[tuple[Path, Mapping[str, Any]]] = []
    if file.exists():
        found.append((file, read_yaml_mapping(file)))
    start = next((record for record in Journal(journal).read() if record.kind == "run_start"), None)
    if start is not None and start.payload.get("config_yaml"):
        content = yaml.safe_load(start.payload["config_yaml"])
        found.append((journal, content if isinstance(content, dict) else {}))
    return found


def _where_it_began(journal: Path, settings: TrackingSettings) -> TrackingSettings:
    """Return the settings with the store that the journal began in, if that is another one than today's.

    A run that was started with MLFLOW_TRACKING_URI does not go on in the store of a shell without it.
    """
    today = tracking_place(settings, os.environ).public_uri
    states = read_states(journal)
    if not states or today in states:
        return settings
    store = max(states, key=lambda uri: states[uri].seq)
    _log.info("%s: began in %s and goes on there", journal.parent, store)
    return settings.model_copy(update={"uri": store})


def _is_ended(journal: Path) -> bool:
    """Tell whether the last of a run's own records is its end; measurements of the machine do not count."""
    last = ""
    for record in Journal(journal).read(offset=_line_start(journal, _TAIL_BYTES)):
        if record.kind in ("run_start", "step", "epoch", "run_end"):
            last = record.kind
    return last == "run_end"


def _line_start(path: Path, tail_bytes: int) -> int:
    """Return the start of the first line within the last ``tail_bytes`` of a file."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size <= tail_bytes:
            return 0
        file.seek(size - tail_bytes)
        file.readline()
        return file.tell()
