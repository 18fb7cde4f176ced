"""Training runs on stores that were damaged: an error that names file and clip, never a score or a bus error."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_store import as_first_format, set_value, state_anew

from vavl.corpora.manifest import Manifest
from vavl.corpora.splits import SPLITS
from vavl.errors import StoreError
from vavl.evaluation.measure import ClipSelection, open_clips, predict_clips
from vavl.models.saved_model import load_model
from vavl.store.store import FeatureStore
from vavl.training.launch import launch_training
from vavl.training.run_directory import claim_run_directory
from vavl.training.settings import TrainingPlan

pytestmark = pytest.mark.promise

Plan = Callable[..., TrainingPlan]


@pytest.fixture
def on_a_copy(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], TrainingPlan]:
    """Return a function that makes a plan on a store of the test's own."""
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))

    def make() -> TrainingPlan:
        chosen = plan(evaluation={"test": True})
        store = shutil.copytree(str(chosen.data.store), tmp_path / "store")
        data = chosen.data.model_copy(update={"store": store})
        return chosen.model_copy(update={"data": data})

    return make


def clip_of(store: Path, split: str) -> tuple[int, str]:
    """Return a labeled clip of a split that has audio: its row in the store, and its id."""
    manifest, opened = Manifest.read(store), FeatureStore.open(store)
    rows = opened.rows("audio", manifest.table["clip_id"])
    fits = (manifest.split(0) == SPLITS.index(split)) & (rows >= 0) & (manifest.class_index() >= 0)
    chosen = int(np.flatnonzero(fits)[-1])
    return int(rows[chosen]), str(manifest.table["clip_id"][chosen])


def train(chosen: TrainingPlan, report: Any) -> None:
    launch_training(chosen, claim_run_directory(chosen), report)


@pytest.mark.parametrize("split", SPLITS)
def test_nan_in_a_clip_is_named_by_clip_and_split(
    on_a_copy: Callable[[], TrainingPlan], records: Any, split: str
) -> None:
    """As if the extractor had written them: the hashes are those of the file."""
    chosen = on_a_copy()
    store = Path(str(chosen.data.store))
    row, clip = clip_of(store, split)
    set_value(store, "audio", row, float("nan"))
    state_anew(store)
    with pytest.raises(StoreError, match=rf"audio of {clip} \({split} clip of fold 0\): 1 of \d+ values") as error:
        train(chosen, records())
    assert error.value.exit_code == 2
    assert "learning_rate" not in str(error.value)


@pytest.mark.parametrize("split", SPLITS)
def test_a_value_that_was_changed_in_the_file_is_named_by_file_and_clip(
    on_a_copy: Callable[[], TrainingPlan], records: Any, split: str
) -> None:
    chosen = on_a_copy()
    store = Path(str(chosen.data.store))
    row, clip = clip_of(store, split)
    set_value(store, "audio", row, 0.123)
    with pytest.raises(StoreError, match=rf"audio/data-00000\.arrow: clip {clip}: .*changed or damaged"):
        train(chosen, records())


def test_a_store_of_an_earlier_version_is_not_trained_on(on_a_copy: Callable[[], TrainingPlan], records: Any) -> None:
    chosen = on_a_copy()
    as_first_format(Path(str(chosen.data.store)))
    seen = records()
    with pytest.raises(StoreError, match=r"earlier version.*\n.*convert_store\.py STORE"):
        train(chosen, seen)
    assert not seen.losses()


def test_a_store_that_is_cut_under_a_running_training_run_is_an_error(
    on_a_copy: Callable[[], TrainingPlan], records: Any
) -> None:
    chosen = on_a_copy()
    seen = records()

    def report(record: dict[str, Any]) -> None:
        seen(record)
        os.truncate(Path(str(chosen.data.store)) / "video/data-00000.arrow", 1000)

    with pytest.raises(StoreError, match=r"video/data-00000\.arrow: ends before byte \d+: it was cut"):
        train(chosen, report)


def test_an_evaluation_names_clip_and_split(on_a_copy: Callable[[], TrainingPlan], records: Any) -> None:
    chosen = on_a_copy()
    train(chosen, records())
    store = Path(str(chosen.data.store))
    row, clip = clip_of(store, "test")
    set_value(store, "audio", row, float("inf"))
    state_anew(store)
    model = load_model(chosen.output_dir / "best")
    with pytest.raises(StoreError, match=rf"audio of {clip} \(test clip of fold 0\)"):
        predict_clips(model, open_clips(model, ClipSelection(store=store, split="test")))
