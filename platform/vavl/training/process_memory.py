"""How much main memory a process has taken at most."""

from __future__ import annotations

import resource
import sys

RUN_MEMORY = "system/run_memory_gb"
"""Metric of an epoch on Ray: the most memory of all workers and of Ray's controller so far, added up."""


def peak_memory_bytes() -> int:
    """Return the most main memory that this process had at a time, with pages that it shares with others."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)  # Linux counts in KiB
