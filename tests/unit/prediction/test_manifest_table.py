"""Manifests: tables of clips whose paths lead nowhere but below their root."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from vavl.errors import CorpusError
from vavl.prediction.inputs import manifest_clips
from vavl.prediction.sources import ClipInput

COLUMNS = {
    "clip_id": ["one", "zwölf, 二"],
    "audio_path": ["a/1.wav", None],
    "video_path": ["v/1.mp4", "v/ü 2.mp4"],
    "speaker": ["s1", None],
    "split": ["test", "test"],
    "age": [3, 4],
}


def write(folder: Path, columns: dict[str, list], suffix: str = ".parquet") -> Path:
    file = folder / f"clips{suffix}"
    table = pa.table(columns)
    if suffix == ".csv":
        csv.write_csv(table, file)
    else:
        pq.write_table(table, file)
    return file


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_rows_become_clips_in_their_order(tmp_path, suffix):
    found = manifest_clips(write(tmp_path, COLUMNS, suffix), tmp_path)
    assert list(found.clips) == [
        ClipInput("one", "a/1.wav", "v/1.mp4", None, "s1", "test"),
        ClipInput("zwölf, 二", None, "v/ü 2.mp4", None, None, "test"),
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_separators_of_windows_are_turned_where_the_file_is_found(tmp_path, suffix):
    for name in ("a/b/1.wav", "v\\1.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    columns = {
        "clip_id": ["one", "two", "three"],
        "audio_path": ["a\\b\\1.wav", "a/b/1.wav", None],
        "video_path": ["v\\1.mp4", None, "not\\there.mp4"],
    }
    found = manifest_clips(write(tmp_path, columns, suffix), tmp_path)
    assert [(clip.audio, clip.video) for clip in found.clips] == [
        ("a/b/1.wav", "v\\1.mp4"), ("a/b/1.wav", None), (None, "not\\there.mp4"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"video_path": ["v/1.mp4", "../secret.mp4"]}, r"row 2, zwölf, 二: \.\./secret\.mp4: lies outside"),
        ({"audio_path": ["/etc/passwd", None]}, "row 1, one: /etc/passwd: lies outside"),
        ({"audio_path": ["C:\\clips\\1.wav", None]}, r"row 1, one: C:.clips.1\.wav: is a path of Windows"),
        ({"audio_path": ["D:/clips/1.wav", None]}, r"row 1, one: D:/clips/1\.wav: is a path of Windows"),
        ({"audio_path": ["..\\secret.wav", None]}, r"row 1, one: \.\./secret\.wav: lies outside"),
        ({"audio_path": ["a\0b.wav", None]}, "row 1, one: .*null"),
        ({"clip_id": ["one", "one"]}, "'one' stands there 2 times"),
        ({"clip_id": ["one", None]}, "clip_id, row 2: is empty"),
        ({"clip_id": None}, "clip_id: no such column; the table has audio_path"),
        ({"audio_path": None, "video_path": None}, "audio_path or video_path: no such column"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_row(tmp_path, changes, problem):
    (tmp_path.parent / "secret.wav").touch()
    columns = {name: values for name, values in {**COLUMNS, **changes}.items() if values is not None}
    with pytest.raises(CorpusError, match=problem):
        manifest_clips(write(tmp_path, columns), tmp_path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_what_is_no_table_is_refused(tmp_path, suffix):
    file = tmp_path / f"clips{suffix}"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorpusError, match=r"not a readable Parquet table|cannot be read|goes over two lines"):
        manifest_clips(file, tmp_path)


def test_no_rows_are_no_input(tmp_path):
    with pytest.raises(CorpusError, match="the table has no rows"):
        manifest_clips(
            write(tmp_path, {"clip_id": pa.array([], pa.string()), "audio_path": pa.array([], pa.string())}), tmp_path
        )
