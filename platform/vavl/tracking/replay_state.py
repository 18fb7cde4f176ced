"""How far a journal has arrived in each tracking store, and what was set aside: two files next to the journal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from vavl.config.base import FrozenConfig
from vavl.config.files import read_json, write_json, write_text
from vavl.errors import VavlError


class ReplayState(FrozenConfig):
    """What one tracking store already holds of a journal.

    Attributes:
        seq: last record that arrived; ``offset`` is the byte position behind it.
        mlflow_runs: MLflow run ids by the run ids of the journal; ``run_id`` is the current one.
        started: seconds since the epoch at which the current run first started.
        last_steps: last step by metric name; a resumed run repeats steps, the store keeps the first.
        model_id: MLflow's id of the logged model that the current run trained, or measured; its scores go there, too.
        dataset: name and digest, for MLflow, of what the current run is trained on, or measures the model on.
        refused: records that were set aside, with their kind, name and reason.
    """

    seq: int = 0
    offset: int = 0
    run_id: str | None = None
    mlflow_runs: dict[str, str] = Field(default_factory=dict)
    started: float = 0.0
    last_steps: dict[str, int] = Field(default_factory=dict)
    model_name: str | None = None
    model_version: str | None = None
    model_id: str | None = None
    dataset: tuple[str, str] | None = None
    refused: dict[int, str] = Field(default_factory=dict)

    @property
    def mlflow_run_id(self) -> str | None:
        """MLflow's id of the current run, None before it was created."""
        return self.mlflow_runs.get(self.run_id) if self.run_id is not None else None


def state_path(journal: Path) -> Path:
    """Return the file with the positions."""
    return journal.with_name(journal.name + ".replayed.json")


def set_aside_path(journal: Path) -> Path:
    """Return the file next to ``journal`` with the records that a store will never take: store -> seq -> record."""
    return journal.with_name(journal.name + ".set_aside.json")


def read_state(journal: Path, public_uri: str) -> ReplayState:
    """Return the state for one tracking store; a new one when nothing was replayed to it yet.

    A state that cannot be read counts as new: replaying once more changes nothing in the store.
    """
    return read_states(journal).get(public_uri, ReplayState())


def write_state(journal: Path, public_uri: str, state: ReplayState) -> None:
    """Keep ``state``; the entries of other stores stay."""
    states = {**read_states(journal), public_uri: state}
    write_json(state_path(journal), {uri: entry.model_dump(mode="json") for uri, entry in states.items()})


def read_states(journal: Path) -> dict[str, ReplayState]:
    """Return the states of all stores, by address."""
    path = state_path(journal)
    if not path.exists():
        return {}
    try:
        return {uri: ReplayState.model_validate(entry) for uri, entry in read_json(path).items()}
    except (VavlError, ValueError, AttributeError):
        return {}


def note_set_aside(journal: Path, store: str, records: Mapping[int, Mapping[str, Any]] | None) -> None:
    """List further records that a store will never take; None empties its list."""
    path = set_aside_path(journal)
    lists = read_json(path) if path.exists() else {}
    if records is not None:
        lists[store] = {**lists.get(store, {}), **{str(seq): entry for seq, entry in records.items()}}
    elif lists.pop(store, None) is None:
        return
    write_text(path, json.dumps(lists, indent=2))  # half a character stays as it is
