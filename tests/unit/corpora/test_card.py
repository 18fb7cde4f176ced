"""Cards: what they refuse, what their hash depends on, and where the corpus directory comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vavl.corpora.card import card_hash, corpus_root, read_card, require_decided
from vavl.errors import ConfigError, CorpusError


@pytest.fixture(autouse=True)
def _no_root_from_outside(monkeypatch):
    monkeypatch.delenv("TINY_ROOT", raising=False)


def named(**keys) -> dict:
    return {"source": "pattern", "target": "intended", "group": "emotion"} | keys


def seen(**keys) -> dict:
    table = {"file": "l.csv", "key_column": "k"} | keys
    return {"source": "tables", "target": "perceived", "tables": [table]}


def written(corpus) -> Path:
    return corpus.write("../tiny.yaml", yaml.safe_dump(corpus.content))


def test_a_card_survives_the_way_through_yaml(corpus):
    assert read_card(written(corpus)) == corpus.card()


def test_all_faults_of_a_card_are_reported_at_once(corpus):
    corpus.content["clases"] = []
    del corpus.content["licence"]
    corpus.content["audio"]["suffixes"] = ["wav"]
    with pytest.raises(ConfigError) as caught:
        read_card(written(corpus))
    assert "did you mean `classes`" in str(caught.value)
    assert "licence: Field required" in str(caught.value)
    assert "audio.files.suffixes.0" in str(caught.value)


def test_a_card_takes_nothing_from_the_environment(corpus, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "123")
    corpus.content["groups"]["sentence"]["map"] = {"s1": "${SECRET_TOKEN}"}
    with pytest.raises(ConfigError, match=r"groups\.sentence\.map\.s1: a card takes nothing"):
        read_card(written(corpus))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../outside.csv", "tables/../../outside.csv", "C:/outside.csv", "..\\outside.csv", "."]
)
@pytest.mark.parametrize("place", [("video",), ("splits", "folds"), ("labels", "seen", "tables", 0)])
def test_no_name_in_a_card_leads_out_of_the_corpus_folder(corpus, place, name):
    corpus.content["labels"] = {"seen": seen(label_column="e")}
    section = corpus.content
    for key in place:
        section = section[key]
    section["file"] = name
    with pytest.raises(ConfigError, match=r"file: .*(relative to|inside) the corpus directory"):
        read_card(written(corpus))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": None, "video": None}, "neither audio nor video"),
        ({"classes": ["calm", "calm", "angry"]}, "listed twice: calm"),
        ({"speaker": {"group": "actor"}}, "speaker: the pattern of audio has no group named `actor`"),
        ({"groups": {"take": {"group": "take"}}}, r"groups\.take: the pattern of audio has no group"),
        ({"labels": {"i": named(map={"ha": "happy"})}}, r"labels\.i: happy not among the classes"),
        ({"labels": {"i": named(group="mood")}}, r"labels\.i: the pattern of audio has no group named `mood`"),
        ({"labels": {"i": seen()}}, "names no label_column"),
        ({"labels": {"i": seen(soft_columns={"happy": "h"})}}, "happy not among the classes"),
        ({"labels": {"i": seen(attribute_columns={"arousal": "a"})}}, "need an attribute_range"),
        ({"labels": {"i": {"source": "tables", "target": "t", "tables": []}}}, "at least 1 item"),
        (
            {"yardsticks": [{"name": "n", "accuracy_percent": 1, "protocol": "p", "citation": "c", "labels": "x"}]},
            "`n` belongs to no set of labels `x`",
        ),
        ({"labels": {"a__b": named()}}, "may not hold two underscores"),
        ({"label": named()}, "label: unknown key"),
        ({"audio": {"pattern": "(?P<name>.+)", "suffixes": [".wav"]}}, "needs a group .*clip"),
        ({"labels": {"i": named(map={1: "calm"})}}, "valid string"),
    ],
)
def test_parts_of_a_card_must_fit_together(corpus, change, message):
    corpus.content |= change
    with pytest.raises(ConfigError, match=message):
        read_card(written(corpus))


def test_the_hash_follows_what_decides_clips_and_not_prose(corpus):
    before = card_hash(corpus.card())
    corpus.content |= {"title": "Another title", "citation": "corrected"}
    assert card_hash(corpus.card()) == before
    corpus.content["splits"]["validation_speakers"] = 1
    assert card_hash(corpus.card()) != before


def test_the_hash_follows_which_labels_come_first(corpus):
    sets = corpus.content["labels"] | {"again": named(map={"ca": "calm", "an": "angry"})}
    corpus.content["labels"] = sets
    before = card_hash(corpus.card())
    corpus.content["labels"] = dict(reversed(sets.items()))
    assert card_hash(corpus.card()) != before


def test_the_folder_comes_from_the_argument_then_the_variable_then_the_default(corpus, tmp_path, monkeypatch):
    for name in ("argument", "variable", "default"):
        (tmp_path / name).mkdir()
    corpus.content["default_root"] = "default"
    card = corpus.card()
    monkeypatch.chdir(tmp_path)
    assert corpus_root(card) == tmp_path / "default"
    monkeypatch.setenv("TINY_ROOT", str(tmp_path / "variable"))
    assert corpus_root(card) == tmp_path / "variable"
    assert corpus_root(card, tmp_path / "argument") == tmp_path / "argument"


def test_relative_folders_count_from_the_root_of_a_cluster(corpus, tmp_path, monkeypatch):
    (tmp_path / "shared/default").mkdir(parents=True)
    corpus.content["default_root"] = "default"
    monkeypatch.setenv("VAVL_ROOT", str(tmp_path / "shared"))
    assert corpus_root(corpus.card()) == tmp_path / "shared/default"


@pytest.mark.parametrize("folder", ["/etc", "../elsewhere", "runs/../../elsewhere", "C:\\corpora"])
def test_a_card_opens_no_folder_outside_the_working_folder(corpus, folder):
    corpus.content["default_root"] = folder
    with pytest.raises(ConfigError, match=r"default_root: .*must be relative to the working directory"):
        read_card(written(corpus))


def test_a_relative_folder_becomes_absolute(corpus, monkeypatch):
    monkeypatch.chdir(corpus.root.parent)
    assert corpus_root(corpus.card(), Path("corpus")) == corpus.root


def test_an_unset_variable_is_named_with_the_way_to_get_the_corpus(corpus):
    with pytest.raises(CorpusError, match=r"(?s)TINY_ROOT.*export TINY_ROOT=.*made by the test"):
        corpus_root(corpus.card())


def test_a_missing_corpus_folder_is_named(corpus, monkeypatch):
    monkeypatch.setenv("TINY_ROOT", str(corpus.root / "absent"))
    with pytest.raises(CorpusError, match=r"absent: TINY_ROOT: the directory of corpus tiny does not exist"):
        corpus_root(corpus.card())


def test_guesses_that_nobody_decided_are_listed(tmp_path):
    card = tmp_path / "card.yaml"
    card.write_text("# Proposed\nname: x\n  # DECIDE: who speaks\n#DECIDE: test speakers\ntitle: 'DECIDE: no guess'\n")
    with pytest.raises(ConfigError, match=r"2 guesses(?s:.*)line 3: who speaks(?s:.*)line 4: test speakers"):
        require_decided(card)
    card.write_text("name: x\ntitle: 'DECIDE: no guess'\n")
    require_decided(card)
