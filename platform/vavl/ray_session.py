"""Joining Ray's cluster, or starting Ray on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import ray

from vavl.errors import InputError

_ANSWER_SECONDS = 3.0
_log = logging.getLogger(__name__)


def join_ray(threads: int, object_store_bytes: int | None = None) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or start Ray on this machine, with ``threads`` per worker.

    Another Ray that happens to run on this machine is left alone: its places belong to others.

    Args:
        threads: of the numeric libraries in each worker.
        object_store_bytes: shared memory of a Ray that is started here; Ray's own choice by default.

    Raises:
        InputError: nobody answers at ``RAY_ADDRESS``.
    """
    # What Ray's C++ core writes to the terminal names its own actors and files; its Python errors say what happened.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Workers inherit this; two workers of a laptop would otherwise fight for all its cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if not ray.is_initialized():
        options: dict[str, Any] = {}
        _log.info("starting Ray on this machine" if is_local() else f"joining Ray at {_address()}")
        if is_local():
            options = {
                "address": "local",
                "include_dashboard": False,
                "object_store_memory": object_store_bytes,
            }
        else:
            _refuse_silence(_address())
        with _stderr_without(
            b"Set ray log level from environment variable", b"Token authentication is enabled"
        ):
            ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)


def is_local() -> bool:
    """Tell whether Ray is this process' own: no cluster was named."""
    return "RAY_ADDRESS" not in os.environ


def ray_machines() -> list[dict[str, float]]:
    """Return all resources of each living machine of the Ray that was joined, free or not, by Ray's names."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


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


@contextlib.contextmanager
def _stderr_without(*words: bytes) -> Iterator[None]:
    """Hold back what anybody writes to standard error meanwhile, also C++, and leave lines with any of these out."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            os.write(2, b"".join(line for line in held if not any(one in line for one in words)))
