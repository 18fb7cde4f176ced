"""Run every benchmark of this directory, one after the other; the last line says which failed or were left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_NO_GPU = ("gpu.py", 2)
"""The program that needs a GPU, and its exit code where there is none; of any other one 2 is a failure."""

_PART = "gpu_check.py"
"""Run by ``gpu.py``."""


def main() -> int:
    """Run the programs; returns 1 if one failed."""
    here = Path(__file__)
    programs = sorted(path for path in here.parent.glob("*.py") if path not in (here, here.with_name(_PART)))
    codes = {}
    for program in programs:
        print(f"== {program.name}", flush=True)
        codes[program.name] = subprocess.run([sys.executable, program], check=False).returncode
    left_out = [f"{name} (no GPU)" for name, code in codes.items() if (name, code) == _NO_GPU]
    failed = [name for name, code in codes.items() if code and (name, code) != _NO_GPU]
    print(
        f"{len(programs)} benchmarks, failed: {', '.join(failed) or 'none'}, left out: {', '.join(left_out) or 'none'}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
