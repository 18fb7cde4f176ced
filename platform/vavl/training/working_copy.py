"""The driver's files of a run at an address: kept on this machine while it works, published there as they change.

    <address>/
        run.json, config.yaml, journal.jsonl ...   the driver's; copies of those on the driver's machine
        best/, predictions/, outcome.json ...      the workers'
        checkpoints/                               the workers', for a run that resumes
        earlier/<run id>/                          former runs

The address is the truth: a run may resume on another machine. Every publication ends with a new ``revision`` in
run.json, by which a machine sees whether another one has published since.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vavl.config.files import make_folder, read_json, write_json
from vavl.config.places import CACHE_VARIABLE
from vavl.errors import InputError, VavlError
from vavl.store.store_cache import run_cache_folder
from vavl.training.storage import RunStorage

RUN_FILE = "run.json"
EARLIER_FOLDER = "earlier"
RESULTS = ("best", "outcome.json", "partitions.csv", "predictions")
"""What the workers leave for people; they write it to the address themselves."""
_WORK = ("checkpoints", "stop.json")
_NOT_IN_NAMES = re.compile(r"[^\w.-]")
_PAUSE_SECONDS = 5.0
# A long journal is sent whole: most of the time is not for this.
_LEAST_PAUSE_PER_SECOND = 20.0
_log = logging.getLogger(__name__)


def read_record(storage: RunStorage) -> dict[str, Any] | None:
    """Return the content of ``run.json``, None where there is no run.

    Raises:
        InputError: the storage cannot be read, or the file is no JSON.
    """
    content = storage.read(RUN_FILE)
    if content is None:
        return None
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{storage.address}/{RUN_FILE}", "", f"not valid JSON: {error}", "restore the file or remove it"
        ) from None


class WorkingCopy:
    """The files of the driver, on this machine and at the address.

    Args:
        address: of the run.

    Attributes:
        path: directory of this machine, made when it is missing.
        storage: what is at the address.

    Raises:
        InputError: the address has no driver here, or the directory cannot be written.
    """

    def __init__(self, address: str) -> None:
        self.storage = RunStorage(address)
        name = _NOT_IN_NAMES.sub("_", address.rstrip("/").rpartition("/")[2])
        digest = hashlib.sha256(address.encode()).hexdigest()[:12]
        self.path = make_folder(run_cache_folder() / f"{name}-{digest}", setting=CACHE_VARIABLE)
        self._sent: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Fetch the driver's files, unless this machine was the last to publish.

        Raises:
            InputError, StoreError: the address cannot be read.
        """
        there, here = read_record(self.storage), read_record(RunStorage(self.path))
        revision = (there or {}).get("revision")
        if revision is not None and revision == (here or {}).get("revision"):
            return
        for item in self.path.iterdir():
            if item.name != EARLIER_FOLDER:
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        if there is not None:
            self.storage.fetch(self._published(without=(*RESULTS, *_WORK)), self.path)

    def put_aside(self, run_id: str) -> None:
        """Move what the address holds of a run to ``earlier/<run id>``; its checkpoints are removed.

        Raises:
            InputError: the address cannot be written.
        """
        for name in _WORK:
            self.storage.remove(name)
        # run.json goes last: what was interrupted is continued by the next start.
        for name in sorted(self._published(), key=lambda name: (name == RUN_FILE, name)):
            self.storage.move(name, f"{EARLIER_FOLDER}/{run_id}/{name}")

    def publish(self) -> None:
        """Send the files that have changed.

        Raises:
            InputError: the address cannot be written.
        """
        with self._lock:
            marks = {name: self._mark(name) for name in self._files()}
            changed = sorted(name for name, mark in marks.items() if self._sent.get(name) != mark)
            if not changed:
                return
            with tempfile.TemporaryDirectory(prefix="vavl-publish-") as folder:
                # journal.jsonl.replayed.json says how far the journal was replayed: it is copied before the journal
                # and sent after it, so that it never counts records that the other one lacks.
                copies = {name: Path(folder, name.replace("/", "__")) for name in changed if name != RUN_FILE}
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
        """Publish every few seconds from a thread while the block works, and at its end, however it ends.

        Raises:
            InputError: the address cannot be written at the end of a block that succeeded.
        """
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
        """Fetch the results of the workers.

        Raises:
            InputError, StoreError: the address cannot be read.
        """
        for name in RESULTS:
            shutil.rmtree(self.path / name, ignore_errors=True)
            self.storage.fetch_tree(name, self.path / name)
        self.storage.fetch([name for name in self.storage.files() if name in RESULTS], self.path)

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
            if name.parts[0] not in (*RESULTS, EARLIER_FOLDER)
            and not name.name.startswith(".")
            # The locks of tracking are empty.
            and (self.path / name).stat().st_size
        ]

    def _mark(self, name: str) -> tuple[int, int]:
        status = (self.path / name).stat()
        return status.st_size, status.st_mtime_ns

    def _published(self, without: tuple[str, ...] = ()) -> list[str]:
        """Return the files of the current run at the address, but for some names at the top."""
        top = [name for name in self.storage.directories() if name not in (*without, EARLIER_FOLDER)]
        below = [f"{name}/{file}" for name in top for file in self.storage.tree(name)]
        return [*(name for name in self.storage.files() if name not in without), *below]
