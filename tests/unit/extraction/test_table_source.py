"""A table of ready features: one frame in the middle of the clip."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from rendered_media import write_wav

from vavl.errors import ClipError, CorpusError
from vavl.extraction.sources import ClipPlace, FeatureTable, read_feature_table


def place(key: str, sound: str | None = None) -> ClipPlace:
    return ClipPlace(key, "s1", key, sound)


@pytest.fixture
def rows(tmp_path) -> FeatureTable:
    values = np.array([[1, 2, 3], [4, np.nan, 6]], dtype=np.float32)
    return FeatureTable(tmp_path, "units.csv", ("a", "b"), ("AU01", "AU02", "AU04"), values, "f" * 64)


def test_a_row_is_one_frame_in_the_middle_of_the_sound(rows, tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros(32_000))
    extracted = rows.extract(place("a", "a.wav"))
    np.testing.assert_array_equal(extracted.values, [[1, 2, 3]])
    np.testing.assert_array_equal(extracted.frame_times, [1.0])


def test_without_sound_the_frame_is_at_0(rows, tmp_path):
    assert rows.extract(place("a")).frame_times.tolist() == [0]
    assert rows.extract(place("a", "missing.wav")).frame_times.tolist() == [0]


def test_missing_rows_and_values_are_refused_by_name(rows):
    with pytest.raises(ClipError, match="no such row"):
        rows.extract(place("c"))
    with pytest.raises(ClipError, match=r"1 features are NaN or infinite: AU02"):
        rows.extract(place("b"))


def test_the_provenance_is_the_file(rows):
    info = rows.info
    assert info.extractor == "table:" + "f" * 16
    assert (info.width, info.channels, info.frame_rate_hz) == (3, ("AU01", "AU02", "AU04"), None)


def test_the_feature_table_holds_the_selected_columns(corpus):
    path = corpus.write("units.csv", "frames,AU02,clip,AU01\n9,1.5,m01_s1_ca,\n8,2.5,f01_s1_an,0.25\n")
    table = read_feature_table(corpus.card().video, corpus.root)
    assert table.keys == ("m01_s1_ca", "f01_s1_an")
    assert table.columns == ("AU02", "AU01")
    assert table.values.dtype == np.float32
    np.testing.assert_array_equal(table.values, np.array([[1.5, np.nan], [2.5, 0.25]], np.float32))
    assert table.file_hash == hashlib.sha256(path.read_bytes()).hexdigest()


def test_another_number_of_feature_columns_is_refused(corpus):
    corpus.content["video"]["width"] = 35
    with pytest.raises(CorpusError, match=r"2 columns match AU.*the card says width 35"):
        read_feature_table(corpus.card().video, corpus.root)


def test_a_repeated_key_is_refused(corpus):
    corpus.write("units.csv", "clip,AU01,AU02\nf01_s1_ca,1,2\nf01_s1_ca,1,2\n")
    with pytest.raises(CorpusError, match="clip: key 'f01_s1_ca' occurs twice"):
        read_feature_table(corpus.card().video, corpus.root)
