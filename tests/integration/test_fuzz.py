"""Mutated files through every reader, in a process of its own: no crash, no hang, no error without a fix."""

from __future__ import annotations

import json
import os

from own_process import ROOT, run_program

PROGRAM = ROOT / "tests/support/processes/fuzzed_readers.py"
EXAMPLES = 30
KINDS = (
    "wav", "flac", "mp4_sound", "mp4_pictures", "csv", "yaml", "part", "arrow", "index", "ids",
    "store_json", "manifest"
)  # fmt: skip


def test_mutated_files_are_read_or_refused(tmp_path):
    paths = os.pathsep.join(map(str, (ROOT / "platform", *(ROOT / "tests/support").iterdir())))
    printed = run_program(PROGRAM, tmp_path, str(EXAMPLES), PYTHONPATH=paths)
    entries = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    found = {entry["kind"]: entry for entry in entries}
    assert tuple(found) == KINDS
    for entry in found.values():
        assert entry["read"] + entry["refused"] >= EXAMPLES
        assert entry["longest_s"] < 30
