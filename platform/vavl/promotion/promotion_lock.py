"""One promotion of a model at a time, over processes and machines.

MLflow sets an alias without asking what it was before. What it does do once only, on SQLite, on PostgreSQL
and behind a server alike, is to create a registered model of a name: names are unique in its data base. So
``<model>.promotion-lock`` is the lock, its tags say who holds it, and it is deleted when the alias has moved.
"""

from __future__ import annotations

import getpass
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil
from pydantic import Field

from vavl.config.base import FrozenConfig
from vavl.errors import InputError, TrackingError

_SUFFIX = ".promotion-lock"
_TAG = "vavl.lock."
_POLL_SECONDS = 0.2
_log = logging.getLogger(__name__)
_BUSY = {
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",  # it was released while the store looked up who has it
    "TEMPORARILY_UNAVAILABLE",  # SQLite, while another process writes
}
_DESCRIPTION = "Held while an alias moves, for a second or so. Left behind only by a process that was killed."


class LockSettings(FrozenConfig):
    """How long a promotion waits for another one."""

    wait_seconds: float = Field(30, ge=0, description="for the lock; it is held while an alias moves only")
    stale_minutes: float = Field(10, gt=0, description="a lock this old was left behind")


@dataclass(frozen=True)
class LockHolder:
    """Who holds a lock, as its tags say.

    Attributes:
        token: of this one time; names the lock that is to be broken.
        owner, host, pid: the process.
        time: since the epoch, seconds, by that process' clock.
    """

    token: str
    owner: str
    host: str
    pid: int
    time: float

    @classmethod
    def this_process(cls) -> LockHolder:
        """Return what this process writes into its lock."""
        return cls(secrets.token_hex(6), user_name(), socket.gethostname(), os.getpid(), time.time())

    @classmethod
    def of_tags(cls, tags: dict[str, str]) -> LockHolder:
        """Read the tags of a lock; one made by somebody else has none."""
        own = {key.removeprefix(_TAG): value for key, value in tags.items() if key.startswith(_TAG)}
        return cls(
            own.get("token", "unknown"), own.get("owner", "unknown"), own.get("host", "unknown"),
            int(own.get("pid", 0)), float(own.get("time", 0)),
        )  # fmt: skip

    @property
    def tags(self) -> dict[str, str]:
        """The tags of the lock."""
        return {f"{_TAG}{name}": str(value) for name, value in vars(self).items()}

    @property
    def state(self) -> str:
        """``alive`` or ``gone`` for a process of this machine, else ``elsewhere``."""
        if self.host != socket.gethostname():
            return "elsewhere"
        try:
            # A later process may have got the same number.
            return "alive" if psutil.Process(self.pid).create_time() <= self.time else "gone"
        except (psutil.Error, ValueError):
            return "gone"

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.time, UTC).isoformat(timespec="seconds")
        return f"{self.owner}, process {self.pid} on {self.host} ({self.state}), since {since}"


def lock_name(model: str) -> str:
    """Return the name of the registered model that is the lock of ``model``."""
    return f"{model}{_SUFFIX}"


def user_name() -> str:
    """Return the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that no user has
        return "unknown"


class HeldLock:
    """A lock that this process holds.

    Args:
        client: an ``MlflowClient``.
        model: registered model whose aliases are locked.
        holder: this process.
    """

    def __init__(self, client: Any, model: str, holder: LockHolder) -> None:
        self._client, self._model, self._holder = client, model, holder

    def check(self) -> None:
        """Ask once more, right before an alias moves.

        Raises:
            TrackingError: somebody has broken the lock.
        """
        holder = lock_holder(self._client, self._model)
        if holder is None or holder.token != self._holder.token:
            raise TrackingError(
                lock_name(self._model), "", f"the lock of this promotion was broken; now: {holder or 'free'}",
                "nothing was moved; start the command again",
            )  # fmt: skip


@contextmanager
def promotion_lock(client: Any, model: str, settings: LockSettings) -> Iterator[HeldLock]:
    """Hold the lock of ``model`` for the block; it is given back however the block ends.

    Raises:
        TrackingError: another process has it, and still has it after ``wait_seconds``.
        MlflowException: the store refused for another reason.
    """
    holder = LockHolder.this_process()
    end = time.monotonic() + settings.wait_seconds
    while not _try_to_take(client, model, holder):
        if time.monotonic() >= end:
            raise _held_by_another(client, model, settings)
        time.sleep(_POLL_SECONDS)
    try:
        yield HeldLock(client, model, holder)
    finally:
        _release(client, model, holder)


def lock_holder(client: Any, model: str) -> LockHolder | None:
    """Return who holds the lock of ``model``, None while it is free."""
    from mlflow.exceptions import MlflowException

    try:
        return LockHolder.of_tags(client.get_registered_model(lock_name(model)).tags)
    except MlflowException as fault:
        if fault.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def break_lock(client: Any, model: str, token: str) -> LockHolder:
    """Remove the lock that a killed process left behind, and return who held it.

    Only a person does this: two processes that both took a lock for stale could remove each other's new one.

    Args:
        client: an ``MlflowClient``.
        model: registered model.
        token: of the lock that is meant, from the message that named it.

    Raises:
        InputError: no such lock, or its process lives on this machine.
    """
    holder = lock_holder(client, model)
    if holder is None or holder.token != token:
        raise InputError(
            lock_name(model), "break_lock", f"there is no lock {token}; now: {holder or 'free'}",
            "leave break_lock out" if holder is None else f"break_lock={holder.token} names the present one",
        )  # fmt: skip
    if holder.state == "alive":
        raise InputError(
            lock_name(model), "break_lock", f"is held by a living process: {holder}", "wait for it, or end it"
        )
    client.delete_registered_model(lock_name(model))
    return holder


def _try_to_take(client: Any, model: str, holder: LockHolder) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(lock_name(model), tags=holder.tags, description=_DESCRIPTION)
    except MlflowException as fault:
        if fault.error_code not in _BUSY:
            raise
        found = lock_holder(client, model)
        # A request that was repeated finds what its first copy has made.
        return found is not None and found.token == holder.token
    return True


def _release(client: Any, model: str, holder: LockHolder) -> None:
    """Give the lock back; a store that is away now does not change what was decided, or why it failed."""
    from mlflow.exceptions import MlflowException

    try:
        found = lock_holder(client, model)
        if found is not None and found.token == holder.token:
            client.delete_registered_model(lock_name(model))
    except MlflowException as fault:
        _log.error(
            "%s was not given back, the next promotion needs break_lock=%s: %s", lock_name(model), holder.token, fault
        )  # fmt: skip


def _held_by_another(client: Any, model: str, settings: LockSettings) -> TrackingError:
    holder = lock_holder(client, model)
    if holder is None:
        return TrackingError(lock_name(model), "", "was held all the time", "start the command again")
    is_left = holder.state == "gone" or time.time() - holder.time > 60 * settings.stale_minutes
    fix = (
        f"it was left behind: once no promotion of {model} is running, add break_lock={holder.token}"
        if is_left
        else f"start it again when that has ended, or wait longer: lock.wait_seconds={2 * settings.wait_seconds:g}"
    )
    return TrackingError(lock_name(model), "", f"another promotion is at work: {holder}", fix)
