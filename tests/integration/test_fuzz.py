"""Mutated files through every reader, in a process of its own: no crash, no hang, no error without a fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = 30
KINDS = (
    "wav", "flac", "mp4_sound", "mp4_pictures", "csv", "yaml", "part", "arrow", "index", "ids",
    "store_json", "manifest"
)  # fmt: skip


def test_mutated_files_are_read_or_refused(tmp_path):
    paths = os.pathsep.join(map(str, (ROOT / "platform", *(ROOT / "tests/support").iterdir())))
    done = subprocess.run(
        [sys.executable, ROOT / "tests/support/processes/fuzzed_readers.py", tmp_path, str(EXAMPLES)],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    found = {
        entry["kind"]: entry
        for entry in (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    }
    assert tuple(found) == KINDS
    for entry in found.values():
        assert entry["read"] + entry["refused"] >= EXAMPLES
        assert entry["longest_s"] < 30
