"""Processes that extract parts: all parts come back, and a clip that kills its process is set aside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from deadly_work import die_at_once, refuse, work_or_die

from vavl.errors import ConfigError, TrainingError
from vavl.features.crew import run_parts
from vavl.features.part import ClipPlace, Part


def parts(folder: Path, names: list[list[str]]) -> Iterator[Part]:
    for number, ids in enumerate(names):
        clips = tuple(ClipPlace(clip_id, "s1", f"{clip_id}.wav") for clip_id in ids)
        yield Part("audio", number, folder / f"audio-{number:05d}.parquet", "small", 3, clips)


def test_work_in_this_process(tmp_path):
    done = list(run_parts(parts(tmp_path, [["a", "b"], ["c"]]), work_or_die, processes=0))
    assert [(part.number, record.tally) for part, record in done] == [(0, {"seen": 2}), (1, {"seen": 1})]


def test_clips_that_end_their_process_are_set_aside_and_all_others_are_done(tmp_path):
    names = [["a", "b"], ["c", "d_deadly", "e", "f_deadly"], ["g"], ["h"], ["i"], ["j"]]
    done = {
        part.number: record for part, record in run_parts(parts(tmp_path, names), work_or_die, processes=1)
    }
    assert sorted(done) == list(range(6))
    assert [entry.clip_id for entry in done[1].quarantined] == ["d_deadly", "f_deadly"]
    assert done[1].tally == {"seen": 2}
    assert all(not record.quarantined for number, record in done.items() if number != 1)
    assert not list(tmp_path.glob(".*"))


def test_processes_that_end_before_any_clip_end_the_job(tmp_path):
    with pytest.raises(TrainingError, match="ends before it has read a clip"):
        list(run_parts(parts(tmp_path, [["a"]]), die_at_once, processes=1))


def test_a_fault_of_the_settings_ends_the_job_with_its_message(tmp_path):
    with pytest.raises(ConfigError, match="do not fit"):
        list(run_parts(parts(tmp_path, [["a"], ["b"]]), refuse, processes=1))
