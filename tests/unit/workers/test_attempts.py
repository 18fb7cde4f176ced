"""The marker of a part: who takes the part over knows which clip ended its process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vavl.errors import ClipError, TrainingError
from vavl.workers.attempts import Attempts, TimeLimit

LONG = TimeLimit(60, ends_process=False)


def begin(folder: Path, limit: TimeLimit = LONG) -> Attempts:
    return Attempts(folder / ".audio-00000.current", limit)


def die_at(folder: Path, clip_id: str) -> None:
    """Leave the directory as a process does that ends within a clip."""
    begin(folder).at(clip_id, "file", "audio").__enter__()


def test_a_clip_is_given_up_when_two_processes_have_ended_in_it(tmp_path):
    die_at(tmp_path, "a")
    with begin(tmp_path).at("a", "a.wav", "audio"):
        pass
    die_at(tmp_path, "b")
    die_at(tmp_path, "b")
    attempts = begin(tmp_path)
    with pytest.raises(ClipError, match="crash or out of memory"), attempts.at("b", "b.wav", "audio"):
        pass
    with attempts.at("c", "c.wav", "audio"):
        pass
    attempts.finish()
    assert not list(tmp_path.iterdir())


def test_given_up_clips_stay_so_when_another_clip_ends_its_process(tmp_path):
    for clip_id in ("b", "b", "c", "c"):
        die_at(tmp_path, clip_id)
    attempts = begin(tmp_path)
    for clip_id in ("b", "c"):
        with pytest.raises(ClipError, match="crash"), attempts.at(clip_id, "file", "audio"):
            pass


def test_processes_that_end_before_any_clip_are_an_error(tmp_path):
    begin(tmp_path)
    begin(tmp_path)
    with pytest.raises(TrainingError, match="ends before it has read a clip"):
        begin(tmp_path)


def test_a_broken_marker_counts_as_none(tmp_path):
    marker = tmp_path / ".audio-00000.current"
    marker.write_text('{"clip_id": "a"')
    begin(tmp_path)
    assert json.loads(marker.read_text()) == {"clip_id": "", "tries": 1, "lost": {}}


def test_a_slow_clip_is_interrupted_in_this_process(tmp_path):
    attempts = begin(tmp_path, TimeLimit(0.05, ends_process=False))
    start = time.monotonic()
    with (
        pytest.raises(ClipError, match=r"takes longer than seconds_per_clip allows: 0\.05 s"),
        attempts.at("a", "a.wav", "audio"),
    ):
        time.sleep(600)
    assert time.monotonic() - start < 60


def test_a_clip_that_never_gives_the_interpreter_free_ends_its_process_and_is_given_up(tmp_path):
    # One long match in C: no signal handler and no other Python thread runs meanwhile.
    story = (
        "import re, sys; from pathlib import Path; from vavl.workers.attempts import Attempts, TimeLimit\n"
        "with Attempts(Path(sys.argv[1]), TimeLimit(0.3, ends_process=True)).at('a', 'a.wav', 'audio'):\n"
        "    re.match(r'(a+)+$', 'a' * 60 + 'b')\n"
    )
    platform = Path(__file__).parents[3] / "platform"
    done = subprocess.run(
        [sys.executable, "-c", story, str(tmp_path / ".audio-00000.current")],
        env={"PYTHONPATH": str(platform)}, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    attempts = begin(tmp_path)
    with pytest.raises(ClipError, match="takes longer"), attempts.at("a", "a.wav", "audio"):
        pass
