"""Compares the runs below a directory with what their tracking stores hold, and sends what is missing."""

from __future__ import annotations

import logging
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from vavl.config.files import make_directory, write_json
from vavl.config.load import read_yaml_mapping, validate
from vavl.config.progress import Progress
from vavl.errors import InputError, TrackingError
from vavl.tracking.holdings import Holdings, Register
from vavl.tracking.journal import JOURNAL_NAME, Journal
from vavl.tracking.mlflow_writer import MlflowWriter, one_line
from vavl.tracking.records import ReplayState, read_state, read_states, set_aside_path
from vavl.tracking.relocation import known_ids, moved_artifacts, refuse_moved, relocate
from vavl.tracking.replay import RecordReplay
from vavl.tracking.replayer import Replayer, is_followed, known_runs
from vavl.tracking.settings import TrackingSettings, TrackingTarget, tracking_place, unreachable_reason

SUMMARY_FILE = "summary.json"
_OWN_DIRECTORY = "sync"
_CONFIG_NAME = "config.yaml"
_LEVELS_ABOVE = 3
_PROBE_SECONDS = 3.0
_log = logging.getLogger(__name__)
State = Literal["lacking", "arrived", "unfinished", "left to its run", "not arrived", "refused in part"]
_WORDS: dict[State, str] = {
    "lacking": "the store lacks records of it",
    "arrived": "arrived",
    "unfinished": "unfinished: start the job again to continue",
    "left to its run": "left to the run, which is at work and replays it itself",
    "not arrived": "not arrived",
    "refused in part": "arrived but for refused records",
}


@dataclass(frozen=True)
class SyncedRun:
    """A run, what its tracking store lacks of it, and what became of that."""

    name: str  # its directory, relative to the directory that was looked through
    journal: Journal
    settings: TrackingSettings  # where its records belong
    store: str  # address of that store, without user and password
    # `lacking`: before it is sent; `unfinished`: all records arrived, the run has no end yet; `left to its run`: at
    # work, it replays itself; `refused in part`: some records can never be sent, they are set aside
    state: State = "lacking"
    sent: int = 0  # records that arrived now
    lacking: tuple[int, ...] = ()  # `seq` of the records that the store does not hold, by what it says itself
    refused: Mapping[int, str] = field(default_factory=dict)  # records that can never be sent, with the reason
    mlflow_run_id: str | None = None  # None when the store has no such run yet
    problem: str = ""  # why something did not arrive, else ""

    @property
    def missing(self) -> int:
        """Records that the store does not hold still."""
        return len(self.lacking)

    @property
    def is_failed(self) -> bool:
        """Whether the store lacks what this run gave it."""
        return self.state in ("not arrived", "refused in part")

    def with_state(self) -> SyncedRun:
        """Return the run with the state that follows from what is known of it."""
        if is_followed(self.journal.path):
            return replace(self, state="left to its run", problem="")
        if self.problem:
            return replace(self, state="not arrived")
        if self.lacking:
            return replace(self, state="lacking")
        if self.refused:
            seq, reason = next(iter(self.refused.items()))
            first = f"record {seq}: {reason}; {set_aside_path(self.journal.path)}"
            return replace(self, state="refused in part", problem=f"{len(self.refused)} records refused; {first}")
        return replace(self, state="arrived" if self.journal.end() else "unfinished")


def compare_runs(directory: Path, target: TrackingTarget) -> list[SyncedRun]:
    """Compare the journals below ``directory`` with their stores; return those that are not there whole, or not ended.

    Raises:
        InputError: there is no journal at all, a run's configuration cannot be read, or its store was moved.
    """
    paths = sorted(directory.rglob(JOURNAL_NAME))
    if not paths:
        fix = "give the directory of a run (its output_dir) or of many, e.g. runs"
        raise InputError(str(directory), "", f"holds no run: there is no {JOURNAL_NAME} in it or below", fix)
    runs = []
    for path in paths:
        settings = settings_of(path, target)
        refuse_moved(settings)
        name = path.parent.relative_to(directory).as_posix() if path.parent != directory else directory.name
        store = tracking_place(settings, os.environ).public_uri
        runs.append(SyncedRun(name, Journal(path), settings, store))
    away: dict[str, str] = {}
    compared = [_compare(run, away).with_state() for run in runs]
    return [run for run in compared if run.state != "arrived"]


def sync_runs(runs: Sequence[SyncedRun], seconds_per_run: float, register: Register) -> Iterator[SyncedRun]:
    """Send what is missing, run after run, each into its own store, and yield how each ended."""
    with Progress("records", sum(run.missing for run in runs)) as progress:
        for run in runs:
            before, after = progress.done, run
            if is_followed(run.journal.path):  # it may have started meanwhile
                after = run.with_state()
            elif run.state != "not arrived":
                after = _send(run, seconds_per_run, register, progress)
            progress.update(before + run.missing)
            progress.line(f"{after.name}: {after.sent} records sent, {_WORDS[after.state]}")
            yield after


def _send(run: SyncedRun, seconds: float, register: Register, progress: Progress) -> SyncedRun:
    before = progress.done

    def show(state: ReplayState) -> None:
        progress.update(before + bisect_right(run.lacking, state.seq))

    replayer = Replayer([run.journal], run.settings, register, show, compares=True)
    replayer.finish(seconds)
    after = _compare(run, {})
    refused = {**after.refused, **replayer.state.refused}
    lacking = tuple(seq for seq in after.lacking if seq not in refused)
    sent = len({*run.lacking} - {*after.lacking} - refused.keys())
    problem = after.problem or ((replayer.error or "the time was up") if lacking else "")
    return replace(after, lacking=lacking, refused=refused, sent=sent, problem=problem).with_state()


def _compare(run: SyncedRun, away: dict[str, str]) -> SyncedRun:
    """Ask the store what it holds of a run.

    ``away`` holds the stores that did not answer, with the reason: none is asked twice.
    """
    run, place = replace(run, refused={}, problem=""), tracking_place(run.settings, os.environ)
    everything = tuple(record.seq for record in run.journal.read())
    reason = away.get(run.store) or unreachable_reason(place, _PROBE_SECONDS)
    if reason is not None:
        away[run.store] = reason
        noted = read_state(run.journal.path, run.store)
        missing = tuple(seq for seq in everything if seq > noted.seq)
        return replace(run, lacking=missing, mlflow_run_id=noted.mlflow_run_id, problem=reason)
    if place.database is not None and not place.database.exists():
        return replace(run, lacking=everything, mlflow_run_id=None)
    try:
        writer = MlflowWriter(run.settings, place)
        start = ReplayState(mlflow_runs=known_runs(writer, read_state(run.journal.path, run.store)))
        look = RecordReplay(writer, run.journal, start, None, held=Holdings(writer.client))
        look.apply(run.journal.read())
    except Exception as error:  # noqa: BLE001  whatever MLflow raises: this store cannot say what it holds
        return replace(run, lacking=everything, problem=one_line(error))
    known = look.state.mlflow_run_id or None
    return replace(run, lacking=tuple(look.lacking), refused=look.state.refused, mlflow_run_id=known)


def settings_of(journal: Path, target: TrackingTarget) -> TrackingSettings:
    """Return the tracking settings of a run: of its configuration, of a target, or of the store that it began in.

    A run that was started with MLFLOW_TRACKING_URI does not continue in the store of a shell without it.
    """
    settings = target.applied_to(_configured(journal))
    states = read_states(journal)
    if target.uri is not None or not states or tracking_place(settings, os.environ).public_uri in states:
        return settings
    if _came_along(tracking_place(settings, os.environ).database, states.values()):
        return settings
    store = max(states, key=lambda uri: states[uri].seq)
    _log.info("%s: began in %s and continues there", journal.parent, store)
    return settings.model_copy(update={"uri": store})


def _came_along(database: Path | None, states: Iterable[ReplayState]) -> bool:
    """Tell whether a run and its SQLite store were copied or moved together: the store holds it under the same id."""
    ids = {run for state in states for run in state.mlflow_runs.values()}
    return database is not None and not ids.isdisjoint(known_ids(database))


def relocate_stores(directory: Path, target: TrackingTarget, *, is_dry: bool) -> list[str]:
    """Let the SQLite stores of a copied or moved project name the places where their artifacts are now.

    Those of the runs below ``directory`` and that of ``target`` or of this machine.

    Returns:
        A line for each place that is or would be replaced.

    Raises:
        TrackingError: a database cannot be written.
    """
    settings = [target.applied_to(TrackingSettings())]
    settings += [settings_of(path, target) for path in sorted(directory.rglob(JOURNAL_NAME))]
    databases = {tracking_place(entry, os.environ).database for entry in settings}
    lines = []
    for database in sorted(filter(None, databases)):
        moved = moved_artifacts(database) if is_dry else relocate(database)
        lines += [f"{database}: {before} -> {now}" for before, now in moved.items()]
    return lines


def _configured(journal: Path) -> TrackingSettings:
    """Return the settings that the run was started with; the runs of a comparison have those of the one above them."""
    for directory in list(journal.absolute().parents)[:_LEVELS_ABOVE]:
        for source, content in _configurations(directory):
            if isinstance(content.get("tracking"), dict):
                return validate(TrackingSettings, content["tracking"], f"{source}: tracking")
    return TrackingSettings()


def _configurations(directory: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield what says how the run of ``directory`` was started: its file, then its journal's first record."""
    file, journal = directory / _CONFIG_NAME, directory / JOURNAL_NAME
    if file.exists():
        yield file, read_yaml_mapping(file)
    start = next((record for record in Journal(journal).read() if record.kind == "run_start"), None)
    text = None if start is None else start.payload.get("config_yaml")
    try:
        content = yaml.safe_load(text) if isinstance(text, str) else None
    except yaml.YAMLError:
        content = None  # a damaged record does not say where its run belongs
    if isinstance(content, dict):
        yield journal, content


def refuse_failures(results: Iterable[SyncedRun]) -> None:
    """Make a failed job of runs that did not arrive whole.

    Raises:
        TrackingError: with the first problem.
    """
    failed = [result for result in results if result.is_failed]
    if failed:
        problem = f"{len(failed)} of the runs did not arrive whole: {failed[0].problem}"
        fix = "start the same command again when the store answers: nothing is lost, the journals have it"
        raise TrackingError(failed[0].store, failed[0].name, problem, fix)


def summary_directory(directory: Path, output_dir: Path | None) -> Path:
    """Return where the summary goes; a run's directory has a summary of its own that must stay."""
    if output_dir is not None:
        return output_dir
    return directory / _OWN_DIRECTORY if (directory / JOURNAL_NAME).exists() else directory


def write_summary(results: Sequence[SyncedRun], directory: Path) -> Path:
    """Write ``summary.json`` and return its path.

    Keys: ``complete`` (every run arrived as far as it went), ``sent`` and ``missing`` (records of all runs), ``runs``:
    ``run``, ``journal``, ``store``, ``state``, ``sent``, ``missing``, ``mlflow_run_id`` and ``problem`` of each, see
    ``SyncedRun``; runs that had arrived before are not listed.
    """
    path = make_directory(directory) / SUMMARY_FILE
    sums = {name: sum(getattr(result, name) for result in results) for name in ("sent", "missing")}
    is_complete = not any(result.is_failed for result in results)
    kept = ("store", "state", "sent", "missing", "mlflow_run_id", "problem")
    runs = [
        {"run": one.name, "journal": str(one.journal.path), **{name: getattr(one, name) for name in kept}}
        for one in results
    ]
    write_json(path, {"complete": is_complete, **sums, "runs": runs})
    return path


def print_results(results: Sequence[SyncedRun]) -> None:
    """Print a row per run."""
    # No rich table: it cuts addresses and reasons off at the width of a terminal that may not be there.
    if not results:
        print("every run has arrived already")
        return
    rows = [("run", "records sent", "missing", "store", "MLflow run", "state", "problem")]
    rows += [
        (one.name, f"{one.sent}", f"{one.missing}", one.store, one.mlflow_run_id or "", _WORDS[one.state], one.problem)
        for one in results
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
