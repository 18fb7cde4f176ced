"""The sex of speakers from a table of theirs; from names see test_manifest.py."""

from __future__ import annotations

import pytest

from vavl.errors import CorpusError


@pytest.fixture
def by_table(corpus):
    def build(rows: str):
        corpus.write("speakers.csv", "who,sex\n" + rows)
        corpus.content["sex"] = {
            "source": "table", "file": "speakers.csv", "speaker_column": "who", "sex_column": "sex",
            "map": {"F": "female", "M": "male", "?": None},
        }  # fmt: skip
        table = corpus.manifest().table
        return dict(zip(table["speaker"].to_pylist(), table["sex"].to_pylist(), strict=True))

    return build


def test_sexes_come_from_the_table_and_stay_unknown_without_a_row(by_table):
    sexes = by_table("f01,F\nm01,M\nm02,?\nx01,F\n")
    assert sexes == {"f01": "female", "m01": "male"} | dict.fromkeys(("f02", "f03", "m02", "m03"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("f01,F\nf01,M\n", "who: speaker f01 is female and male"),
        ("f01,X\n", "sex: `X` of speaker f01 is not in the card's map"),
        ("x01,F\n", "no row is about a speaker of the corpus"),
    ],
)
def test_broken_tables_are_refused(by_table, rows, message):
    with pytest.raises(CorpusError, match=rf"speakers\.csv: .*{message}|speakers\.csv: {message}"):
        by_table(rows)
