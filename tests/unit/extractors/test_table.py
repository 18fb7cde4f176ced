"""A table of ready features: one frame in the middle of the clip."""

from __future__ import annotations

import numpy as np
import pytest
from rendered_media import write_wav

from vavl.corpora.csv_table import FeatureTable
from vavl.errors import ClipError
from vavl.extractors.table import TableExtractor, table_info


@pytest.fixture
def rows() -> TableExtractor:
    values = np.array([[1, 2, 3], [4, np.nan, 6]], dtype=np.float32)
    return TableExtractor("units.csv", FeatureTable(("a", "b"), ("AU01", "AU02", "AU04"), values, "f" * 64))


def test_a_row_is_one_frame_in_the_middle_of_the_sound(rows, tmp_path):
    extracted = rows.extract("a", write_wav(tmp_path / "a.wav", np.zeros(32_000)))
    np.testing.assert_array_equal(extracted.values, [[1, 2, 3]])
    np.testing.assert_array_equal(extracted.frame_times, [1.0])


def test_without_sound_the_frame_is_at_0(rows, tmp_path):
    assert rows.extract("a", None).frame_times.tolist() == [0]
    assert rows.extract("a", tmp_path / "missing.wav").frame_times.tolist() == [0]


def test_missing_rows_and_values_are_refused_by_name(rows):
    with pytest.raises(ClipError, match="no such row"):
        rows.extract("c", None)
    with pytest.raises(ClipError, match=r"1 features are NaN or infinite: AU02"):
        rows.extract("b", None)


def test_the_provenance_is_the_file(rows):
    info = table_info(rows.table)
    assert info.extractor == "table:" + "f" * 16
    assert (info.width, info.channels, info.frame_rate_hz) == (3, ("AU01", "AU02", "AU04"), None)
