"""Damage of a store that leaves its size as it is, and files that are cut while they are read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from damaged_store import set_value
from synthetic_store import write_synthetic_store

from vavl.config.files import sha256_of_file
from vavl.errors import StoreError
from vavl.store.rows import OF_BATCHES, OF_ROWS, ModalityIndex
from vavl.store.store import FeatureStore

CLIPS = 120


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))
    return write_synthetic_store(tmp_path / "store", CLIPS)


def test_a_changed_value_is_an_error_at_the_first_reading_of_its_clip(folder: Path) -> None:
    set_value(folder, "audio", 17, 0.25)
    store = FeatureStore.open(folder)
    store.features("audio", 16)
    with pytest.raises(StoreError, match=r"data-00000\.arrow: clip clip0000017: .*CRC-32.*\n.*prepare_corpus\.py"):
        store.features("audio", 17)
    with pytest.raises(StoreError, match="clip clip0000017"):
        store.frame_times("audio", 17)
    with pytest.raises(StoreError, match=r"audio/data-00000\.arrow: sha256: the file was changed"):
        store.verify()


@pytest.mark.parametrize("name", ["video/data-00000.arrow", "video_index.bin", "video_ids.arrow"])
def test_every_byte_that_a_run_reads_is_covered(folder: Path, name: str) -> None:
    """A flipped bit anywhere is refused, or lies where no run reads: ids and speakers of a shard, padding."""
    path = folder / name
    whole = path.read_bytes()
    store = FeatureStore.open(folder)
    read = {modality: [store.features(modality, row) for row in range(CLIPS)] for modality in store.info}
    ids, found = store.clip_ids("video").to_pylist(), 0
    places = np.random.default_rng(0).integers(len(whole), size=150)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            opened = FeatureStore.open(folder)
            values = [opened.features("video", row) for row in range(CLIPS)]
        except StoreError:
            found += 1
            continue
        assert opened.clip_ids("video").to_pylist() == ids
        assert all(np.array_equal(one, other) for one, other in zip(values, read["video"], strict=True))
    assert found > 0.5 * len(places) if name.endswith("0.arrow") else found == len(places)


@pytest.mark.parametrize("name", ["audio_ids.arrow", "audio_index.bin", "audio_sums.arrow"])
def test_a_changed_file_next_to_the_features_is_an_error(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-40] + b"\1" + content[-39:])
    with pytest.raises(StoreError, match=rf"{name}: .*the file was changed or damaged"):
        FeatureStore.open(folder).speaker_sums("audio")


def test_a_file_that_is_cut_while_it_is_in_use_is_an_error_and_no_bus_error(folder: Path) -> None:
    store = FeatureStore.open(folder)
    store.features("audio", 100)
    size = (folder / "audio/data-00000.arrow").stat().st_size
    os.truncate(folder / "audio/data-00000.arrow", size // 10)
    with pytest.raises(StoreError, match=r"audio/data-00000\.arrow: ends before byte \d+: it was cut"):
        store.features("audio", 100)
    store.check_uncut()
    os.truncate(folder / "video_index.bin", 100)
    with pytest.raises(StoreError, match=r"video_index\.bin: has 100 of \d+ bytes: it was cut"):
        store.check_uncut()
    os.truncate(folder / "manifest/data-00000-of-00001.arrow", 100)
    with pytest.raises(StoreError, match=r"data-00000-of-00001\.arrow: has 100 of \d+ bytes: it was cut"):
        store.check_uncut()


def test_a_store_that_is_replaced_stays_readable_to_who_opened_it(folder: Path) -> None:
    store = FeatureStore.open(folder)
    before = store.features("video", 5)
    write_synthetic_store(folder, 7)
    np.testing.assert_array_equal(store.features("video", 5), before)
    store.check_uncut()
    assert len(FeatureStore.open(folder).lengths("video")) == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 10**12}, r"modalities\.audio\.width: is 1000000000000, expected a whole number from 1 to"),
        ({"width": 0}, r"modalities\.audio\.width: is 0"),
        ({"width": "8"}, r"modalities\.audio\.width: is '8'"),
        ({"clips": -1}, r"modalities\.audio\.clips: is -1"),
        ({"clips": 119}, r"audio_index\.bin: is not of the 119 clips that store\.json says"),
        ({"frames": 7}, r"audio_index\.bin: frames: are not the 7 that store\.json says"),
        ({"dtype": "int8"}, r"modalities\.audio\.dtype: is 'int8'"),
        ({"bytes": 10**30}, r"modalities\.audio\.bytes: is 10+, expected"),
        ({"frames": None}, r"modalities\.audio\.frames: is None"),
    ],
)
def test_a_wrong_number_in_store_json_is_named(folder: Path, changes: dict[str, object], message: str) -> None:
    content = json.loads((folder / "store.json").read_text())
    content["modalities"]["audio"] |= changes
    (folder / "store.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match=message):
        FeatureStore.open(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc", "a/b", ".", "..", "", 7, None])
def test_a_corpus_that_would_name_a_place_elsewhere_is_refused(folder: Path, name: object) -> None:
    content = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps(content | {"corpus": name}))
    with pytest.raises(StoreError, match=r"store\.json: corpus: .* is not the name of a file or directory"):
        FeatureStore.open(folder)


def test_another_width_than_that_of_the_shards_is_refused(folder: Path) -> None:
    content = json.loads((folder / "store.json").read_text())
    content["modalities"]["audio"]["width"] = 9
    (folder / "store.json").write_text(json.dumps(content))
    store = FeatureStore.open(folder)
    with pytest.raises(StoreError, match=r"data-00000\.arrow: clip clip0000005: .*CRC-32"):
        store.features("audio", 5)
    with pytest.raises(StoreError, match=r"data-00000\.arrow: schema: has other columns"):
        store.verify()


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("shard", 7, "row 3 is in shard 7 of 1"),
        ("values_at", 10**15, "ends before byte"),
        ("times_at", -800, "cannot be read"),
        ("first_row", -1, "not those that were written"),
    ],
)
def test_an_index_that_leads_out_of_the_shards_is_an_error(folder: Path, name: str, number: int, message: str) -> None:
    path = folder / "audio_index.bin"
    index = {key: array.copy() for key, array in ModalityIndex.read(path, CLIPS, 32).arrays.items()}
    index[name][:] = number
    path.write_bytes(b"".join(array.tobytes() for array in index.values()))
    content = json.loads((folder / "store.json").read_text())
    content["files"]["audio_index.bin"]["sha256"] = sha256_of_file(path)
    (folder / "store.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match=message):
        FeatureStore.open(folder).features("audio", 3)


def test_every_row_is_found_where_its_record_batch_puts_it(tmp_path: Path) -> None:
    """Against the same sums done one after the other."""
    generator, width, path, expected = np.random.default_rng(0), 6, tmp_path / "audio_index.bin", []
    columns: dict[str, list[int]] = {name: [] for name in (*OF_ROWS, *OF_BATCHES)}
    for shard, byte in ((0, 64), (0, 9000), (1, 64), (3, 800)):
        values_at, times_at = byte, byte + 5000
        batch = {"first_row": len(expected), "values_at": values_at, "times_at": times_at, "shard": shard}
        for name, number in batch.items():
            columns[name].append(number)
        for _ in range(generator.integers(1, 20)):
            frames, crc32 = int(generator.integers(1, 9)), int(generator.integers(2**32))
            columns["frames"].append(frames)
            columns["crc32"].append(crc32)
            expected.append((shard, frames, crc32, values_at, times_at))
            values_at, times_at = values_at + frames * width * 2, times_at + frames * 4
    path.write_bytes(b"".join(np.array(columns[name], kind).tobytes() for name, kind in (OF_ROWS | OF_BATCHES).items()))
    assert path.stat().st_size == 8 * len(expected) + 28 * 4
    found = ModalityIndex.read(path, len(expected), width * 2)
    assert len(found) == len(expected)
    assert [tuple(found.place(row)) for row in range(len(found))] == expected
    assert found.frames.tolist() == [place[1] for place in expected]
    for clips in (len(expected) - 1, len(expected) + 1):
        with pytest.raises(StoreError, match=rf"audio_index\.bin: is not of the {clips} clips"):
            ModalityIndex.read(path, clips, width * 2)
