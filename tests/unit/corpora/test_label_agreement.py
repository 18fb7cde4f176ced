"""Facts about label sets, from the tables of a corpus alone."""

from __future__ import annotations

import pytest

from vavl.corpora.label_agreement import label_facts_of
from vavl.corpora.manifest import listed_manifest
from vavl.errors import CorpusError


def facts_of_tables(corpus) -> dict:
    return label_facts_of(listed_manifest(corpus.card(), corpus.root))


@pytest.fixture
def listed(corpus):
    """The tiny corpus as a list of clips and a table of votes, with no media in the directory."""
    corpus.content["clip_list"] = {
        "file": "clips.csv", "key_column": "name", "pattern": corpus.content["video"]["pattern"],
    }  # fmt: skip
    corpus.write("clips.csv", "name\n" + "".join(f"{clip}\n" for clip in corpus.clips))
    for path in corpus.root.rglob("*.wav"):
        path.unlink()
    rows = ["f01_s1_an,3,1", "f01_s1_ca,2,2", "f02_s1_ca,0,5", "f02_s2_ca,4,1"]
    corpus.write("votes.csv", "name,an,ca\n" + "\n".join(rows) + "\n")
    table = {
        "file": "votes.csv", "key_column": "name", "on_tie": "no_class",
        "soft_columns": {"angry": "an", "calm": "ca"},
    }  # fmt: skip
    corpus.content["labels"]["votes"] = {"source": "tables", "target": "votes of listeners", "tables": [table]}
    return corpus


def test_counts_need_no_media(listed):
    facts = facts_of_tables(listed)
    assert (facts["corpus"], facts["clips"], facts["speakers"]) == ("tiny", 24, 6)
    assert facts["sets"] == [
        {"name": "intended", "target": "intended emotion", "known": 24, "with_class": 24, "tied": 0,
         "classes": {"calm": 12, "angry": 12}},
        {"name": "votes", "target": "votes of listeners", "known": 4, "with_class": 3, "tied": 1,
         "classes": {"calm": 1, "angry": 2}},
    ]  # fmt: skip
    assert [fold["speakers"] for fold in facts["folds"]] == [{"train": 2, "validation": 2, "test": 2}] * 3


def test_a_tie_counts_as_another_class(listed):
    agreements = facts_of_tables(listed)["agreements"]
    assert agreements == [{"one": "intended", "other": "votes", "clips": 4, "equal": 2}]


def test_the_yardstick_scores_one_set_as_predictions_of_the_default(listed):
    assert facts_of_tables(listed)["yardsticks"] == [], "votes have gaps on the test clips"
    # The names as predictions of what was heard; one calm clip in four was heard as angry.
    heard = "".join(f"{clip},{'angry' if clip.endswith('an') else 'calm'}\n" for clip in listed.clips)
    listed.write("heard.csv", "name,heard\n" + heard.replace("s2_ca,calm", "s2_ca,angry"))
    table = {"file": "heard.csv", "key_column": "name", "label_column": "heard"}
    heard_set = {"source": "tables", "target": "heard", "tables": [table]}
    listed.content["labels"] = {"heard": heard_set} | listed.content["labels"]
    yardstick = facts_of_tables(listed)["yardsticks"][0]
    assert (yardstick["truth"], yardstick["prediction"]) == ("heard", "intended")
    assert yardstick["f1_micro"] == dict.fromkeys("012", 0.75)
    # Angry: precision 1, recall 2/3, F1 .8; calm: precision 1/2, recall 1, F1 2/3.
    assert yardstick["f1_macro"] == pytest.approx(dict.fromkeys("012", (0.8 + 2 / 3) / 2))


def test_a_manifest_with_media_gives_the_same_facts(listed):
    tables_alone = facts_of_tables(listed)
    for clip in listed.clips:
        listed.touch(f"audio/{clip[:3]}/{clip}.wav")
    assert label_facts_of(listed.manifest()) == tables_alone


def test_a_card_without_a_list_of_clips_is_refused(corpus):
    with pytest.raises(CorpusError, match="tiny card: clip_list: the card names no list of clips"):
        listed_manifest(corpus.card(), corpus.root)
