"""Brings what is missing of runs into their tracking stores, run after run, and says how that went."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from vavl.config.files import make_folder, write_json
from vavl.config.progress import Progress
from vavl.errors import TrackingError
from vavl.tracking.journal import Journal
from vavl.tracking.leftovers import JOURNAL_NAME
from vavl.tracking.model_note import Register
from vavl.tracking.reachable import unreachable_reason
from vavl.tracking.replay import Replay
from vavl.tracking.replay_state import ReplayState, read_state
from vavl.tracking.sync_survey import Waiting

SUMMARY_FILE = "summary.json"
_OWN_FOLDER = "sync"
_PROBE_SECONDS = 3.0
State = Literal["arrived", "unfinished", "left to its run", "not arrived", "refused in part"]
_WORDS: dict[State, str] = {
    "arrived": "arrived",
    "unfinished": "unfinished: start the job again to continue",
    "left to its run": "left to the run, which is at work and replays it itself",
    "not arrived": "not arrived",
    "refused in part": "arrived but for refused records",
}


@dataclass(frozen=True)
class Synced:
    """What became of one run.

    Attributes:
        run: its folder, relative to the folder that was looked through.
        journal: its journal.
        store: the tracking store, without user and password.
        state: ``arrived``; ``unfinished`` (all records arrived, the run has no end yet); ``left to its
            run`` (at work, it replays itself); ``not arrived``; ``refused in part`` (the store never
            takes some records).
        sent: records that arrived now.
        missing: records that the store does not hold still.
        mlflow_run_id: None when the store has no such run yet.
        problem: why something did not arrive, else "".
    """

    run: str
    journal: str
    store: str
    state: State
    sent: int
    missing: int
    mlflow_run_id: str | None
    problem: str = ""

    @property
    def is_failed(self) -> bool:
        """Whether the store lacks what this run gave it."""
        return self.state in ("not arrived", "refused in part")


def sync_runs(waiting: Sequence[Waiting], seconds_per_run: float, register: Register) -> Iterator[Synced]:
    """Replay the journals one after the other, each into its own store, and yield how each ended.

    Args:
        waiting: the journals.
        seconds_per_run: longest time for one of them.
        register: what registers a model that a journal records.
    """
    with Progress("records", sum(entry.missing for entry in waiting if not entry.is_followed)) as progress:
        for entry in waiting:
            if entry.is_followed:
                result = _left_alone(entry)
            else:
                before = progress.done
                result = _sync(entry, seconds_per_run, progress, register)
                progress.update(before + min(entry.missing, result.sent))
            progress.line(f"{result.run}: {result.sent} records sent, {_WORDS[result.state]}")
            yield result


def refuse_failures(results: Iterable[Synced]) -> None:
    """Make a failed job of runs that did not arrive whole.

    Raises:
        TrackingError: with the first problem.
    """
    failed = [result for result in results if result.is_failed]
    if failed:
        raise TrackingError(
            failed[0].store, failed[0].run, f"{len(failed)} of the runs did not arrive whole: {failed[0].problem}",
            "nothing is lost, the journals have it; start the same command again when the store answers",
        )  # fmt: skip


def summary_folder(folder: Path, output_dir: Path | None) -> Path:
    """Return where the summary goes; a run's folder has a summary of its own that must stay."""
    if output_dir is not None:
        return output_dir
    return folder / _OWN_FOLDER if (folder / JOURNAL_NAME).exists() else folder


def write_summary(results: Sequence[Synced], folder: Path) -> Path:
    """Write ``summary.json`` and return its path.

    Keys: ``complete`` (every run arrived as far as it went), ``sent`` and ``missing`` (records of all
    runs), ``runs`` (list with the attributes of ``Synced``; runs that had arrived before are not listed).
    """
    path = make_folder(folder) / SUMMARY_FILE
    content = {
        "complete": not any(result.is_failed for result in results),
        "sent": sum(result.sent for result in results),
        "missing": sum(result.missing for result in results),
        "runs": [asdict(result) for result in results],
    }
    write_json(path, content)
    return path


def print_results(results: Sequence[Synced]) -> None:
    """Print a row per run."""
    rows = [
        (result.run, str(result.sent), result.mlflow_run_id or "", _WORDS[result.state], result.problem)
        for result in results
    ]
    _print(("run", "records sent", "MLflow run", "state", "problem"), rows, "every run has arrived already")


def print_waiting(waiting: Sequence[Waiting]) -> None:
    """Print what is missing, a row per run."""
    rows = []
    for entry in waiting:
        notes = {
            "at work, replays itself": entry.is_followed,
            "unfinished": not entry.is_ended and not entry.is_followed,
        }
        note = ", ".join(note for note, applies in notes.items() if applies)
        rows.append((entry.name, str(entry.missing), entry.store, note))
    _print(("run", "records missing", "store", ""), rows, "nothing is missing")


def _print(header: Sequence[str], rows: Sequence[Sequence[str]], if_none: str) -> None:
    # No rich table: it cuts addresses and reasons off at the width of a terminal that may not be there.
    if not rows:
        print(if_none)
        return
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _sync(entry: Waiting, seconds: float, progress: Progress, register: Register) -> Synced:
    journal, before = Journal(entry.journal), read_state(entry.journal, entry.store)
    done = progress.done

    def show(state: ReplayState) -> None:
        progress.update(done + max(0, state.seq - before.seq))

    replay = Replay(journal, entry.settings, register, show)
    reason = unreachable_reason(replay.place, _PROBE_SECONDS)
    if reason is None:
        replay.finish(seconds)
    after = replay.state
    missing = sum(1 for _ in journal.read(after.seq, after.offset))
    state, problem = _judged(entry, after, missing, reason or replay.fault)
    return Synced(
        run=entry.name,
        journal=str(entry.journal),
        store=entry.store,
        state=state,
        sent=max(0, after.seq - before.seq),
        missing=missing,
        mlflow_run_id=after.mlflow_run_id,
        problem=problem,
    )


def _judged(entry: Waiting, after: ReplayState, missing: int, fault: str) -> tuple[State, str]:
    if missing:
        return "not arrived", fault or "the time was up"
    if after.refused:
        seq, reason = next(iter(after.refused.items()))
        return "refused in part", f"{len(after.refused)} records refused; record {seq}: {reason}"
    return ("arrived" if entry.is_ended else "unfinished"), ""


def _left_alone(entry: Waiting) -> Synced:
    known = read_state(entry.journal, entry.store).mlflow_run_id
    return Synced(
        entry.name, str(entry.journal), entry.store, "left to its run", 0, entry.missing, known,
    )  # fmt: skip
