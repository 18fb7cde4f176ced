"""CSV tables: columns, numbers, broken files and names that lead outside."""

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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the table is empty"),
        ("\n", "the table is empty"),
        ("a,b\n", "a header and no rows"),
        ("a,c\n1,2\n", "b: no such column; the table has a, c"),
        ("a,b,a\n1,2,3\n", "a column name occurs twice"),
        ("a,b\n1,2\n1,2,3\n", "not a valid table"),
        ("a,b\n1,two\n", "not a valid table"),
    ],
)
def test_broken_tables_are_refused(corpus, text, message):
    corpus.write("t.csv", text)
    with pytest.raises(CorpusError, match=message):
        read_number_columns(corpus.root, "t.csv", ("a", "b"))


def test_bytes_that_are_no_text_are_refused(corpus):
    corpus.touch("t.csv").write_bytes(b"\xff\xfe\x00\x00")
    with pytest.raises(CorpusError, match="cannot be read"):
        read_text_columns(corpus.root, "t.csv", ("a",))
    corpus.touch("t.csv").write_bytes(b"a\n" + b"fine\n" * 10_000 + b"\xff\xfe\n")
    with pytest.raises(CorpusError, match="not a valid table"):
        read_text_columns(corpus.root, "t.csv", ("a",))


def test_a_missing_table_is_named(corpus):
    with pytest.raises(CorpusError, match=r"absent\.csv: the table cannot be read: No such file"):
        read_text_columns(corpus.root, "absent.csv", ("a",))


def test_a_link_that_leads_outside_is_refused(corpus, tmp_path):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    (corpus.root / "t.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(CorpusError, match="lies outside the corpus directory"):
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
