"""The directory of a run as its driver sees it: who it belongs to, and what happens to an earlier run in it.

    run.json, config.yaml, journal.jsonl ...   the driver's
    best/, predictions/, outcome.json ...      the workers'
    checkpoints/                               the workers', for a run that resumes
    lock.json                                  of the driver that is at work (driver_lock.py)
    earlier/<run id>/                          former runs

The driver of a run at an address works on a copy of its own files, published as they change. The address is the truth:
a run may resume on another machine. Every publication ends with a new ``revision`` in run.json, by which a machine sees
whether another one has published since.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import logging
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vavl.config.files import make_directory, read_json, write_json
from vavl.config.load import save_config
from vavl.config.places import CACHE_VARIABLE
from vavl.errors import ConfigError, InputError, VavlError
from vavl.store.store import read_content
from vavl.store.store_cache import local_store, run_cache_directory
from vavl.store.store_versions import LATEST, pinned_store, split_version
from vavl.training.driver_lock import LOCK_FILE
from vavl.training.settings import TrainingPlan
from vavl.training.storage import RunStorage

RUN_FILE = "run.json"
EARLIER_DIRECTORY = "earlier"
OUTCOME_FILE = "outcome.json"
RESULTS = ("best", OUTCOME_FILE, "partitions.csv", "predictions", "pseudo_labels.parquet")
"""What the workers leave for people; they write it to the address themselves."""
_WORK = ("checkpoints", "stop.json")
_RECORD_FIELDS = ("run_id", "config_hash", "state")
_RUN_ID = re.compile(r"\w[\w.-]*")  # former runs lie in directories of that name
_NOT_IN_NAMES = re.compile(r"[^\w.-]")
_PAUSE_SECONDS = 5.0
# A long journal is sent whole: most of the time is not for this.
_LEAST_PAUSE_PER_SECOND = 20.0

Plan = TypeVar("Plan", bound=TrainingPlan)
_log = logging.getLogger(__name__)


class RunDirectory:
    """An output directory that belongs to one run; ``claim_run_directory`` makes it.

    Args:
        output_dir: a directory, or an address.

    Attributes:
        path: the directory on this machine; for an address a working copy, without checkpoints.
        run_id: of the run, e.g. ``20260301-142233-9f3a``.
        is_resumed: True when an unfinished run of the same configuration is resumed.

    Raises:
        InputError, StoreError: the address has no driver here, or cannot be read or written; so do the methods.
    """

    def __init__(self, output_dir: Path | str) -> None:
        self.run_id, self.is_resumed = "", False
        self.storage = RunStorage(output_dir)
        self._sent: dict[str, tuple[int, int]] = {}
        if self.storage.is_remote:
            address = str(output_dir)
            name = _NOT_IN_NAMES.sub("_", address.rstrip("/").rpartition("/")[2])
            digest = hashlib.sha256(address.encode()).hexdigest()[:12]
            self.path = make_directory(run_cache_directory() / f"{name}-{digest}", setting=CACHE_VARIABLE)
        else:
            self.path = make_directory(Path(output_dir))

    def refresh(self) -> None:
        """Fetch the driver's files from an address, unless this machine was the last to publish."""
        if not self.storage.is_remote:
            return
        there, here = read_record(self.storage.address), read_record(self.path)
        revision = (there or {}).get("revision")
        if revision is not None and revision == (here or {}).get("revision"):
            return
        for item in self.path.iterdir():
            if item.name != EARLIER_DIRECTORY:
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        if there is not None:
            self.storage.fetch(self._published(without=(*RESULTS, *_WORK)), self.path)

    def put_aside(self, run_id: str) -> None:
        """Move what is there of a run to ``earlier/<run id>``; at an address its checkpoints are removed."""
        if self.storage.is_remote:
            for name in _WORK:
                self.storage.remove(name)
            # run.json goes last: what was interrupted is continued by the next start.
            for name in sorted(self._published(), key=lambda name: (name == RUN_FILE, name)):
                self.storage.move(name, f"{EARLIER_DIRECTORY}/{run_id}/{name}")
        put_aside(self.path, run_id)

    def begin(self, plan: TrainingPlan) -> None:
        """Write down that the directory belongs to a new run."""
        now = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
        self.run_id = f"{now}-{secrets.token_hex(2)}"
        save_config(plan, self.path / "config.yaml")
        content = {"config_hash": plan.config_hash, "state": "running", "store": str(plan.data.store)}
        write_json(self.path / RUN_FILE, {"run_id": self.run_id, **content})
        self.publish()

    def publish(self) -> None:
        """Send the files that have changed; nothing is to do for a directory."""
        if not self.storage.is_remote:
            return
        marks = {name: self._mark(name) for name in self._files()}
        changed = sorted(name for name, mark in marks.items() if self._sent.get(name) != mark)
        if not changed:
            return
        with tempfile.TemporaryDirectory(prefix="vavl-publish-") as directory:
            # journal.jsonl.replayed.json says how far the journal was replayed: it is copied before the journal
            # and sent after it, so that it never counts records that the other one lacks.
            copies = {name: Path(directory, name.replace("/", "__")) for name in changed if name != RUN_FILE}
            for name, copied in reversed(copies.items()):
                shutil.copyfile(self.path / name, copied)
            for name, copied in copies.items():
                self.storage.put(copied, name)
        record = {**read_json(self.path / RUN_FILE), "revision": secrets.token_hex(8)}
        write_json(self.path / RUN_FILE, record)
        self.storage.write(RUN_FILE, (self.path / RUN_FILE).read_bytes())
        self._sent = {**marks, RUN_FILE: self._mark(RUN_FILE)}

    @contextlib.contextmanager
    def publishing(self) -> Iterator[None]:
        """Publish every few seconds from a thread while the block works, and at its end, however it ends."""
        if not self.storage.is_remote:
            yield
            return
        end = threading.Event()
        thread = threading.Thread(target=self._follow, args=(end,), name="publish-run", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            end.set()
            thread.join()
            self._try_to_publish()
            raise
        end.set()
        thread.join()
        self.publish()

    def collect(self) -> None:
        """Bring the results of the workers into ``path``."""
        if self.storage.is_remote:
            for name in RESULTS:
                shutil.rmtree(self.path / name, ignore_errors=True)
                self.storage.fetch_tree(name, self.path / name)
            self.storage.fetch([name for name in self.storage.files() if name in RESULTS], self.path)

    def finish(self) -> None:
        """Mark the run as finished: the next start in this directory is a new run."""
        write_json(self.path / RUN_FILE, {**read_json(self.path / RUN_FILE), "state": "finished"})
        self.publish()

    def _follow(self, end: threading.Event) -> None:
        pause, was_well = _PAUSE_SECONDS, True
        while not end.wait(pause):
            start = time.monotonic()
            was_well = self._try_to_publish(was_well=was_well)
            pause = max(_PAUSE_SECONDS, _LEAST_PAUSE_PER_SECOND * (time.monotonic() - start))

    def _try_to_publish(self, *, was_well: bool = True) -> bool:
        """Publish without raising: storage that is away for a moment stops no run; return whether it went well."""
        try:
            self.publish()
        except (VavlError, OSError) as error:
            if was_well:
                _log.warning("%s keeps what cannot be published now: %s", self.path, error)
            return False
        if not was_well:
            _log.info("%s: published again", self.storage.address)
        return True

    def _files(self) -> list[str]:
        """Return the driver's files on this machine."""
        names = (path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file())
        return [
            name.as_posix()
            for name in names
            if name.parts[0] not in (*RESULTS, EARLIER_DIRECTORY)
            and not name.name.startswith(".")
            # The locks of tracking are empty.
            and (self.path / name).stat().st_size
        ]

    def _mark(self, name: str) -> tuple[int, int]:
        status = (self.path / name).stat()
        return status.st_size, status.st_mtime_ns

    def _published(self, without: tuple[str, ...] = ()) -> list[str]:
        """Return the files of the current run at the address, but for some names at the top."""
        kept = (*without, EARLIER_DIRECTORY, LOCK_FILE)
        top = [name for name in self.storage.directories() if name not in kept]
        below = [f"{name}/{file}" for name in top for file in self.storage.tree(name)]
        return [*(name for name in self.storage.files() if name not in kept), *below]


def claim_run_directory(plan: TrainingPlan) -> RunDirectory:
    """Resume the unfinished run of the directory or address, or make way for a new one.

    With ``training.resume: auto`` an unfinished run of the same configuration is resumed. Anything
    else that is there is moved to ``earlier/<run id>``; nothing is deleted but, at an address, checkpoints.

    Raises:
        InputError: the directory or the address cannot be written.
    """
    directory = RunDirectory(plan.output_dir)
    directory.refresh()
    earlier = read_record(directory.path)
    if earlier is not None:
        if _is_continued(earlier, plan):
            _log.info("resuming run %s in %s", earlier["run_id"], plan.output_dir)
            directory.run_id, directory.is_resumed = earlier["run_id"], True
            return directory
        directory.put_aside(earlier["run_id"])
        is_finished = earlier["state"] == "finished"
        reason = "is finished" if is_finished else "is not resumed (resume=never or other settings)"
        kept = f"{plan.output_dir}/{EARLIER_DIRECTORY}/{earlier['run_id']}"
        _log.info("run %s %s; it is kept in %s", earlier["run_id"], reason, kept)
    directory.begin(plan)
    return directory


def resolved(plan: Plan) -> Plan:
    """Return the plan with what it takes from elsewhere, looked up once for the whole run.

    That is the version of its store in full, and the steps of a refit. A run that resumes keeps the version that it
    began with, whatever is ``latest`` by now.

    Raises:
        StoreError, InputError: see ``vavl.store.store_versions.pinned_store``.
        ConfigError: see ``with_refit_steps``.
    """
    plan = with_refit_steps(plan)
    store = begun_store(plan) if _is_continued(read_record(plan.output_dir), plan) else None
    return with_store(plan, pinned_store(plan.data.store) if store is None else store)


def with_refit_steps(plan: Plan) -> Plan:
    """Return the plan of a refit with the steps that validation chose in ``training.refit_from``.

    Raises:
        ConfigError: that is no finished run of this fold and store, or says nothing of its steps.
    """
    named, stated = plan.training.refit_from, plan.training.max_steps
    if named is None:
        return plan
    text = RunStorage(named).read(OUTCOME_FILE)
    outcome = {} if text is None else json.loads(text)
    steps = outcome.get("best_step")
    if text is None:
        problem = f"{named} holds no finished run"
    elif outcome.get("refit_steps") is not None:
        problem = f"{named} is a refit itself: no validation chose its steps"
    elif steps is None:
        problem = f"{named} is of an earlier version, which did not note the step of the best epoch"
    elif outcome["fold"] != plan.data.fold:
        problem = f"{named} is of fold {outcome['fold']}, this run of fold {plan.data.fold}"
    elif stated not in (None, steps):
        problem = f"{named} chose step {steps}, and training.max_steps is {stated}"
    else:
        return plan.model_copy(update={"training": plan.training.model_copy(update={"max_steps": steps})})
    raise ConfigError("training", "refit_from", problem, "name another run, or leave refit_from out and set max_steps")


def with_store(plan: Plan, store: Path | str) -> Plan:
    """Return the plan with another store."""
    return plan.model_copy(update={"data": plan.data.model_copy(update={"store": store})})


def begun_store(plan: TrainingPlan) -> Path | str | None:
    """Return the version of the ``latest`` store that the run in the plan's directory began with, if any.

    None where the plan asks for another store, or names a version itself.
    """
    asked, begun = plan.data.store, (read_record(plan.output_dir) or {}).get("store")
    base, version = split_version(asked)
    if version != LATEST or begun is None or split_version(str(begun))[0] != str(base):
        return None
    return type(asked)(begun)


def is_finished(plan: TrainingPlan) -> bool:
    """Tell whether the plan's directory holds this very run with its results, on the features of the plan's store."""
    record = read_record(plan.output_dir)
    if record is None or (record["state"], record["config_hash"]) != ("finished", plan.config_hash):
        return False
    outcome = RunStorage(plan.output_dir).read(OUTCOME_FILE)
    features = read_content(local_store(plan.data.store))["store_hash"]
    return outcome is not None and bool(json.loads(outcome).get("store_hash") == features)


def _is_continued(earlier: Mapping[str, Any] | None, plan: TrainingPlan) -> bool:
    """Tell whether the run that the directory holds is this one, unfinished and to be continued."""
    if earlier is None or earlier["config_hash"] != plan.config_hash:
        return False
    return bool(earlier["state"] == "running" and plan.training.resume == "auto")


def put_aside(directory: Path, run_id: str) -> None:
    """Move what ``directory`` holds of a run to ``earlier/<run id>`` in it."""
    place = make_directory(directory / EARLIER_DIRECTORY / run_id)
    for item in sorted(directory.iterdir()):
        if item.name not in (EARLIER_DIRECTORY, LOCK_FILE):
            shutil.move(item, place / item.name)


def read_record(output_dir: Path | str, fields: Sequence[str] = _RECORD_FIELDS) -> dict[str, Any] | None:
    """Return the content of ``run.json`` in a directory or at an address, None where there is no run.

    ``fields``: that have to be there, as texts.

    Raises:
        InputError: the storage cannot be read, the file is no JSON or lacks a field, or the run's id is no file name.
    """
    content = RunStorage(output_dir).read(RUN_FILE)
    if content is None:
        return None
    place, fix = f"{output_dir}/{RUN_FILE}", "restore the file, or choose another output_dir"
    try:
        record = dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise InputError(place, "", f"not valid JSON: {error}", fix) from None
    for field in fields:
        if not isinstance(record.get(field), str):
            raise InputError(place, field, f"is {record.get(field)!r}, not a text", fix)
    if not _RUN_ID.fullmatch(record["run_id"]):
        raise InputError(place, "run_id", f"{record['run_id']!r} is no name for a directory", fix)
    return record
