"""A disk that is full, told as an error that says what to do, wherever in a run it is met."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator

from safetensors import SafetensorError

from vavl.errors import TrainingError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def told_of_full_disk(output_dir: str) -> Iterator[None]:
    """Turn what a full disk raises into an error of the platform; other errors pass.

    Raises:
        TrainingError: no space is left, a quota is used up, or a file may not grow.
    """
    try:
        yield
    except (OSError, SafetensorError) as fault:
        if _code_of(fault) not in _FULL:
            raise
        raise TrainingError(
            output_dir, "", f"the run's results cannot be written: {fault}",
            "free disk space, then start the same command again: the last whole checkpoint is intact",
        ) from fault  # fmt: skip


def _code_of(fault: OSError | SafetensorError) -> int | None:
    if isinstance(fault, OSError):
        return fault.errno
    # safetensors gives the code in its text alone: "I/O error: File too large (os error 27)".
    found = re.search(r"os error (\d+)", str(fault))
    return int(found[1]) if found else None
