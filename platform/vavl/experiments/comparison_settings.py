"""What a comparison of objectives runs: objective sets x label fractions x unpaired shares x folds x seeds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from vavl.config.base import FrozenConfig
from vavl.config.files import sha256_of_json
from vavl.config.places import FROM_PROJECT, FROM_ROOT
from vavl.experiments.changes import Changes, changes_of_own_keys

SINGLE_PROCESS = {
    "training.launcher": "in_process",
    "training.engine": "torch",
    "training.workers": 1,
    "training.zero_stage": 0,
}
"""What every run of a comparison is forced to: one process each, several at the same time."""

_OWN_KEYS = ("output_dir", "tracking", "data.fold", "training.seed", "evaluation.test", *SINGLE_PROCESS)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


class ComparisonPlan(FrozenConfig):
    """One base configuration, changed by every objective set, over the whole grid."""

    output_dir: Annotated[Path, FROM_ROOT] = Field(
        description="directory of the table and of all runs; starting again continues"
    )
    training: Annotated[Path, FROM_PROJECT] = Field(
        description="training configuration that all runs start from; counts from here"
    )
    overrides: Changes = Field({}, description="changes of the training configuration for all sets")
    objective_sets: dict[str, Changes] = Field(
        min_length=1,
        description="name -> changes as dotted keys or sections; null switches off; they win over the grid",
    )
    labelled_fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (1.0,), min_length=1, description="shares of the training labels"
    )
    unpaired_shares: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0,), min_length=1, description="share of pairs taken apart: half audio-only, half video-only"
    )
    folds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,), min_length=1, description="folds of the split protocol"
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,), min_length=1, description="a seed draws weights, labels and pairs"
    )
    partition_seed: int | None = Field(
        None, ge=0, description="of the draw of labels and pairs; null = the training seed of the run"
    )
    reference: str | None = Field(None, description="set that the others are compared with; null = the first")
    further_pairs: tuple[tuple[str, str], ...] = Field(
        (), description="further differences to state: [first, second], first minus second"
    )
    at_once: int | None = Field(None, ge=1, description="runs at the same time; null = as many as Ray has CPUs for")
    test: bool = Field(False, description="measure the test split once per run; false compares on validation")

    @property
    def config_hash(self) -> str:
        """Sixteen hexadecimal digits over what is compared."""
        compared = set(ComparisonPlan.model_fields) - {"output_dir"}
        return sha256_of_json(self.model_dump(mode="json", include=compared))[:16]

    @property
    def split(self) -> str:
        """The split that the sets are compared on."""
        return "test" if self.test else "validation"

    @property
    def reference_set(self) -> str:
        """Name of the set that the others are compared with."""
        return self.reference or next(iter(self.objective_sets))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every difference that is stated: each set and the reference, then the further pairs."""
        own = [(name, self.reference_set) for name in self.objective_sets if name != self.reference_set]
        return tuple(dict.fromkeys([*own, *self.further_pairs]))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for find in (self._wrong_names, self._wrong_values, self._wrong_changes):
            for problem in find():
                raise ValueError(problem)
        return self

    def _wrong_names(self) -> Iterator[str]:
        for name in self.objective_sets:
            if not _NAME.fullmatch(name):
                yield f"objective set {name!r}: letters, digits and _ . + - only, it names a directory"
        for name in (self.reference_set, *(name for pair in self.further_pairs for name in pair)):
            if name not in self.objective_sets:
                yield f"{name} is no objective set; known: {', '.join(self.objective_sets)}"

    def _wrong_values(self) -> Iterator[str]:
        for name in ("labelled_fractions", "unpaired_shares", "folds", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                yield f"{name}: a value stands there twice"

    def _wrong_changes(self) -> Iterator[str]:
        for section, changes in {"overrides": self.overrides, **self.objective_sets}.items():
            yield from changes_of_own_keys(section, changes, _OWN_KEYS, "comparison")
