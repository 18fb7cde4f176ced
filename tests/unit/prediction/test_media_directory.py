"""Clips of a directory: which files belong together, by their names alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from vavl.errors import CorpusError
from vavl.prediction.inputs import directory_clips, single_clip
from vavl.prediction.sources import ClipInput


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_files_that_share_place_and_name_are_one_clip(tmp_path):
    touch(tmp_path, "a.wav", "a.mp4", "s1/a.FLAC", "s2/a.MP4", "s 1/ü.mp3", ".hidden.wav", "notes.txt", "t.csv")
    found = directory_clips(tmp_path)
    assert list(found.clips) == [
        ClipInput("a", "a.wav", "a.mp4"),
        ClipInput("s 1/ü", "s 1/ü.mp3"),
        ClipInput("s1/a", "s1/a.FLAC"),
        ClipInput("s2/a", None, "s2/a.MP4"),
    ]
    assert found.counts == {"audio and video": 1, "audio alone": 2, "video alone": 1}
    assert found.left_out == {"hidden files and folders": 1, "files that are no media": 2}


def test_folders_that_only_say_what_they_hold_do_not_part_the_sides(tmp_path):
    touch(tmp_path, "audio/f01/a.wav", "Video/f01/a.mp4", "f02/wav/b.wav", "f02/mp4/b.avi", "f03/c.wav", "f04/c.mp4")
    clips = {clip.clip_id: (clip.audio, clip.video) for clip in directory_clips(tmp_path).clips}
    assert clips == {
        "f01/a": ("audio/f01/a.wav", "Video/f01/a.mp4"),
        "f02/b": ("f02/wav/b.wav", "f02/mp4/b.avi"),
        "f03/c": ("f03/c.wav", None),
        "f04/c": (None, "f04/c.mp4"),
    }


def test_two_files_of_one_kind_with_one_name_are_a_problem_of_that_clip(tmp_path):
    touch(tmp_path, "a.wav", "a.flac", "a.mp4", "b.wav")
    bad, good = directory_clips(tmp_path).clips
    assert bad.problem == "2 audio files have this name: a.flac, a.wav"
    assert good.problem is None


def test_a_folder_without_media_says_what_it_holds(tmp_path):
    touch(tmp_path, "a.txt", "b.txt")
    with pytest.raises(CorpusError, match=r"no audio or video file .* found 2 \.txt"):
        directory_clips(tmp_path)
    with pytest.raises(CorpusError, match="cannot be listed"):
        directory_clips(tmp_path / "missing")


def test_a_file_is_the_side_that_its_ending_names(tmp_path):
    assert list(single_clip(tmp_path / "x.webm").clips) == [ClipInput("x", None, "x.webm")]
    assert list(single_clip(tmp_path / "x.ogg").clips) == [ClipInput("x", "x.ogg")]
