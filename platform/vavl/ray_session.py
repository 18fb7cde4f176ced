"""Joining Ray's cluster, or starting Ray on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import ray


def join_ray(threads: int, object_store_bytes: int | None = None) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or start Ray on this machine, with ``threads`` per worker.

    Another Ray that happens to run on this machine is left alone: its places belong to others.

    Args:
        threads: of the numeric libraries in each worker.
        object_store_bytes: shared memory of a Ray that is started here; Ray's own choice by default.
    """
    # What Ray's C++ core writes to the terminal names its own actors and files; its Python errors say what happened.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Workers inherit this; two workers of a laptop would otherwise fight for all its cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if not ray.is_initialized():
        options: dict[str, Any] = {}
        if is_local():
            options = {
                "address": "local",
                "include_dashboard": False,
                "object_store_memory": object_store_bytes,
            }
        with _stderr_without(b"Set ray log level from environment variable"):
            ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)


def is_local() -> bool:
    """Tell whether Ray is this process' own: no cluster was named."""
    return "RAY_ADDRESS" not in os.environ


@contextlib.contextmanager
def _stderr_without(words: bytes) -> Iterator[None]:
    """Hold back what anybody writes to standard error meanwhile, also C++, and leave the lines with ``words`` out."""
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
            os.write(2, b"".join(line for line in held if words not in line))
