"""CSV tables: columns, numbers, packed files; tests/integration/test_odd_corpora.py has the broken ones."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from vavl.errors import CorpusError
from vavl.media.csv_table import read_number_columns, read_text_columns


def test_text_keeps_leading_zeros_and_drops_spaces(corpus):
    corpus.write("t.csv", '\ufeffactor, "fold, published"\n01, 4\n"1, 2",\n')
    assert read_text_columns(corpus.root, "t.csv", ("actor", "fold, published")) == [["01", "1, 2"], ["4", ""]]


def test_an_empty_number_is_nan(corpus):
    corpus.write("t.csv", "a,b,c\n1,2.5,x\n,-3e2,y\n")
    values = read_number_columns(corpus.root, "t.csv", ("b", "a"))
    np.testing.assert_array_equal(values, [[2.5, 1], [-300, np.nan]])


def test_bytes_far_behind_the_start_that_are_no_text_are_refused(corpus):
    corpus.touch("t.csv").write_bytes(b"a\n" + b"fine\n" * 10_000 + b"\xff\xfe\n")
    with pytest.raises(CorpusError, match="not a valid table"):
        read_text_columns(corpus.root, "t.csv", ("a",))


def test_a_packed_table_reads_as_a_plain_one(corpus):
    corpus.touch("t.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfname,votes\nx,1\ny,\n"))
    assert read_text_columns(corpus.root, "t.csv.gz", ("name",)) == [["x", "y"]]
    np.testing.assert_array_equal(read_number_columns(corpus.root, "t.csv.gz", ("votes",)), [[1], [np.nan]])


@pytest.mark.parametrize("kept", [3, 25, 4000])
def test_a_packed_table_that_is_cut_off_is_refused(corpus, kept):
    noise = np.random.default_rng(0).integers(10**9, size=5000)
    packed = gzip.compress(("a\n" + "\n".join(map(str, noise))).encode())
    corpus.touch("t.csv.gz").write_bytes(packed[:kept])
    with pytest.raises(CorpusError, match=r"cannot be read|not a valid table"):
        read_number_columns(corpus.root, "t.csv.gz", ("a",))


def test_a_plain_table_under_a_packed_name_is_refused(corpus):
    corpus.write("t.csv.gz", "a\n1\n")
    with pytest.raises(CorpusError, match=r"t\.csv\.gz: the table cannot be read: Not a gzipped file"):
        read_number_columns(corpus.root, "t.csv.gz", ("a",))
