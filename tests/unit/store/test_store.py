"""The feature store: what is written is read, in place; faults are refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from synthetic_store import write_synthetic_store

from vavl.corpora.manifest import Manifest
from vavl.errors import InputError, StoreError
from vavl.features import ChannelSums, ModalityInfo
from vavl.store import rows, store_writer
from vavl.store.shards import ClipFeatures, Dtype, Shard, row_batch
from vavl.store.store import FeatureStore
from vavl.store.store_writer import StoreWriter

WIDTH = 5


def some_clips(count: int = 40, seed: int = 0) -> list[ClipFeatures]:
    generator = np.random.default_rng(seed)
    clips = []
    for number in range(count):
        frames = int(generator.integers(1, 9))
        values = generator.normal(2, 3, size=(frames, WIDTH)).astype(np.float32)
        times = np.arange(frames, dtype=np.float32)
        clips.append(ClipFeatures(f"clip_{number:04d}", f"s{number % 3}", values, times))
    return clips


def info(**changes: object) -> ModalityInfo:
    facts: dict[str, object] = {"extractor": "log_mel", "version": "1", "settings": {"hop_ms": 20.0}}
    return ModalityInfo(**{**facts, "frame_rate_hz": 50.0, "width": WIDTH, **changes})  # type: ignore[arg-type]


def write(folder: Path, clips: list[ClipFeatures], per_batch: int = 7, dtype: Dtype = "float32") -> FeatureStore:
    writer = StoreWriter(folder, "small", "0" * 16, dtype)
    starts = range(0, len(clips), per_batch)
    batches = [row_batch("small", WIDTH, clips[start : start + per_batch]) for start in starts]
    writer.write_modality("audio", info(), batches)
    writer.finish({"clips": len(clips)})
    return FeatureStore.open(folder)


@pytest.fixture
def clips() -> list[ClipFeatures]:
    return some_clips()


@pytest.fixture
def store(tmp_path, clips) -> FeatureStore:
    return write(tmp_path / "store", clips)


def test_features_and_times_come_back_as_they_were(store, clips):
    assert store.lengths("audio").tolist() == [len(clip.values) for clip in clips]
    for row, clip in enumerate(clips):
        np.testing.assert_array_equal(store.features("audio", row), clip.values)
        np.testing.assert_array_equal(store.frame_times("audio", row), clip.frame_times)


def test_features_are_views_that_cannot_be_written(store):
    values = store.features("audio", 3)
    assert not values.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        values[0, 0] = 1


@pytest.mark.parametrize("order", ["sorted", "reversed"])
def test_rows_finds_clips_and_says_where_there_are_none(store, clips, order):
    wanted = ["clip_000", "clip_0003", "clip_0017", "clip_0039", "zebra"]
    expected = [-1, 3, 17, 39, -1]
    if order == "reversed":
        wanted, expected = wanted[::-1], expected[::-1]
    assert store.rows("audio", pa.chunked_array([wanted])).tolist() == expected


def test_rows_over_many_record_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "_IDS_PER_BATCH", 300)
    store = write(tmp_path, some_clips(2500), per_batch=300)
    ids = store.clip_ids("audio")
    assert ids.num_chunks > 1
    assert store.rows("audio", ids).tolist() == list(range(2500))
    np.testing.assert_array_equal(store.features("audio", 2400), some_clips(2500)[2400].values)


def test_speaker_sums_are_those_of_the_speakers_frames(store, clips):
    sums = store.speaker_sums("audio")
    assert set(sums) == {"s0", "s1", "s2"}
    for speaker, found in sums.items():
        expected = ChannelSums.of(np.concatenate([clip.values for clip in clips if clip.speaker == speaker]))
        assert found.count == expected.count
        np.testing.assert_allclose(found.sum, expected.sum, rtol=1e-12)
        np.testing.assert_allclose(found.sum_of_squares, expected.sum_of_squares, rtol=1e-12)


def test_the_hash_and_the_shards_follow_the_content_alone(tmp_path, clips):
    first = write(tmp_path / "first", clips)
    again = write(tmp_path / "again", clips, per_batch=11)
    other = write(tmp_path / "other", some_clips(seed=1))
    assert first.content == again.content
    assert (tmp_path / "first/audio/data-00000.arrow").read_bytes() == (
        tmp_path / "again/audio/data-00000.arrow"
    ).read_bytes()
    assert first.hash != other.hash


def test_hugging_face_datasets_opens_joins_and_saves_a_modality(store, clips, tmp_path):
    opened = datasets.load_from_disk(str(store.directory / "audio")).with_format("numpy")
    assert opened.column_names == ["clip_id", "corpus", "speaker", "features", "frame_times"]
    for number, clip in enumerate(clips):
        row = opened[number]
        assert (row["clip_id"], row["speaker"]) == (clip.clip_id, clip.speaker)
        assert row["features"].dtype == np.float32
        np.testing.assert_array_equal(row["features"], clip.values)  # (frames, channels)
        np.testing.assert_array_equal(row["frame_times"], clip.frame_times)
    datasets.concatenate_datasets([opened, opened]).save_to_disk(str(tmp_path / "both"))
    assert len(datasets.load_from_disk(str(tmp_path / "both"))) == 2 * len(clips)


# As version 0.1 wrote them, in its format 1.
@pytest.mark.parametrize(("clips", "known"), [(300, "0762b1ebd52f160a"), (5000, "3cfd81d260dc2173")])
def test_equal_content_has_the_hash_that_it_had_in_format_1(tmp_path, clips, known):
    store = FeatureStore.open(write_synthetic_store(tmp_path, clips))
    assert store.hash == known


def test_shards_are_cut_by_bytes_and_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "SHARD_BYTES", 20_000_000)
    store = FeatureStore.open(write_synthetic_store(tmp_path, 300, most_frames=125, widths={"audio": 1024}))
    shards = store.content["modalities"]["audio"]["shards"]
    assert len(shards) > 3
    assert all(shard["bytes"] < 20_100_000 for shard in shards)
    assert store.hash == "06ee15888daa2f07"  # as version 0.1 wrote it, in one file
    store.verify()
    opened = datasets.load_from_disk(str(tmp_path / "audio")).with_format("numpy")
    assert opened["clip_id"][:].tolist() == store.clip_ids("audio").to_pylist()
    for row in (0, 100, 299):
        np.testing.assert_array_equal(opened[row]["features"], store.features("audio", row))
        np.testing.assert_array_equal(opened[row]["frame_times"], store.frame_times("audio", row))


def test_more_shards_than_stay_open_are_read(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(store_writer, "SHARD_BYTES", 1)
    monkeypatch.setattr(store_writer, "_VALUES_PER_BATCH", 1)
    monkeypatch.setattr(rows, "_MOST_OPEN", 5)
    store = write(tmp_path, clips)
    for row in reversed(range(len(clips))):
        np.testing.assert_array_equal(store.features("audio", row), clips[row].values)
    (tmp_path / "audio/data-00031.arrow").unlink()
    with pytest.raises(StoreError, match=r"data-00031\.arrow: .*missing"):
        store.features("audio", 31)
    with pytest.raises(StoreError, match=r"data-00031\.arrow: .*missing"):
        FeatureStore.open(tmp_path)


def test_a_shard_of_another_store_is_refused_at_its_first_clip(tmp_path, clips):
    store = write(tmp_path / "one", clips)
    other = write(tmp_path / "other", [replace(clip, values=clip.values + 1) for clip in clips])
    name = "audio/data-00000.arrow"
    (store.directory / name).write_bytes((other.directory / name).read_bytes())
    opened = FeatureStore.open(store.directory)
    with pytest.raises(StoreError, match=r"clip clip_0002: .*not those that were written"):
        opened.features("audio", 2)
    with pytest.raises(StoreError, match="sha256: the file was changed"):
        opened.verify()


def test_float16_takes_half_the_bytes_and_states_its_largest_error(tmp_path, clips):
    store = write(tmp_path / "half", clips, dtype="float16")
    whole = write(tmp_path / "whole", clips)
    assert store.dtype("audio") == "float16"
    assert store.hash != whole.hash
    store.verify()
    largest = 0.0
    for row, clip in enumerate(clips):
        found = store.features("audio", row)
        assert found.dtype == np.float32
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, clip.values.astype(np.float16).astype(np.float32))
        largest = max(largest, float((abs(found - clip.values) / abs(clip.values)).max()))
    assert store.content["modalities"]["audio"]["shards"][0]["relative_error"] == pytest.approx(largest, rel=0.01)
    sizes = [shards[0]["bytes"] for shards in (one.content["modalities"]["audio"]["shards"] for one in (store, whole))]
    assert sizes[0] < sizes[1]
    hugging_face = datasets.load_from_disk(str(store.directory / "audio")).with_format("numpy")
    np.testing.assert_array_equal(hugging_face[7]["features"], store.features("audio", 7))
    sums = store.speaker_sums("audio")["s1"].sum
    expected = sum(store.features("audio", row).sum(axis=0, dtype=np.float64) for row in range(1, len(clips), 3))
    np.testing.assert_allclose(sums, expected, rtol=1e-12)


def test_what_float16_cannot_hold_is_refused_by_clip_and_channel(tmp_path, clips):
    clips[12].values[0, 3] = 7e4
    with pytest.raises(StoreError, match=r"clip clip_0012: channel 3 holds 70000, .*\n.*features\.dtype=float32"):
        write(tmp_path, clips, dtype="float16")
    assert not (tmp_path / "store.json").exists()
    assert not list(tmp_path.rglob("*.partial"))


def test_a_shard_that_was_cut_between_two_batches_is_refused(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(store_writer, "_ROWS_PER_BATCH", 10)
    store = write(tmp_path, clips)
    (shard,) = (Shard(**one) for one in store.content["modalities"]["audio"]["shards"])
    path = tmp_path / "audio" / shard.name
    with pa.memory_map(str(path)) as mapped:
        reader = pa.ipc.open_stream(mapped)
        for _ in range(3):
            reader.read_next_batch()
        end = mapped.tell()
    os.truncate(path, end)
    with pytest.raises(StoreError, match=r"data-00000\.arrow: has 30 of 40 clips: it was cut"):
        StoreWriter(tmp_path, "small", "0" * 16).add_shards("audio", info(), [shard])


def test_an_interrupted_store_is_none(store):
    (store.directory / "store.json").unlink()
    with pytest.raises(StoreError, match=r"no feature store.*\n.*run: python jobs/prepare_corpus.py CONFIG"):
        FeatureStore.open(store.directory)
    (store.directory / "parts").mkdir()
    with pytest.raises(StoreError, match="incomplete"):
        FeatureStore.open(store.directory)


def test_beginning_to_write_makes_an_old_store_incomplete(store):
    StoreWriter(store.directory, "small", "0" * 16)
    with pytest.raises(StoreError, match=r"store\.json"):
        FeatureStore.open(store.directory)


def test_a_format_from_the_future_is_refused(store):
    path = store.directory / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(StoreError, match="format 99 is unknown"):
        FeatureStore.open(store.directory)


def test_a_modality_that_would_name_a_file_elsewhere_is_refused(store):
    path = store.directory / "store.json"
    content = json.loads(path.read_text())
    content["modalities"]["../../secret"] = content["modalities"]["audio"]
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"modalities: \['../../secret'\] are not of \['audio', 'video'\]"):
        FeatureStore.open(store.directory)


def test_a_file_that_was_cut_off_or_is_missing_is_noticed_at_opening(store):
    path = store.directory / "audio/data-00000.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StoreError, match=r"bytes, store\.json says"):
        FeatureStore.open(store.directory)
    path.unlink()
    with pytest.raises(StoreError, match="missing"):
        FeatureStore.open(store.directory)


def test_a_broken_store_json_is_refused(store):
    (store.directory / "store.json").write_text("{")
    with pytest.raises(StoreError, match="not valid JSON"):
        FeatureStore.open(store.directory)


def test_verify_accepts_a_good_store_and_finds_changed_values(store):
    store.verify()
    path = store.directory / "audio/data-00000.arrow"
    content = bytearray(path.read_bytes())
    place = content.index(store.features("audio", 20).tobytes())
    content[place : place + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    with pytest.raises(StoreError, match="clip_0020: features hold NaN"):
        FeatureStore.open(store.directory).verify()
    content[place : place + 4] = np.float32(7).tobytes()
    path.write_bytes(content)
    with pytest.raises(StoreError, match="the file was changed"):
        FeatureStore.open(store.directory).verify()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_not_written(tmp_path, clips, value):
    clips[12].values[0, 2] = value
    with pytest.raises(StoreError, match="NaN or infinite"):
        write(tmp_path, clips)
    assert not (tmp_path / "store.json").exists()
    assert not list(tmp_path.rglob("*.partial"))


def test_clips_whose_times_are_not_those_of_their_frames_are_not_written(tmp_path, clips):
    clips[12] = replace(clips[12], frame_times=np.arange(len(clips[12].values) + 1, dtype=np.float32))
    with pytest.raises(StoreError, match=f"clip clip_0012: frames and values do not fit at width {WIDTH}"):
        write(tmp_path, clips)


def test_clips_out_of_order_are_not_written(tmp_path, clips):
    with pytest.raises(StoreError, match="repeated or not sorted"):
        write(tmp_path, [*clips, clips[0]])


def test_a_modality_without_clips_has_no_file(tmp_path, clips):
    write(tmp_path, clips)
    writer = StoreWriter(tmp_path, "small", "0" * 16)
    writer.write_modality("audio", info(), [])
    writer.finish({})
    store = FeatureStore.open(tmp_path)
    assert store.info == {}
    assert not (tmp_path / "audio/data-00000.arrow").exists()


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(InputError, match="cannot be written"):
        StoreWriter(tmp_path / "file" / "store", "small", "0" * 16)


def test_a_copy_for_another_process_is_the_folder_alone(store, clips):
    copied = pickle.dumps(store)
    assert len(copied) < 500
    np.testing.assert_array_equal(pickle.loads(copied).features("audio", 7), clips[7].values)


def test_a_row_that_is_not_there_is_refused(store):
    with pytest.raises(StoreError, match="there is no row 40"):
        store.features("audio", 40)


MEASURE = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from vavl.corpora.manifest import Manifest
from vavl.store.store import FeatureStore

folder = Path(sys.argv[1])
store, manifest = FeatureStore.open(folder), Manifest.read(folder)
rows = {name: store.rows(name, manifest.table["clip_id"]) for name in store.info}
manifest.split(0), manifest.class_index(), store.lengths("audio"), store.speaker_sums("audio")
chosen = np.random.default_rng(0).integers(len(manifest), size=4000)
total = sum(float(store.features(name, int(rows[name][clip])).sum()) for name in rows for clip in chosen)
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("RssAnon")))
"""


def private_kib(folder: Path) -> int:
    done = subprocess.run([sys.executable, "-c", MEASURE, str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is read from /proc")
def test_private_memory_does_not_grow_with_the_corpus(tmp_path):
    sizes = {"small": 5_000, "large": 200_000}
    for name, clips in sizes.items():
        write_synthetic_store(tmp_path / name, clips)
    assert len(Manifest.read(tmp_path / "large")) == 200_000
    small, large = private_kib(tmp_path / "small"), private_kib(tmp_path / "large")
    shutil.rmtree(tmp_path / "large")
    assert large <= 1.10 * small, f"{small} KiB for 5,000 clips, {large} KiB for 200,000"


def test_the_manifest_is_checked_like_the_features(tmp_path, clips):
    folder = tmp_path / "store"
    (folder / "manifest").mkdir(parents=True)
    (folder / "manifest/data-00000-of-00001.arrow").write_bytes(b"a manifest")
    store = write(folder, clips)
    assert store.content["files"]["manifest/data-00000-of-00001.arrow"]["bytes"] == 10
    assert store.hash == write(tmp_path / "without", clips).hash  # the card's hash stands for it
    store.verify()
    (folder / "manifest/data-00000-of-00001.arrow").write_bytes(b"a_manifest")
    with pytest.raises(StoreError, match=r"data-00000-of-00001\.arrow: sha256: the file was changed"):
        store.verify()


def test_known_sums_are_taken_as_they_are_and_must_be_of_all_frames(tmp_path, clips, store):
    known = store.speaker_sums("audio")
    batches = [row_batch("small", WIDTH, clips)]
    writer = StoreWriter(tmp_path / "copy", "small", "0" * 16)
    writer.write_modality("audio", info(), batches, known)
    writer.finish({"clips": len(clips)}, [{"corpus": "small"}])
    copy = FeatureStore.open(tmp_path / "copy")
    copy.verify()
    assert copy.content["sources"] == [{"corpus": "small"}]
    for speaker, sums in copy.speaker_sums("audio").items():
        np.testing.assert_array_equal(sums.sum, known[speaker].sum)
    with pytest.raises(StoreError, match=r"sums over \d+ frames, the rows have \d+"):
        writer.write_modality("audio", info(), batches, {"s0": known["s0"]})
