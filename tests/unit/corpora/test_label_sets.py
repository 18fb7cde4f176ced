"""Label sets of a manifest: which one is chosen, and that choosing copies nothing."""

from __future__ import annotations

import pyarrow as pa
import pytest

from vavl.corpora.label_sets import LABEL_COLUMNS
from vavl.corpora.manifest import Manifest
from vavl.errors import ConfigError

ATTRIBUTES = {"attribute_columns": {"arousal": "act"}, "attribute_range": [1, 5]}


@pytest.fixture
def two_sets(corpus) -> Manifest:
    """Intended emotion from the names, and what was seen in some of the clips."""
    corpus.write("seen.csv", "file,an,ca,act\nf01_s1_ca,3,1,2\nf01_s1_an,0,2,5\n")
    table = {"file": "seen.csv", "key_column": "file", "soft_columns": {"angry": "an", "calm": "ca"}}
    corpus.content["labels"]["seen"] = {
        "source": "tables", "target": "perceived emotion", "tables": [table | ATTRIBUTES],
    }  # fmt: skip
    return corpus.manifest()


def labels(manifest: Manifest) -> dict[str, str]:
    table = manifest.table
    return dict(zip(table["clip_id"].to_pylist(), table["label"].to_pylist(), strict=True))


def test_the_first_set_is_the_default_and_the_others_stand_beside_it(two_sets):
    assert (two_sets.label_set, two_sets.target) == ("intended", "intended emotion")
    assert two_sets.label_sets == {"intended": "intended emotion", "seen": "perceived emotion"}
    assert {f"{column}__seen" for column in LABEL_COLUMNS} < set(two_sets.table.column_names)
    assert labels(two_sets)["f01_s1_ca"] == "calm"


def test_another_set_changes_labels_and_target_and_nothing_else(two_sets):
    seen = two_sets.with_labels("seen")
    assert (seen.label_set, seen.target) == ("seen", "perceived emotion")
    assert labels(seen)["f01_s1_ca"] == "angry"
    assert (seen.class_index() >= 0).sum() == 2
    others = [name for name in two_sets.table.column_names if name.split("__")[0] not in LABEL_COLUMNS]
    assert seen.table.select(others).equals(two_sets.table.select(others))


def test_the_way_there_and_back_gives_the_same_manifest(two_sets):
    back = two_sets.with_labels("seen").with_labels("intended")
    assert back.table.equals(two_sets.table, check_metadata=True)
    assert two_sets.with_labels(None) is two_sets


def test_the_rescaling_is_stated(two_sets):
    assert two_sets.metadata["labels"]["seen"]["rescaled_from"] == {"arousal": [1, 5]}
    assert two_sets.metadata["labels"]["intended"]["rescaled_from"] == {}
    values = two_sets.with_labels("seen").table["arousal"].drop_null().to_pylist()
    assert sorted(values) == [0.25, 1.0]


def test_an_unknown_set_lists_the_known_ones(two_sets):
    with pytest.raises(ConfigError, match=r"(?s)no set of labels `votes`.*choose one of intended, seen"):
        two_sets.with_labels("votes")


def test_a_choice_costs_no_memory(two_sets, tmp_path):
    two_sets.write(tmp_path)
    manifest = Manifest.read(tmp_path)
    before = pa.total_allocated_bytes()
    assert manifest.with_labels("seen").label_set == "seen"
    assert pa.total_allocated_bytes() == before
