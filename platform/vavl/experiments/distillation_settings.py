"""Who teaches whom in a distillation, and how often the student becomes the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from vavl.config.base import FrozenConfig
from vavl.config.places import FROM_PROJECT, FROM_ROOT
from vavl.experiments.changes import Changes, changes_of_own_keys


class DistillationPlan(FrozenConfig):
    """Who teaches whom, and how often the student becomes the teacher."""

    output_dir: Annotated[Path, FROM_ROOT] = Field(
        description="directory of the rounds, each a training run with the predictions that it learned from; starting "
        "again continues"
    )
    student: Annotated[Path, FROM_PROJECT] = Field(
        description="training configuration of the student; counts from here"
    )
    overrides: Changes = Field({}, description="changes of it, as dotted keys or sections")
    teachers: tuple[str, ...] = Field(
        (),
        description="models: directories of training runs, models:/NAME@ALIAS or models:/NAME/VERSION; none: the first "
        "round trains the student as it is configured",
    )
    rounds: int = Field(1, ge=1, description="training runs; each student is the only teacher of the next")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for problem in changes_of_own_keys("overrides", self.overrides, ("output_dir",), "distillation"):
            raise ValueError(problem)
        if not self.teachers and self.rounds == 1:
            raise ValueError("name teachers, or set rounds: 2 for self-training")
        return self
