"""One driver per output directory: a small file says whose it is, on local disks, NFS and in object storage alike.

``lock.json`` is created only where there is none, holds owner, host and process, and gets a new number every few
seconds. No clock is compared with that of another machine: whoever finds a lock watches whether its number changes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vavl.config.files import make_directory
from vavl.errors import InputError, VavlError
from vavl.tracking.run import user_name
from vavl.training.storage import RunStorage, full_disk_as_error

LOCK_FILE = "lock.json"
SILENCE_SECONDS = 60.0
"""Without a sign for so long, a driver on another machine counts as lost."""
_BEAT_SECONDS = 5.0
_POLL_SECONDS = 1.0
# A second driver that found the same lost one has written by then.
_SETTLE_SECONDS = 1.0
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def only_driver(output_dir: Path | str, silence_seconds: float = SILENCE_SECONDS) -> Iterator[None]:
    """Hold the lock of a directory or an address while the block works.

    A driver on this machine that has ended gives way at once, one on another machine after ``silence_seconds``
    without a sign. A driver that was taken for lost and comes back finds another's name and ends its process.

    Raises:
        InputError: another driver is at work there, or the lock cannot be written.
        TrainingError: the disk is full.
    """
    lock = _Lock(RunStorage(output_dir))
    with full_disk_as_error(str(output_dir)):
        lock.take(silence_seconds)
    end = threading.Event()
    thread = threading.Thread(target=lock.beat, args=(end,), name="driver-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        lock.release()


class _Lock:
    def __init__(self, storage: RunStorage) -> None:
        self._storage = storage
        self._own = {
            "owner": user_name(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": Path(sys.argv[0]).name,
            "since": _now(),
            "machine": _machine(),
            "process_start": _process_start(os.getpid()),
            "directory": self._directory(),
            "token": secrets.token_hex(8),
        }
        self._beats = 0

    def take(self, silence_seconds: float) -> None:
        """Take the lock, from a lost driver too; see ``only_driver``."""
        is_lost = False
        while not is_lost and not self._storage.create(LOCK_FILE, self._content()):
            is_lost = self._waited_for(silence_seconds)
        if is_lost:
            self._storage.write(LOCK_FILE, self._content())
        if is_lost or self._storage.is_remote:  # some object storage takes a conditional write for a plain one
            time.sleep(_SETTLE_SECONDS)
            found = self._read()
            if found is not None and not self._is_own(found):
                raise self._held(found)

    def beat(self, end: threading.Event) -> None:
        """Give a sign every few seconds until ``end``."""
        while not end.wait(_BEAT_SECONDS):
            try:
                found = self._read()
                if found is not None and not self._is_own(found):
                    self._give_up(found)
                self._beats += 1
                if found is None:  # somebody removed the file
                    self._storage.create(LOCK_FILE, self._content())
                else:
                    self._storage.write(LOCK_FILE, self._content())
            except (VavlError, OSError) as error:  # the storage is away for a moment
                _log.debug("the lock of %s cannot be renewed now: %s", self._storage.address, error)

    def release(self) -> None:
        """Remove the lock, unless another driver holds it by now."""
        try:
            if self._is_own(self._read() or {}):
                self._storage.remove(LOCK_FILE)
        except (VavlError, OSError) as error:
            _log.warning("%s/%s cannot be removed: %s", self._storage.address, LOCK_FILE, error)

    def _waited_for(self, seconds: float) -> bool:
        """Return whether the driver that the file names is lost, False where it left; raises when it gives a sign."""
        first, start = self._read(), time.monotonic()
        if first is None:
            return False
        if self._is_own(first) or self._is_over(first):  # own: a write that was repeated on its way
            return True
        if first.get("machine") and first["machine"] == self._own["machine"]:
            raise self._held(first)
        place, named = self._storage.address, _described(first)
        _log.info("%s: %s holds the lock; waiting up to %.0f s for a sign of it", place, named, seconds)
        while time.monotonic() - start < seconds:
            time.sleep(min(_POLL_SECONDS, seconds))
            self._storage.check_writable()  # a change of ours makes NFS forget what it has cached of the directory
            found = self._read()
            if found is None:
                return False
            if found != first:
                raise self._held(found)
        _log.warning("%s: %s gave no sign for %.0f s; its lock is taken over", place, named, seconds)
        return True

    def _content(self) -> bytes:
        return json.dumps({**self._own, "beats": self._beats, "last_sign": _now()}, indent=2).encode()

    def _read(self) -> dict[str, Any] | None:
        """Return what the file says; an empty mapping for one that says nothing, None where there is none."""
        content = self._storage.read(LOCK_FILE)
        if content is None:
            return None
        with contextlib.suppress(ValueError, TypeError):
            return dict(json.loads(content))
        return {}

    def _is_own(self, found: Mapping[str, Any]) -> bool:
        return found.get("token") == self._own["token"]

    def _is_over(self, found: Mapping[str, Any]) -> bool:
        """Tell whether a lock names a process of this machine that has ended, or came here with a copied directory."""
        if not found.get("machine") or found["machine"] != self._own["machine"]:
            return False
        is_copy = found.get("directory") != self._own["directory"]
        return is_copy or _process_start(found.get("pid")) != found.get("process_start")

    def _directory(self) -> str | None:
        """Return what a directory of this machine has under every name, and no copy of it."""
        here = self._storage.local_path("")
        if here is None:
            return None
        status = make_directory(here).stat()
        return f"{status.st_dev} {status.st_ino}"

    def _held(self, found: Mapping[str, Any]) -> InputError:
        return InputError(
            self._storage.address,
            "output_dir",
            f"another driver is at work there: {_described(found)}",
            f"wait for it or stop it (on {found.get('host')}: kill {found.get('pid')}), or choose another output_dir; "
            f"a driver that was lost with its machine gives way after {SILENCE_SECONDS:.0f} s without a sign",
        )

    def _give_up(self, found: Mapping[str, Any]) -> None:
        """End this process at once: whatever it wrote from here on would go between the files of the other driver."""
        print(
            f"error: {self._storage.address}: output_dir: this driver gave no sign for long and was taken for lost; "
            f"{_described(found)} works there now\n  fix: leave the run to that driver, which resumes from the last "
            f"checkpoint; or stop it (on {found.get('host')}: kill {found.get('pid')}), and start the same command "
            "again",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        os._exit(1)


def _described(found: Mapping[str, Any]) -> str:
    names = ("job", "owner", "host", "pid", "since", "last_sign")
    job, owner, host, pid, since, sign = (found.get(name, "?") for name in names)
    return f"{job} of {owner} on host {host}, pid {pid}, since {since}, last sign {sign}"


def _machine() -> str | None:
    """Return what two processes share whose pids mean the same: a boot, and the container; None where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _process_start(pid: Any) -> str | None:
    """Return when a process began, in ticks since the boot, which no change of the clock moves; None once it ended."""
    try:
        fields = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (OSError, ValueError, TypeError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
