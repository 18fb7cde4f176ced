"""A part: whole or absent, faults set aside, rows of older parts used again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from damaged_store import overwrite

from vavl.errors import ClipError, ConfigError, StoreError
from vavl.extraction import parts
from vavl.extraction.parts import Part, PartExtractor, PartRecord, PartResult, shard_directory
from vavl.extraction.sources import ClipPlace, Source
from vavl.extractors.extracted import Extracted
from vavl.features import ModalityInfo
from vavl.store.shards import row_schema, shard_rows
from vavl.workers.attempts import TimeLimit

LIMIT = TimeLimit(60, ends_process=False)


def part_in(folder: Path, count: int = 4) -> Part:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"c{number}.wav").write_text(f"sound {number}")
    clips = tuple(
        ClipPlace(f"c{number}", f"s{number % 2}", f"c{number}.wav", f"c{number}.wav") for number in range(count)
    )
    return Part("audio", folder / "parts/audio-0.json", "small", folder, 3, "features 1", "float32", clips)


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
        times = np.arange(number + 1, dtype=np.float32)
        note = "a note" if number == 2 else None
        return fault or Extracted(values, times, {"frames": number + 1}, note, {"seconds": number + 0.25})


def extract(part: Part, extractor: Extractor | None = None) -> PartResult:
    info = ModalityInfo("counted", "1", {}, None, 3)
    source = Source(info, "audio_path", "audio_path", lambda: extractor or Extractor())
    return PartExtractor({"audio": source}, LIMIT)(part)


def record_of(part: Part) -> PartRecord:
    record = PartRecord.read(part.path)
    assert record is not None
    return record


def rows(part: Part) -> pa.Table:
    paths = [shard_directory(part.path) / shard.name for shard in record_of(part).shards]
    batches = [found.batch for path in paths for found in shard_rows(path, part.width, part.dtype)]
    return pa.Table.from_batches(batches, row_schema(part.width, part.dtype))


def files_of(part: Part) -> dict[str, bytes]:
    """Return record and shards of a part by name."""
    paths = [part.path, *(shard_directory(part.path) / shard.name for shard in record_of(part).shards)]
    return {path.name: path.read_bytes() for path in paths}


def test_rows_and_record_are_written_together(tmp_path):
    part = part_in(tmp_path)
    result = extract(part)
    assert rows(part)["clip_id"].to_pylist() == ["c0", "c1", "c2", "c3"]
    assert [len(features) for features in rows(part)["features"].to_pylist()] == [1, 2, 3, 4]
    record = record_of(part)
    assert (result.extracted, result.tally) == (("c0", "c1", "c2", "c3"), {"frames": 10})
    assert (record.clips["c2"].note, record.clips["c3"].facts) == ("a note", {"seconds": 3.25})
    assert len({clip.sha256 for clip in record.clips.values()}) == 4
    assert [path.name for path in part.path.parent.iterdir()] == ["audio-0.json"]
    assert [path.name for path in (tmp_path / "audio").iterdir()] == ["data-0-00000.arrow"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (ClipError("c1.wav", "audio", "the file holds no audio", "listen"), "the file holds no audio"),
        (MemoryError("too large"), "unexpected error of the extractor"),
        (Extracted(np.full((2, 3), np.nan, np.float32), np.zeros(2, np.float32)), "features hold NaN"),
        (Extracted(np.zeros((2, 4), np.float32), np.zeros(2, np.float32)), "4 channels instead of 3"),
        (Extracted(np.zeros((0, 3), np.float32), np.zeros(0, np.float32)), "gives no frame"),
    ],
)
def test_a_bad_clip_is_set_aside_and_the_others_go_on(tmp_path, fault, reason):
    part = part_in(tmp_path)
    result = extract(part, Extractor({"c1": fault}))
    (quarantined,) = result.quarantined
    assert (quarantined.clip_id, quarantined.modality, quarantined.file) == ("c1", "audio", "c1.wav")
    assert quarantined.reason.startswith(reason)
    assert rows(part)["clip_id"].to_pylist() == ["c0", "c2", "c3"]


def test_what_is_wrong_with_a_missing_file_or_a_pipe_is_for_the_extractor_to_say(tmp_path):
    part = part_in(tmp_path)
    for number in (1, 2):
        (tmp_path / f"c{number}.wav").unlink()
    os.mkfifo(tmp_path / "c2.wav")
    faults = {f"c{number}": ClipError("x", "", "no file", "restore it") for number in (1, 2)}
    result = extract(part, Extractor(faults))
    assert [entry.reason for entry in result.quarantined] == ["no file"] * 2


def test_wrong_settings_are_no_fault_of_a_clip_and_leave_nothing(tmp_path):
    part = part_in(tmp_path)
    fault = ConfigError("settings", "", "do not fit", "correct them")
    with pytest.raises(ConfigError, match="do not fit"):
        extract(part, Extractor({"c1": fault}))
    assert not list(part.path.parent.iterdir())
    assert not list((tmp_path / "audio").iterdir())


def test_doing_a_part_again_tries_the_bad_clips_alone(tmp_path):
    two, one = part_in(tmp_path / "two"), part_in(tmp_path / "one")
    extract(two, Extractor({"c1": ClipError("c1.wav", "", "bad", "repair")}))
    again = Extractor()
    result = extract(replace(two, earlier=(two.path,)), again)
    extract(one)
    assert (again.calls, result.extracted, result.quarantined) == (["c1"], ("c1",), ())
    assert files_of(two) == files_of(one)


@pytest.mark.parametrize("values_per_group", [1, 1_000_000])
def test_rows_are_used_again_from_several_older_parts_unless_the_file_changed(tmp_path, monkeypatch, values_per_group):
    monkeypatch.setattr(parts, "_VALUES_PER_GROUP", values_per_group)
    part = part_in(tmp_path, 6)
    old = [
        replace(part, path=tmp_path / f"parts/audio-{number + 1}.json", clips=part.clips[start : start + 3])
        for number, start in enumerate((0, 3))
    ]
    for each in old:
        extract(each)
    (tmp_path / "c4.wav").write_text("another sound")
    wanted = replace(part, clips=(part.clips[0], *part.clips[2:]), earlier=(old[0].path, old[1].path))
    (tmp_path / "anew").mkdir()
    again, fresh = Extractor(), replace(wanted, path=tmp_path / "anew/parts/audio-0.json", earlier=())
    assert extract(wanted, again).extracted == ("c4",)
    extract(fresh)
    assert again.calls == ["c4"]
    assert files_of(wanted) == files_of(fresh)


def test_rows_of_other_features_are_not_used_again(tmp_path):
    part = part_in(tmp_path)
    extract(part)
    other = replace(part, provenance="features 2", path=tmp_path / "parts/audio-9.json", earlier=(part.path,))
    assert len(extract(other).extracted) == 4


def test_a_new_speaker_takes_the_row_along(tmp_path):
    part = part_in(tmp_path)
    extract(part)
    clips = tuple(replace(clip, speaker="someone else") for clip in part.clips)
    assert extract(replace(part, clips=clips, earlier=(part.path,))).extracted == ()
    assert set(rows(part)["speaker"].to_pylist()) == {"someone else"}


def test_a_part_of_bad_clips_only_is_empty(tmp_path):
    part = part_in(tmp_path, 2)
    fault = ClipError("x", "", "bad", "repair")
    assert len(extract(part, Extractor({"c0": fault, "c1": fault})).quarantined) == 2
    assert rows(part).num_rows == 0


def test_a_record_that_cannot_be_read_or_lacks_a_whole_shard_is_none(tmp_path):
    part = part_in(tmp_path)
    assert PartRecord.read(part.path) is None
    extract(part)
    shard = tmp_path / "audio/data-0-00000.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert PartRecord.read(part.path) is None
    shard.write_bytes(whole)
    assert PartRecord.read(part.path) is not None
    for content in (b"cut off", b"{}", b"\xff\xfe", part.path.read_bytes().replace(b'"format": 3', b'"format": 2')):
        part.path.write_bytes(content)
        assert PartRecord.read(part.path) is None


def test_a_row_that_was_damaged_is_extracted_again(tmp_path, caplog):
    part = part_in(tmp_path)
    extract(part)
    shard = tmp_path / "audio/data-0-00000.arrow"
    overwrite(shard, np.full(9, 2, np.float32).tobytes(), np.full(9, 3, np.float32).tobytes())
    again = replace(part, path=tmp_path / "parts/audio-1.json", earlier=(part.path,))
    assert extract(again).extracted == ("c2",)
    assert "damaged (its CRC-32 differs); clip c2 is extracted again" in caplog.text
    assert rows(again)["features"][2].as_py() == [[2.0] * 3] * 3


def test_a_large_part_has_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_VALUES_PER_GROUP", 1)
    monkeypatch.setattr(parts, "SHARD_BYTES", 400)
    part = part_in(tmp_path, 8)
    extract(part)
    assert len(record_of(part).shards) > 2
    assert rows(part)["clip_id"].to_pylist() == [f"c{number}" for number in range(8)]
    again = replace(part, path=tmp_path / "parts/audio-1.json", earlier=(part.path,))
    assert extract(again).extracted == ()
    assert rows(again).equals(rows(part))


def test_a_value_that_float16_cannot_hold_ends_the_job_with_clip_and_channel(tmp_path):
    part = replace(part_in(tmp_path), dtype="float16")
    large = Extracted(np.array([[0, 1e5, 0]], np.float32), np.zeros(1, np.float32))
    with pytest.raises(StoreError, match=r"clip c1: channel 1 holds 100000, float16 ends at 65504"):
        extract(part, Extractor({"c1": large}))
    assert not list(part.path.parent.iterdir())
    extract(part)
    assert extract(replace(part, dtype="float32", earlier=(part.path,))).extracted == ("c0", "c1", "c2", "c3")


def test_hugging_face_datasets_opens_the_shards_of_parts(tmp_path):
    part = part_in(tmp_path)
    for number in range(2):
        extract(replace(part, path=tmp_path / f"parts/audio-{number}.json"))
    files = [str(path) for path in sorted((tmp_path / "audio").iterdir())]
    table = datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])
    assert len(table) == 8
    assert table[2]["features"] == [[2.0] * 3] * 3
