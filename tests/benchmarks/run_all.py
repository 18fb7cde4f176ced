"""Run every benchmark of this folder, one after the other; the last line says which failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run the programs; returns 1 if one failed."""
    here = Path(__file__)
    programs = sorted(path for path in here.parent.glob("*.py") if path != here)
    failed = []
    for program in programs:
        print(f"== {program.name}", flush=True)
        if subprocess.run([sys.executable, program], check=False).returncode:
            failed.append(program.name)
    print(f"{len(programs)} benchmarks, failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
