"""Stores of format 1: refused with the command that converts them, and converted with the hash that they had."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus_stores import write_corpus_store
from damaged_store import as_first_format, overwrite

from vavl.audit.report import audit_and_report
from vavl.config.files import read_json
from vavl.corpora.manifest import Manifest
from vavl.errors import StoreError
from vavl.store.first_format import convert_store
from vavl.store.store import FeatureStore


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_corpus_store(tmp_path / "whole", "demo", ("calm", "glad"))


@pytest.fixture
def old(whole: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(whole, tmp_path / "old")
    (folder / "quarantine.jsonl").write_text("")
    (folder / "manifest.parquet").write_text("the twin of an earlier version")
    return as_first_format(folder)


def test_an_old_store_is_refused_with_the_command_that_converts_it(old: Path) -> None:
    for read in (FeatureStore.open, Manifest.read, audit_and_report):
        with pytest.raises(StoreError, match=r"earlier version.*\n.*jobs/convert_store\.py STORE"):
            read(old)


def test_a_converted_store_is_the_one_that_would_be_written_today(old: Path, whole: Path) -> None:
    converted, today = convert_store(old), FeatureStore.open(whole)
    converted.verify()
    assert converted.hash == today.hash
    assert converted.content["modalities"] == today.content["modalities"]
    assert Manifest.read(old).table.equals(Manifest.read(whole).table, check_metadata=True)
    for row in range(len(today.lengths("video"))):
        np.testing.assert_array_equal(converted.features("video", row), today.features("video", row))
    there = {path.name for path in old.iterdir()}
    assert {"quarantine.jsonl", "facts.arrow"} <= there
    assert not {"audio.arrow", "manifest.arrow", "manifest.parquet"} & there
    before = (old / "store.json").stat().st_ino
    assert convert_store(old).hash == today.hash  # nothing is left to do
    assert (old / "store.json").stat().st_ino == before


def test_a_conversion_that_was_killed_while_it_took_its_place_loses_nothing(old: Path, whole: Path) -> None:
    old.rename(old.with_name(f".{old.name}.old"))
    old.with_name(f".{old.name}.partial").mkdir()
    assert convert_store(old).hash == FeatureStore.open(whole).hash


def test_a_merged_store_keeps_its_sources_and_sums(old: Path) -> None:
    sums = (old / "audio_sums.arrow").read_bytes()
    convert_store(old)
    assert (old / "audio_sums.arrow").read_bytes() == sums


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("audio.arrow", r"audio\.arrow: sha256: the file was changed or damaged"),
        ("video_sums.arrow", r"video_sums\.arrow: sha256: the file was changed"),
        ("manifest.arrow", r"manifest\.arrow: sha256: the file was changed"),
        ("store.json", r"store\.json: store_hash: is [0-9a-f]+, the content has"),
    ],
)
def test_a_changed_store_is_not_converted(old: Path, name: str, message: str) -> None:
    overwrite(old / name, b"log_mel" if name == "store.json" else b"s", b"log_mal" if name == "store.json" else b"t")
    before = sorted(old.iterdir())
    with pytest.raises(StoreError, match=message):
        convert_store(old)
    assert sorted(old.iterdir()) == before


def test_a_store_json_that_lacks_a_part_is_refused(old: Path) -> None:
    (old / "store.json").write_text('{"format_version": 1, "corpus": "demo"}')
    with pytest.raises(StoreError, match="the file was damaged: KeyError"):
        convert_store(old)


def test_the_job_converts_in_place(old: Path, run_job: Any) -> None:
    done = run_job("convert_store", str(old), f"output_dir={old.parent}/out")
    assert f"hash {FeatureStore.open(old).hash}, as before" in done.stdout
    assert read_json(old.parent / "out/summary.json")["store_hash"] == FeatureStore.open(old).hash
    done = run_job("convert_store", str(old.parent), f"output_dir={old.parent}/out", code=2)
    assert "name the directory of a feature store" in done.stderr
