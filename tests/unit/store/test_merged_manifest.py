"""Labels of one corpus in the classes of another: kept to the bit, added up, taken out, or unknown."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from vavl.store.merged_manifest import mapped_labels

NAMES = {"calm": "neutral", "flat": "neutral", "glad": "glad", "odd": None}
CLASSES = ("glad", "neutral")


def soft(*rows: list[float] | None) -> pa.Table:
    labels = pa.array([None] * len(rows), pa.string())
    return pa.table({"label": labels, "soft_label": pa.array(rows, pa.list_(pa.float32()))})


def test_shares_of_classes_that_become_one_are_added_up_and_dropped_ones_taken_out():
    columns, is_dropped = mapped_labels(
        soft([0.25, 0.5, 0.25, 0], None, [0.25, 0.25, 0.25, 0.25], [0, 0, 1, 0]), NAMES, CLASSES
    )
    shares = columns["soft_label"].to_pylist()
    assert shares[:2] == [[0.25, 0.75], None]
    assert shares[2] == pytest.approx([1 / 3, 2 / 3])
    assert shares[3] == [1, 0]
    assert not is_dropped.any()


def test_a_soft_label_whose_largest_share_was_dropped_is_unknown_and_its_clip_dropped():
    columns, is_dropped = mapped_labels(soft([0.2, 0.2, 0.2, 0.4], [0.4, 0, 0.3, 0.3], [0, 0, 0, 1]), NAMES, CLASSES)
    shares = columns["soft_label"].to_pylist()
    assert shares[0] is None
    assert shares[1] == pytest.approx([3 / 7, 4 / 7])
    assert shares[2] is None
    assert is_dropped.tolist() == [True, False, True]


def test_a_clip_whose_class_was_dropped_has_no_soft_label_and_keeps_its_attributes():
    table = pa.table({
        "label": ["odd", "glad", None],
        "soft_label": pa.array([[0.1, 0.1, 0.5, 0.3], [0, 0.4, 0.35, 0.25], None], pa.list_(pa.float32())),
        "valence": pa.array([0.25, 0.5, None], pa.float32()),
    })  # fmt: skip
    columns, is_dropped = mapped_labels(table, NAMES, CLASSES)
    assert columns["label"].to_pylist() == [None, "glad", None]
    assert columns["soft_label"].to_pylist()[0] is None
    assert columns["soft_label"].to_pylist()[1] == pytest.approx([0.35 / 0.75, 0.4 / 0.75])
    assert columns["valence"].to_pylist() == [0.25, 0.5, None]
    assert columns["arousal"].to_pylist() == [None, None, None]
    assert is_dropped.tolist() == [True, False, False]


def test_kept_shares_stay_what_they_are_to_the_bit():
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.ones(3), size=50).astype(np.float32)
    names = {"a": "a", "b": "b", "c": "c"}
    columns, _ = mapped_labels(soft(*shares.tolist()), names, ("c", "a", "b"))
    found = np.asarray(columns["soft_label"].flatten()).reshape(-1, 3)
    np.testing.assert_array_equal(found, shares[:, [2, 0, 1]])


def test_a_corpus_without_labels_has_none_in_the_merged_store():
    columns, is_dropped = mapped_labels(soft(None, None), {}, CLASSES)
    assert columns["label"].to_pylist() == columns["soft_label"].to_pylist() == [None, None]
    assert not is_dropped.any()
