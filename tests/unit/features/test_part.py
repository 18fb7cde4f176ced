"""A part: whole or absent, faults set aside, finished rows kept when it is done again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest

from vavl.data.store import ROW_SCHEMA
from vavl.errors import ClipError, ConfigError
from vavl.features.extracted import Extracted
from vavl.features.part import ClipPlace, Part, extract_part, read_part, read_part_record


def part_in(folder: Path, count: int = 4) -> Part:
    clips = tuple(ClipPlace(f"c{number}", f"s{number % 2}", f"c{number}.wav") for number in range(count))
    return Part("audio", 0, folder / "audio-00000.parquet", "small", 3, clips)


class Extractor:
    """Counts its calls; fails for the clips named in ``bad``."""

    def __init__(self, bad: dict[str, Exception | Extracted] | None = None) -> None:
        self.bad, self.calls = bad or {}, []

    def __call__(self, clip: ClipPlace) -> Extracted:
        self.calls.append(clip.clip_id)
        fault = self.bad.get(clip.clip_id)
        if isinstance(fault, Exception):
            raise fault
        number = int(clip.clip_id[1:])
        values = np.full((number + 1, 3), number, dtype=np.float32)
        note = "a note" if number == 2 else None
        return fault or Extracted(
            values, np.arange(number + 1, dtype=np.float32), {"frames": number + 1}, note
        )


def test_rows_and_record_are_written_together(tmp_path):
    record = extract_part(part_in(tmp_path), Extractor())
    table, again = read_part(tmp_path / "audio-00000.parquet")
    assert table.schema == ROW_SCHEMA
    assert table["clip_id"].to_pylist() == ["c0", "c1", "c2", "c3"]
    assert table["frames"].to_pylist() == [1, 2, 3, 4]
    assert again == record == read_part_record(tmp_path / "audio-00000.parquet")
    assert (record.notes, record.tally) == ({"c2": "a note"}, {"frames": 10})
    assert [path.name for path in tmp_path.iterdir()] == ["audio-00000.parquet"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (ClipError("c1.wav", "audio", "the file holds no sound", "listen"), "the file holds no sound"),
        (MemoryError("too large"), "unexpected fault of the extractor"),
        (Extracted(np.full((2, 3), np.nan, np.float32), np.zeros(2, np.float32)), "features hold NaN"),
        (Extracted(np.zeros((2, 4), np.float32), np.zeros(2, np.float32)), "4 channels instead of 3"),
        (Extracted(np.zeros((0, 3), np.float32), np.zeros(0, np.float32)), "gives no frame"),
    ],
)
def test_a_bad_clip_is_set_aside_and_the_others_go_on(tmp_path, fault, reason):
    record = extract_part(part_in(tmp_path), Extractor({"c1": fault}))
    (quarantined,) = record.quarantined
    assert (quarantined.clip_id, quarantined.modality, quarantined.file) == ("c1", "audio", "c1.wav")
    assert quarantined.reason.startswith(reason)
    assert read_part(tmp_path / "audio-00000.parquet")[0]["clip_id"].to_pylist() == ["c0", "c2", "c3"]


def test_wrong_settings_are_no_fault_of_a_clip(tmp_path):
    with pytest.raises(ConfigError, match="do not fit"):
        extract_part(
            part_in(tmp_path), Extractor({"c1": ConfigError("settings", "", "do not fit", "correct them")})
        )


def test_doing_a_part_again_tries_the_bad_clips_alone(tmp_path):
    extract_part(part_in(tmp_path / "two"), Extractor({"c1": ClipError("c1.wav", "", "bad", "repair")}))
    again = Extractor()
    record = extract_part(part_in(tmp_path / "two"), again)
    extract_part(part_in(tmp_path / "one"), Extractor())
    assert again.calls == ["c1"]
    assert record.quarantined == ()
    both = [(tmp_path / name / "audio-00000.parquet").read_bytes() for name in ("one", "two")]
    assert both[0] == both[1]


def test_a_part_of_bad_clips_only_is_empty(tmp_path):
    fault = ClipError("x", "", "bad", "repair")
    extract_part(part_in(tmp_path, 2), Extractor({"c0": fault, "c1": fault}))
    table, record = read_part(tmp_path / "audio-00000.parquet")
    assert (table.num_rows, len(record.quarantined)) == (0, 2)


def test_a_clip_that_ended_its_process_is_not_tried_again(tmp_path):
    extractor = Extractor()
    record = extract_part(part_in(tmp_path).with_crashing("c3"), extractor)
    assert "c3" not in extractor.calls
    assert "crash or out of memory" in record.quarantined[0].reason


def test_a_file_that_is_no_part_has_no_record(tmp_path):
    (tmp_path / "audio-00000.parquet").write_bytes(b"cut off")
    assert read_part_record(tmp_path / "audio-00000.parquet") is None
    assert read_part_record(tmp_path / "missing.parquet") is None


def test_hugging_face_datasets_loads_parts(tmp_path):
    second = replace(part_in(tmp_path), number=1, path=tmp_path / "audio-00001.parquet")
    for part in (part_in(tmp_path), second):
        extract_part(part, Extractor())
    files = [str(path) for path in sorted(tmp_path.glob("audio-*.parquet"))]
    table = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(table) == 8
    assert np.reshape(table[2]["values"], (3, 3)).tolist() == [[2.0] * 3] * 3
