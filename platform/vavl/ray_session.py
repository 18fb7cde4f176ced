"""Joining Ray's cluster, or starting Ray on this machine."""

from __future__ import annotations

import logging
import os
from typing import Any

import ray


def join_ray(threads: int, object_store_bytes: int | None = None) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or start Ray on this machine, with ``threads`` per worker.

    Another Ray that happens to run on this machine is left alone: its places belong to others.

    Args:
        threads: of the numeric libraries in each worker.
        object_store_bytes: shared memory of a Ray that is started here; Ray's own choice by default.
    """
    # Workers inherit this; two workers of a laptop would otherwise fight for all its cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if not ray.is_initialized():
        options: dict[str, Any] = {}
        if is_local():
            options = {
                "address": "local", "include_dashboard": False, "object_store_memory": object_store_bytes,
            }  # fmt: skip
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)


def is_local() -> bool:
    """Tell whether Ray is this process' own: no cluster was named."""
    return "RAY_ADDRESS" not in os.environ
