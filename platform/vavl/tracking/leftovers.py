"""Runs that ended while the tracking store was away: their journals are replayed at the next start."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from vavl.tracking.journal import Journal
from vavl.tracking.model_note import Register
from vavl.tracking.replay import Replay
from vavl.tracking.replay_state import ReplayState, read_states
from vavl.tracking.settings import TrackingSettings, tracking_place

JOURNAL_NAME = "journal.jsonl"
_SECONDS_PER_RUN = 600.0
_log = logging.getLogger(__name__)


def unfinished_journals(folder: Path, settings: TrackingSettings) -> Iterator[Path]:
    """Yield the journals below ``folder`` that the tracking store does not hold to their end.

    A journal that another store holds completely counts as finished: it belongs there.
    """
    public_uri = tracking_place(settings, os.environ).public_uri
    for path in sorted(folder.rglob(JOURNAL_NAME)):
        states = read_states(path)
        reached = states.get(public_uri) or max(
            states.values(), key=lambda state: state.seq, default=ReplayState()
        )
        if next(Journal(path).read(reached.seq, reached.offset), None) is not None:
            yield path


def replay_leftovers(folder: Path, settings: TrackingSettings, register: Register) -> threading.Thread | None:
    """Replay unfinished journals below ``folder`` in the background, one after the other.

    Returns:
        The thread at work, None when nothing is left over. It ends with the process; what it has
        not reached by then stays for the next start.
    """
    paths = list(unfinished_journals(folder, settings))
    if not paths:
        return None
    thread = threading.Thread(
        target=_replay_all, args=(paths, settings, register), name="mlflow-leftovers", daemon=True
    )
    thread.start()
    return thread


def _replay_all(paths: Sequence[Path], settings: TrackingSettings, register: Register) -> None:
    for path in paths:
        if not Replay(Journal(path), settings, register).finish(_SECONDS_PER_RUN):
            return  # the store is still away; the others would fail as well
        _log.info("%s: replayed a run that ended while MLflow was away", path)
