"""Runs on corpora whose labels are not one class per clip: other sets, attributes alone, clips in no split."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from damaged_store import state_anew

from vavl.corpora.label_sets import LABEL_COLUMNS
from vavl.corpora.manifest import Manifest
from vavl.errors import InputError
from vavl.training.run_data import describe_model, open_run_data


@pytest.fixture
def changed_store(small_store, small_corpus, tmp_path):
    """Return a function that copies the small store with another manifest."""

    def make(columns, **facts):
        store = shutil.copytree(small_store(small_corpus()), tmp_path / "store")
        manifest = Manifest.read(store)
        table = manifest.table
        for name, values in columns(table).items():
            kept = table.drop_columns(name) if name in table.column_names else table
            table = kept.append_column(name, values)
        text = json.dumps({**manifest.metadata, **facts}).encode()
        Manifest(table.replace_schema_metadata({b"vavl": text})).write(store)
        state_anew(store)
        return store

    return make


def without_classes(table):
    """Attributes stay; every third clip is in no split."""
    split = [None if row % 3 else "none" for row in range(len(table))]
    kept = [before if now is None else now for before, now in zip(table["split_0"].to_pylist(), split, strict=True)]
    return {
        "label": pa.nulls(len(table), pa.string()),
        "soft_label": pa.nulls(len(table), pa.list_(pa.float32())),
        "split_0": pa.array(kept),
    }


def test_a_corpus_with_attributes_alone_is_trained_on(changed_store, plan, train_from):
    store = changed_store(without_classes, classes=[])
    attributes = plan(
        data={"store": store, "target": "attributes", "partitions": {"labelled_fraction": 0.5}},
        evaluation={"select_by": ["validation/audio/ccc_mean"]},
    )
    run, _, end, records = train_from(attributes)
    assert end is not None
    assert np.isfinite(records.losses()).all()
    rows = np.concatenate(list(run.data.rows.values()))
    assert len(rows) == len(set(rows.tolist())) < len(run.data.collection.speaker)
    assert not (rows % 3 == 0).any(), "clips in no split take no part"


@pytest.mark.parametrize(
    ("missing", "names"), [(("dominance",), ("arousal", "valence")), (("arousal", "dominance"), ("valence",))]
)
def test_some_of_the_attributes_are_trained_on(changed_store, plan, train_from, missing, names):
    store = changed_store(
        lambda table: without_classes(table) | {name: pa.nulls(len(table), pa.float32()) for name in missing},
        classes=[],
    )
    some = plan(data={"store": store, "target": "attributes"}, evaluation={"select_by": ["validation/audio/ccc_mean"]})
    run, _, end, records = train_from(some)
    assert end is not None
    assert np.isfinite(records.losses()).all()
    assert run.data.task.attributes == names


def test_what_is_written_down_names_the_set_and_its_target(changed_store, plan):
    sets = {"drawn": {"target": "drawn class"}, "first": {"target": "first letter"}}

    def columns(table):
        return {f"{name}__first": table[name] for name in LABEL_COLUMNS}

    store = changed_store(columns, labels=sets, label_set="drawn", target="drawn class")
    for chosen, target in ((None, "drawn class"), ("first", "first letter")):
        run_plan = plan(data={"store": store, "labels": chosen})
        provenance = describe_model(run_plan, open_run_data(run_plan)).provenance
        assert (provenance["label_set"], provenance["label_target"]) == (chosen or "drawn", target)


def test_an_unknown_set_of_labels_is_refused_before_anything_is_read(plan):
    with pytest.raises(InputError, match="no set of labels `votes`"):
        open_run_data(plan(data={"store": plan().data.store, "labels": "votes"}))
