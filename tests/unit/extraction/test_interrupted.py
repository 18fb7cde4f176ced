"""What is damaged, killed, full or of an earlier version: refused by name, and made as if nothing had happened."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from damaged_store import as_first_format
from small_extraction import HERE, contents, extract, plan_of

from vavl.errors import InputError, StoreError
from vavl.extraction.extract import extract_features
from vavl.extraction.report import extraction_summary, summary_rows
from vavl.extraction.settings import ExtractionRun, FeatureSettings
from vavl.store.store import FeatureStore


def test_a_damaged_part_is_done_again(made_corpus, made_store, store):
    part = min((store / "parts").glob("audio-*.json"))
    clips = len(json.loads(part.read_text())["clips"])
    part.write_bytes(b"cut off")
    assert extract(made_corpus, store).extracted == clips
    assert contents(store) == contents(made_store)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_torn_or_missing_shard_is_extracted_again(made_corpus, made_store, store, damage):
    shard = min((store / "video").glob("data-*.arrow"))
    clips = len(datasets.Dataset.from_file(str(shard)))
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    else:
        shard.unlink()
    assert extract(made_corpus, store).extracted == clips
    assert contents(store) == contents(made_store)


def test_a_shard_that_was_damaged_after_its_part_was_finished_is_named_and_once_removed_made_again(
    made_corpus, made_store, store
):
    shard = min((store / "audio").glob("data-*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match=rf"{shard.name}: .*damaged since it was written.*\n.*remove this file"):
        extract(made_corpus, store)
    with pytest.raises(StoreError, match="incomplete"):
        FeatureStore.open(store)
    shard.unlink()
    assert extract(made_corpus, store).extracted > 0
    assert contents(store) == contents(made_store)


def test_what_a_killed_job_left_half_done_is_swept_away(made_corpus, made_store, store):
    """Killed after a shard and before its record, and in the middle of a shard."""
    (store / "store.json").unlink()
    min((store / "parts").glob("audio-*.json")).unlink()
    (store / "audio/.data-000000000000-00000.arrow.x.partial").write_bytes(b"half")
    shutil.copy(min((store / "audio").glob("data-*.arrow")), store / "audio/data-ffffffffffff-00000.arrow")
    assert 0 < extract(made_corpus, store).extracted < 36
    assert contents(store) == contents(made_store)


@pytest.mark.parametrize(("written", "last"), [("data-", 3), (".current", 30)])
def test_a_full_disk_ends_the_job_quarantines_nothing_and_the_same_command_goes_on(
    made_corpus, made_store, tmp_path, monkeypatch, written, last
):
    """While a shard is written, and while the marker of the clip in work is."""
    made: list[Path] = []

    def replace(path, to):
        made.extend([to] if written in to.name else [])
        if len(made) >= last:
            raise OSError(errno.ENOSPC, "No space left on device")
        return path.rename(to)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(InputError, match=r"cannot be written: No space left on device\n.*free disk space"):
        extract(made_corpus, tmp_path / "store")
    monkeypatch.undo()
    assert not list(tmp_path.rglob("quarantine.jsonl"))
    with pytest.raises(StoreError, match="incomplete"):
        FeatureStore.open(tmp_path / "store")
    assert extract(made_corpus, tmp_path / "store").kept > 0
    assert contents(tmp_path / "store") == contents(made_store)


def test_float16_is_a_setting_and_its_largest_error_is_reported(made_corpus, made_store, store):
    settings = FeatureSettings(dtype="float16")
    result = extract_features(plan_of(made_corpus, store, settings), HERE)
    assert (result.kept, result.extracted_again) == (0, 72)  # numbers that were rounded do not come back
    summary = extraction_summary(result)
    assert 0 < summary["largest_relative_error"]["audio"] <= 2**-11
    assert any(name == "float16" for name, _ in summary_rows(summary, store))
    whole = FeatureStore.open(made_store)
    np.testing.assert_array_equal(
        result.store.features("audio", 5), whole.features("audio", 5).astype(np.float16).astype(np.float32)
    )
    result.store.verify()


def test_a_directory_with_a_store_of_an_earlier_version_is_not_written_into(made_corpus, store):
    as_first_format(store)
    with pytest.raises(StoreError, match=r"earlier version\n.*convert_store\.py STORE"):
        extract(made_corpus, store)
    anew = extract(made_corpus, store, ExtractionRun(workers=0, resume=False))
    assert anew.extracted == 72
    assert not list(store.glob("audio.arrow"))
