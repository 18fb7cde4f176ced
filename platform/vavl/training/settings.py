"""Settings of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vavl.config.base import FrozenConfig
from vavl.config.files import sha256_of_json
from vavl.config.places import FROM_ROOT
from vavl.data.settings import DataSettings, FeatureUse
from vavl.metrics.names import CONDITIONS, VALIDATION
from vavl.models.settings import NetworkSettings
from vavl.objectives.settings import ObjectiveSettings


class OptimizerSettings(FrozenConfig):
    """AdamW with linear warm-up and cosine decay; the defaults are the paper's, which decays nothing."""

    learning_rate: float = Field(5e-5, gt=0)
    betas: tuple[float, float] = (0.95, 0.999)
    weight_decay: float = Field(5e-7, ge=0)
    warmup_steps: int = Field(0, ge=0)
    final_share: float = Field(
        1.0, ge=0, le=1, description="learning rate at the last step, as a share; 1 = no decay"
    )
    gradient_clipping: float = Field(1.0, ge=0, description="largest norm of the whole gradient; 0 = off")


class TrainingSettings(FrozenConfig):
    """How the optimizer steps are run."""

    launcher: Literal["ray", "in_process"] = Field("ray", description="in_process: one worker without Ray")
    engine: Literal["deepspeed", "torch"] = Field("deepspeed", description="torch: one worker, no sharding")
    workers: int = Field(1, ge=1)
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0)
    threads_per_worker: int | None = Field(None, ge=1, description="null = cpus_per_worker")
    zero_stage: int = Field(0, ge=0, le=3)
    precision: Literal["fp32", "bf16"] = "fp32"
    micro_batches: int = Field(
        1, ge=1, description="gradient accumulation: micro-batches per worker and step"
    )
    seed: int = Field(0, ge=0)
    max_epochs: int = Field(20, ge=1, description="an epoch is (training clips) / (global batch) steps")
    max_steps: int | None = Field(None, ge=1, description="ends earlier than max_epochs if smaller")
    early_stopping_epochs: int | None = Field(
        None, ge=1, description="epochs without a better validation score"
    )
    resume: Literal["auto", "never"] = "auto"
    checkpoint_every_epochs: int = Field(1, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    report_every_steps: int = Field(10, ge=1, description="a report is a barrier between workers")
    average_decay: float | None = Field(
        None, ge=0, lt=1, description="evaluate and save a running average of the weights; null = off"
    )
    gradient_norms_every_steps: int | None = Field(
        200, ge=1, description="measure the gradient of every part of the objective; null = never"
    )
    optimizer: OptimizerSettings = OptimizerSettings()

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if self.workers > 1 and (self.launcher == "in_process" or self.engine == "torch"):
            raise ValueError(f"workers={self.workers} needs launcher: ray and engine: deepspeed")
        if self.engine == "torch" and self.zero_stage:
            raise ValueError(f"zero_stage={self.zero_stage} needs engine: deepspeed")
        return self


class EvaluationSettings(FrozenConfig):
    """What is measured, and when."""

    test: bool = Field(False, description="measure the test split once, after the best epoch was chosen")
    select_by: tuple[str, ...] = Field(
        ("validation/audio_video/accuracy",),
        min_length=1,
        description="validation metrics whose mean chooses the best epoch; higher is better",
    )
    batch_size: int = Field(64, ge=1, description="clips per worker and forward")

    @model_validator(mode="after")
    def _selects_on_validation(self) -> Self:
        for name in self.select_by:
            split, _, rest = name.partition("/")
            condition, _, metric = rest.partition("/")
            if split != VALIDATION or condition not in CONDITIONS or not metric:
                known = ", ".join(CONDITIONS)
                raise ValueError(f"{name} is not validation/<condition>/<metric>; conditions: {known}")
        return self


class TrainingPlan(FrozenConfig):
    """Everything that a training worker needs to know."""

    output_dir: Annotated[Path, FROM_ROOT] = Field(
        description="folder of the run; a finished earlier run there is kept under earlier/"
    )
    data: DataSettings
    features: FeatureUse = FeatureUse()
    model: NetworkSettings = NetworkSettings()
    objectives: ObjectiveSettings = ObjectiveSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @property
    def config_hash(self) -> str:
        """Sixteen hexadecimal digits over everything that decides the result, but for the features.

        Where the run and the store lie does not count, nor what a job adds to the plan; the features
        have a hash of their own.
        """
        content = self.model_dump(mode="json", include=set(TrainingPlan.model_fields), exclude={"output_dir"})
        content["data"].pop("store")
        return sha256_of_json(content)[:16]

    def with_absolute_paths(self) -> Self:
        """Resolve every path: Ray's workers run in another folder."""
        data = self.data.model_copy(update={"store": self.data.store.absolute()})
        return self.model_copy(update={"output_dir": self.output_dir.absolute(), "data": data})
