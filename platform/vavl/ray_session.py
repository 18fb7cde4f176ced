"""Joining Ray's cluster, or starting Ray on this machine."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from vavl.errors import InputError, TrainingError, VavlError, proxy_hint

_ANSWER_SECONDS = 3.0
_LOOK_SECONDS = 1.0
_LONGEST_SOCKET_BYTES = 107
# As Ray names them below its temporary directory, with the longest process id.
_SOCKET = "ray/session_2026-11-29_13-48-23_123456_4194304/sockets/plasma_store"
_log = logging.getLogger(__name__)


def join_ray(threads: int, object_store_bytes: int | None = None) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or start Ray on this machine, with ``threads`` per worker.

    Another Ray that happens to run on this machine is left alone: its resources belong to others.

    Args:
        threads: of the numeric libraries in each worker.
        object_store_bytes: shared memory of a Ray that is started here; Ray's own choice by default.

    Raises:
        InputError: nobody answers at ``RAY_ADDRESS``, or Ray cannot be started in this environment.
    """
    import ray  # takes seconds, and may be what a check of this machine finds broken

    check_own_ray()
    # Workers inherit this; two workers of a laptop would otherwise fight for all its cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if not ray.is_initialized():
        options: dict[str, Any] = {}
        _log.info("starting Ray on this machine" if is_local() else f"joining Ray at {_address()}")
        if is_local():
            options = {"address": "local", "include_dashboard": False, "object_store_memory": object_store_bytes}
        else:
            _refuse_silence(_address())
        for handler in logging.getLogger("ray").handlers:
            handler.addFilter(_is_news)
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
        except Exception as error:  # noqa: BLE001  Ray raises plain exceptions here
            raise _no_ray(error) from None
        threading.Thread(target=watch_raylet, name="raylet-watch", daemon=True).start()


def watch_raylet() -> None:
    """Say it when Ray's process on this machine ends while this one works: Ray ends this one too, without a word."""
    import ray  # as above

    node = str(ray.get_runtime_context().get_node_id())
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "raylet" and any(node in word for word in process.info["cmdline"] or ()):
            while ray.is_initialized():
                if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                    _log.error(
                        "Ray's process on this machine (raylet, pid %d) was killed, perhaps for want of memory; "
                        "this job ends with it, and the same command continues from what is finished",
                        process.pid,
                    )
                    return
                time.sleep(_LOOK_SECONDS)
            return


def _no_ray(error: Exception) -> VavlError:
    if "AF_UNIX" in str(error) and (too_long := long_socket_names()):
        return too_long
    address = os.environ.get("RAY_ADDRESS")
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if address is not None:
        host = address.rpartition("//")[2].partition(":")[0]
        fix = f"check that the cluster runs and can be reached{proxy_hint(host)}"
        return TrainingError("Ray", "RAY_ADDRESS", f"{address} cannot be joined: {reason}", fix)
    fix = "start the same command again; on a slow machine export RAY_raylet_start_wait_time_s=120; its logs are below "
    place = os.environ.get("TMPDIR", "/tmp")  # noqa: S108  as above
    return TrainingError("Ray", "", f"does not start on this machine: {reason}", f"{fix}{place}/ray/session_latest")


def is_local() -> bool:
    """Tell whether Ray is this process' own: no cluster was named."""
    return "RAY_ADDRESS" not in os.environ


def ray_machines() -> list[dict[str, float]]:
    """Return all resources of each living machine of the Ray that was joined, free or not, by Ray's names."""
    import ray  # as above

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def check_own_ray(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse an environment in which Ray cannot start on this machine; a cluster that was named has started already.

    Raises:
        InputError: its token cannot be written into the home directory.
    """
    if "RAY_ADDRESS" in environment:
        return
    needs_no_token = environment.get("RAY_AUTH_MODE", "token").lower() != "token"
    if needs_no_token or {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & environment.keys():
        return
    home = environment.get("HOME", "~")
    try:
        directory = Path(home).expanduser() / ".ray"
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        problem = f"{home} cannot be written, and Ray keeps its token there: {reason}"
        raise InputError("environment", "HOME", problem, "export HOME=/a/directory/that/can/be/written") from None


def long_socket_names(environment: Mapping[str, str] = os.environ) -> InputError | None:
    """Return what is wrong with ``TMPDIR`` where Ray's sockets below it would have too long names.

    A warning only: whoever starts Ray may have told it another directory.
    """
    temporary = environment.get("TMPDIR", "/tmp")  # noqa: S108  Ray's own choice
    length = len(os.fsencode(Path(temporary, _SOCKET)))
    if "RAY_ADDRESS" in environment or length <= _LONGEST_SOCKET_BYTES:
        return None
    problem = (
        f"{temporary} is too long: the names of Ray's sockets below it would have {length} bytes, and the system "
        f"takes {_LONGEST_SOCKET_BYTES}"
    )
    return InputError("environment", "TMPDIR", problem, "export TMPDIR=/tmp, or another directory with a short name")


def _is_news(record: logging.LogRecord) -> bool:
    return "Token authentication is enabled" not in record.getMessage()  # said at every start


def _address() -> str:
    return os.environ["RAY_ADDRESS"]


def _refuse_silence(address: str) -> None:
    """Knock at ``host:port``: where nobody answers, Ray itself would try for two minutes, and end in a traceback."""
    place = urlsplit(address if "://" in address else f"ray://{address}")
    if place.hostname is None or place.port is None:
        return  # "auto": Ray knows where its own notes lie
    try:
        socket.create_connection((place.hostname, place.port), _ANSWER_SECONDS).close()
    except OSError as error:
        fix = "start Ray there (ray start --head), or unset RAY_ADDRESS to use this machine"
        raise InputError("environment", "RAY_ADDRESS", f"nobody answers at {address}: {error}", fix) from None
