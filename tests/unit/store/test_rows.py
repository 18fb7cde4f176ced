"""Damage of a store that leaves its size as it is, and files that are cut while they are read."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from damaged_store import overwrite, set_value, state_anew, without_checks
from synthetic_store import write_synthetic_store

from vavl.errors import StoreError
from vavl.store import checked_files
from vavl.store.checked_files import check_hash_once
from vavl.store.rows import checks_file
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
    with pytest.raises(StoreError, match=r"audio\.arrow: clip clip0000017: .*CRC-32.*\n.*prepare_corpus\.py"):
        store.features("audio", 17)
    with pytest.raises(StoreError, match="clip clip0000017"):
        store.frame_times("audio", 17)
    with pytest.raises(StoreError, match=r"audio\.arrow: sha256: the file was changed"):
        store.verify()


@pytest.mark.parametrize("with_checks", [True, False])
def test_every_byte_of_the_features_is_covered(folder: Path, with_checks: bool) -> None:
    """A flipped bit anywhere is refused, or lies where no run reads: speakers, names, offsets, padding."""
    if not with_checks:
        without_checks(folder)
    path = folder / "video.arrow"
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
    assert found == len(places) if not with_checks else found > 0.5 * len(places)


def test_a_changed_clip_id_is_an_error_at_opening(folder: Path) -> None:
    overwrite(folder / "audio.arrow", b"clip0000040", b"clip0000x40")
    with pytest.raises(StoreError, match=r"audio\.arrow: clip_id: .*not those that were written"):
        FeatureStore.open(folder)


@pytest.mark.parametrize("name", ["audio_checks.arrow", "audio_sums.arrow"])
def test_a_changed_file_next_to_the_features_is_an_error(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-40] + b"\1" + content[-39:])
    with pytest.raises(StoreError, match=rf"{name}: .*the file was changed or damaged"):
        FeatureStore.open(folder).speaker_sums("audio")


def test_a_store_of_an_earlier_version_is_read_once_per_machine_and_state(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_checks(folder)
    hashed: list[str] = []
    whole = checked_files.check_hash
    monkeypatch.setattr(checked_files, "check_hash", lambda path, *rest: (hashed.append(path.name), whole(path, *rest)))
    with caplog.at_level(logging.INFO):
        for _ in range(3):  # as processes of one machine do
            store = FeatureStore.open(folder)
            store.features("audio", 3)
            store.features("audio", 4)
    assert hashed == ["audio.arrow"]
    assert caplog.text.count("read once to compare its SHA-256") == 1
    os.utime(folder / "audio.arrow")
    FeatureStore.open(folder).features("audio", 3)
    assert hashed == ["audio.arrow"] * 2
    overwrite(folder / "audio.arrow", store.features("audio", 9).tobytes(), bytes(store.features("audio", 9).nbytes))
    with pytest.raises(StoreError, match=r"audio\.arrow: sha256: the file was changed or damaged"):
        FeatureStore.open(folder).features("audio", 3)


def test_a_cache_that_cannot_be_written_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VAVL_CACHE", str(folder / "store.json" / "below_a_file"))
    sha256 = json.loads((folder / "store.json").read_text())["modalities"]["audio"]["sha256"]
    check_hash_once(folder / "audio.arrow", sha256)
    assert "each process compares" in caplog.text
    with pytest.raises(StoreError, match="changed"):
        check_hash_once(folder / "video.arrow", sha256)


def test_a_file_that_is_cut_while_it_is_in_use_is_an_error_and_no_bus_error(folder: Path) -> None:
    store = FeatureStore.open(folder)
    store.features("audio", 100)
    size = (folder / "audio.arrow").stat().st_size
    os.truncate(folder / "audio.arrow", size // 10)
    with pytest.raises(StoreError, match=r"audio\.arrow: ends before byte \d+: it was cut while it was in use"):
        store.features("audio", 100)
    store.check_uncut()
    os.truncate(folder / "manifest.arrow", 100)
    with pytest.raises(StoreError, match=r"manifest\.arrow: has 100 of \d+ bytes: it was cut"):
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
        ({"width": 9}, r"modalities\.audio\.width: is 9, the rows of audio\.arrow have 8 channels"),
        ({"width": 10**12}, r"modalities\.audio\.width: is 1000000000000, expected a whole number from 1 to"),
        ({"width": 0}, r"modalities\.audio\.width: is 0"),
        ({"width": "8"}, r"modalities\.audio\.width: is '8'"),
        ({"clips": -1}, r"modalities\.audio\.clips: is -1"),
        ({"clips": 119}, r"audio\.arrow: has 120 clips, store\.json says 119"),
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


def test_rows_of_other_widths_than_stated_do_not_fit(folder: Path) -> None:
    """The column of the width says 8, the lists hold something else."""
    path = folder / "audio.arrow"
    with pa.ipc.open_stream(path.read_bytes()) as reader:
        batches = list(reader)
    with pa.ipc.new_stream(str(path), batches[0].schema) as writer:
        for batch in batches:
            place = batch.schema.get_field_index("frames")
            frames = pa.array(batch.column("frames").to_numpy() + 1, pa.int32())
            writer.write_batch(batch.set_column(place, batch.schema.field(place), frames))
    content = json.loads((folder / "store.json").read_text())
    content["modalities"]["audio"]["bytes"] = path.stat().st_size
    (folder / "store.json").write_text(json.dumps(content))
    state_anew(folder)
    with pytest.raises(StoreError, match="frames and values do not fit at width 8"):
        FeatureStore.open(folder)


def test_checksums_do_not_enter_the_hash_of_a_store(folder: Path) -> None:
    store = FeatureStore.open(folder)
    assert {checks_file("audio"), checks_file("video")} <= store.content["files"].keys()
    assert FeatureStore.open(without_checks(folder)).hash == store.hash
