"""Models that a tiny training left, made once per session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_plans import tiny_plan

from vavl.models.saved_model import SavedModel, load_model
from vavl.training.worker import read_outcome, train_on_worker

MIXED = {"without_audio": (0,), "without_video": (1,), "without_label": (2,)}


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        folder: of the run.
        store: that it trained on.
        metrics: that it measured of its best epoch.
    """

    folder: Path
    store: Path
    metrics: dict[str, float]

    def model(self) -> SavedModel:
        """Return what it trained."""
        return load_model(self.folder / "best")


@pytest.fixture(scope="session")
def trained(
    small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Trained]:
    """Return a function that trains on a mixed store and measures test; sections as in ``tiny_plan``."""
    made: dict[str, Trained] = {}

    def train(corpus: dict[str, Any] | None = None, **sections: Any) -> Trained:
        key = repr((corpus, sections))
        if key not in made:
            store = small_store(small_corpus(**(MIXED if corpus is None else corpus)))
            folder = tmp_path_factory.mktemp("trained")
            plan = tiny_plan(folder, store, **{"evaluation": {"test": True}, **sections})
            train_on_worker(plan, lambda records: None)
            made[key] = Trained(folder, store, read_outcome(folder)["metrics"])
        return made[key]

    return train
