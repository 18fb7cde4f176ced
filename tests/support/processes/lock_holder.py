"""Hold the lock of a directory until standard input ends: python lock_holder.py OUTPUT_DIR BEAT."""

from __future__ import annotations

import sys

from vavl.training import driver_lock
from vavl.training.driver_lock import only_driver


def main() -> None:
    """Print "held" once the lock is taken."""
    driver_lock._BEAT_SECONDS = float(sys.argv[2])
    with only_driver(sys.argv[1], silence_seconds=1):
        print("held", flush=True)
        sys.stdin.read()
    print("released", flush=True)


if __name__ == "__main__":
    main()
