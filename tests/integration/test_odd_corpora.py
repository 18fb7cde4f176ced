"""Odd tables, cards and names: each is handled, or refused with file, field, problem and fix, within seconds."""

from __future__ import annotations

import logging
import re
import time

import pytest
import yaml
from odd_corpora import CLIPS, KINDS, good_corpus

from vavl.corpora.card import read_card
from vavl.corpora.manifest import build_manifest
from vavl.errors import ConfigError, CorpusError

LONGEST_S = 5.0


def test_there_are_many_kinds_and_no_two_have_one_name():
    assert len({(kind, odd.name) for kind, odd in KINDS}) == len(KINDS) > 60


@pytest.mark.parametrize(("kind", "odd"), KINDS, ids=[f"{kind}-{odd.name}" for kind, odd in KINDS])
def test_an_odd_corpus_is_handled_or_refused_with_what_to_do(tmp_path, caplog, kind, odd):
    corpus = good_corpus(tmp_path)
    card = tmp_path / "odd.yaml"
    card.write_text(yaml.safe_dump(corpus.card))
    good = build_manifest(read_card(card), corpus.root)
    assert len(good) == len(CLIPS)

    text = odd.bend(corpus)
    card.write_text(text if isinstance(text, str) else yaml.safe_dump(corpus.card))
    start = time.process_time()
    if odd.refusal is None:
        with caplog.at_level(logging.WARNING):
            found = build_manifest(read_card(card), corpus.root)
        assert found.table.drop(["corpus"]).equals(good.table.drop(["corpus"])) == odd.is_same
        if odd.warning is not None:
            assert re.search(odd.warning, caplog.text)
    else:
        with pytest.raises((ConfigError, CorpusError)) as caught:
            build_manifest(read_card(card), corpus.root)
        assert re.search(odd.refusal, str(caught.value), re.DOTALL), str(caught.value)
        assert all((caught.value.file, caught.value.problem, caught.value.fix))
    assert time.process_time() - start < LONGEST_S
