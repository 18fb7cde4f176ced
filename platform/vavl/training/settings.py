"""Settings of a training run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from vavl.config.addresses import StoreAddress, absolute_store
from vavl.config.base import COUNTS_IF_USED, FrozenConfig, counted
from vavl.config.files import sha256_of_json
from vavl.config.places import FROM_ROOT
from vavl.data.settings import DataSettings, FeatureUse
from vavl.errors import ConfigError
from vavl.metrics.names import CONDITIONS, VALIDATION
from vavl.models.settings import NetworkSettings
from vavl.objectives.settings import ObjectiveSettings
from vavl.training.deepspeed_passthrough import NUMERIC_SECTIONS, check_passthrough


class OptimizerSettings(FrozenConfig):
    """AdamW with linear warm-up and cosine decay; the defaults are the paper's, which decays nothing."""

    learning_rate: float = Field(5e-5, gt=0, description="after the warm-up")
    betas: tuple[float, float] = Field((0.95, 0.999), description="AdamW's")
    weight_decay: float = Field(5e-7, ge=0, description="AdamW's, decoupled")
    warmup_steps: int = Field(0, ge=0, description="steps of a linear rise of the learning rate")
    final_share: float = Field(1.0, ge=0, le=1, description="learning rate at the last step, as a share; 1 = no decay")
    gradient_clipping: float = Field(1.0, ge=0, description="largest norm of the whole gradient; 0 = off")


class FaultSettings(FrozenConfig):
    """When a run continues after an error, and when it gives up."""

    restarts_without_progress: int = Field(
        3, ge=0, description="restarts in a row, without a new checkpoint between them, before the run fails"
    )
    wait_for_workers_seconds: float = Field(
        600, ge=0, description="longest wait for the cluster to have place for the least number of workers"
    )
    grow_after_seconds: float = Field(
        60, gt=0, description="an elastic run takes more workers when there was place for them so long"
    )
    step_timeout_seconds: float | None = Field(
        900,
        gt=0,
        description="a step or evaluation that takes longer is ended with the stacks of all ranks; setup "
        "and the first step may take ten minutes; null = never",
    )
    skipped_steps: int = Field(
        10, ge=0, description="steps with a loss or gradient that is not finite; one more ends the run"
    )


_FORMER_KEYS = {
    "micro_batches": "is now clips_per_forward: the most clips of one forward pass of a worker",
    "keep_best_checkpoints": "is gone: the best model is always kept in best/; keep_checkpoints counts the newest",
    "memory_per_worker_gb": "is now resources_per_worker: {memory: <bytes>}",
    "accelerator_type": 'is now resources_per_worker: {"accelerator_type:<name>": 0.001}',
    "threads_per_worker": "is gone: a worker has cpus_per_worker threads",
}


class TrainingSettings(FrozenConfig):
    """How the optimizer steps are run."""

    launcher: Literal["ray", "in_process"] = Field("ray", description="in_process: one worker without Ray")
    engine: Literal["deepspeed", "torch"] = Field(
        "deepspeed", description="torch: DistributedDataParallel, no sharding; often faster for small networks"
    )
    workers: int | tuple[int, int] = Field(
        1, description="a number, or [least, most]: as many as the cluster has place for"
    )
    placement: Literal["pack", "spread", "strict_pack", "strict_spread"] = Field(
        "pack", description="workers on few nodes or on many; strict: wait rather than do otherwise"
    )
    cpus_per_worker: float = Field(1, gt=0, description="also the threads of a worker, rounded up")
    gpus_per_worker: float = Field(0, ge=0, le=1, description="0 = CPU; a worker drives one GPU at most")
    resources_per_worker: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description='other resources by Ray\'s names: {memory: 8e9, "accelerator_type:A100": 0.001}'
    )
    zero_stage: int = Field(
        0,
        ge=0,
        le=3,
        description="what DeepSpeed shards over workers: 0 nothing, 1 optimizer, 2 gradients too, 3 weights too",
    )
    offload: Literal["none", "optimizer", "optimizer_and_weights"] = Field(
        "none", description="keep in main memory; optimizer: ZeRO 1-3, optimizer_and_weights: ZeRO 3"
    )
    activation_checkpointing: bool = Field(
        False, description="compute the blocks once more in the backward pass instead of keeping them"
    )
    compile: bool = Field(
        False, description="compile the blocks by torch.compile, once for all lengths; needs a C++ compiler"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast over float32 weights")
    clips_per_forward: int | None = Field(
        None, ge=1, description="most clips of one forward pass of a worker: bounds its memory; null = its whole share"
    )
    deepspeed: dict[str, Any] = Field(
        {}, description="keys of DeepSpeed's own configuration, merged over the generated one"
    )
    seed: int = Field(0, ge=0, description="of weights, batches and every draw")
    max_epochs: int = Field(
        20, ge=1, description="an epoch is (training clips) / (global batch) steps; does not count for a refit"
    )
    max_steps: int | None = Field(None, ge=1, description="ends earlier than max_epochs if smaller")
    refit: Annotated[bool, COUNTS_IF_USED] = Field(
        False,
        description="train on the validation clips too, without looking at them, and keep the last step; needs "
        "max_steps or refit_from",
    )
    refit_from: Annotated[StoreAddress | None, FROM_ROOT] = Field(
        None, description="directory of an earlier run of this fold: refit for the steps that validation chose there"
    )
    early_stopping_epochs: int | None = Field(None, ge=1, description="epochs without a better validation score")
    resume: Literal["auto", "never"] = Field(
        "auto", description="from the newest whole checkpoint, or always from the start"
    )
    checkpoint_every_epochs: int = Field(1, ge=1, description="epochs between checkpoints")
    checkpoint_every_steps: int | None = Field(
        None, ge=1, description="also within epochs; what a lost node costs at most"
    )
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints that stay; the best model is in best/")
    report_every_steps: int = Field(
        10, ge=1, description="steps between two reports, which are barriers; on Ray also a second at least"
    )
    average_decay: float | None = Field(
        None, ge=0, lt=1, description="evaluate and save a running average of the weights; null = off"
    )
    gradient_norms_every_steps: int | None = Field(
        None,
        ge=1,
        description="measure the gradient of every part of the objective, one backward pass each; null = never",
    )
    faults: FaultSettings = FaultSettings()
    optimizer: OptimizerSettings = OptimizerSettings()

    @model_validator(mode="before")
    @classmethod
    def _former_keys(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        for key, advice in _FORMER_KEYS.items():
            if content.get(key) is not None:
                raise ValueError(f"{key} {advice}")
        # Configurations that earlier runs saved hold null where the key was not used.
        return {name: value for name, value in content.items() if name not in _FORMER_KEYS}

    @field_validator("workers", mode="before")
    @classmethod
    def _is_number_or_range(cls, value: Any) -> Any:
        # Checked before the union, whose own message would speak of both its members.
        numbers = value if isinstance(value, (list, tuple)) and len(value) == 2 else [value]
        if all(str(number).isdecimal() and int(number) >= 1 for number in numbers):
            return value
        raise ValueError("write a number from 1 up, or [least, most]")

    @property
    def least_workers(self) -> int:
        """Workers without which the run waits."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """Workers beyond which the run takes no more."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def threads(self) -> int:
        """Threads of the numeric libraries in a worker."""
        return math.ceil(self.cpus_per_worker)

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if self.least_workers > self.most_workers:
            raise ValueError(f"workers=[{self.least_workers}, {self.most_workers}]: write [least, most]")
        if self.most_workers > 1 and self.launcher == "in_process":
            raise ValueError(f"workers={self.most_workers} needs launcher: ray")
        if self.engine == "torch" and self.zero_stage:
            raise ValueError(f"zero_stage={self.zero_stage} needs engine: deepspeed")
        if self.most_workers > 1 and self.gpus_per_worker % 1:
            raise ValueError(f"gpus_per_worker={self.gpus_per_worker:g}: several workers cannot share a GPU (NCCL)")
        self._check_refit()
        self._check_offload()
        self._check_deepspeed()
        if self.gradient_norms_every_steps and self.zero_stage == 3:
            raise ValueError(
                "gradient_norms_every_steps needs zero_stage 0, 1 or 2: ZeRO-3 frees the weights that it measures; "
                "the norms do not depend on the stage"
            )
        return self

    def _check_refit(self) -> None:
        if self.refit_from is not None and not self.refit:
            raise ValueError("refit_from needs refit: true")
        if self.refit and self.max_steps is None and self.refit_from is None:
            raise ValueError(
                "refit: true has no validation clips that could choose the number of steps: set max_steps, or "
                "refit_from to the directory of the run that chose it"
            )
        if self.refit and self.early_stopping_epochs is not None:
            raise ValueError("refit: true never stops early: set early_stopping_epochs: null")

    def _check_deepspeed(self) -> None:
        if self.deepspeed and self.engine == "torch":
            raise ValueError("deepspeed: needs engine: deepspeed")
        if self.compile and self.engine == "deepspeed" and self.zero_stage == 3:
            raise ValueError("compile: true needs zero_stage 0, 1 or 2: 3 gathers weights within the blocks")
        check_passthrough(self.deepspeed, self.zero_stage, self.precision)

    def micro_batches(self, batch_size: int, workers: int) -> int:
        """Return the forward passes of a worker per optimizer step."""
        share = -(-batch_size // workers)
        return -(-share // (self.clips_per_forward or share))

    def _check_offload(self) -> None:
        if self.offload == "none":
            return
        if self.engine == "torch":
            raise ValueError(f"offload={self.offload} needs engine: deepspeed")
        if self.offload == "optimizer" and self.zero_stage < 1:
            raise ValueError("offload=optimizer needs zero_stage 1, 2 or 3")
        if self.offload == "optimizer_and_weights" and self.zero_stage < 3:
            raise ValueError("offload=optimizer_and_weights needs zero_stage 3")


# By section: a run may be continued with other values of these. They decide how it is computed, not what.
_HOW: dict[str, set[str]] = {
    "data": {"store", "waive_audit"},
    "features": set(),
    "model": set(),
    "objectives": set(),
    "training": {
        "launcher", "engine", "workers", "placement", "cpus_per_worker", "gpus_per_worker", "resources_per_worker",
        "zero_stage", "offload", "activation_checkpointing", "compile", "clips_per_forward", "resume", "faults",
        "checkpoint_every_epochs", "checkpoint_every_steps", "keep_checkpoints", "report_every_steps",
        "gradient_norms_every_steps", "deepspeed",
        "refit_from",  # the number of steps counts
    },
    "evaluation": {"batch_size"},
}  # fmt: skip


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

    output_dir: Annotated[StoreAddress, FROM_ROOT] = Field(
        description="directory of the run, or its address, e.g. s3://bucket/runs/demo; a finished earlier run there "
        "is kept under earlier/"
    )
    data: DataSettings
    features: FeatureUse = FeatureUse()
    model: NetworkSettings = NetworkSettings()
    objectives: ObjectiveSettings = ObjectiveSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @property
    def directory(self) -> Path:
        """``output_dir`` of a run of a comparison or a sweep, which are directories.

        Raises:
            ConfigError: it is an address.
        """
        if isinstance(self.output_dir, str):
            raise ConfigError(
                "settings", "output_dir", f"{self.output_dir} is an address", "write a directory of this machine"
            )
        return self.output_dir

    @property
    def config_hash(self) -> str:
        """Sixteen hexadecimal digits over everything that decides the result, but for the features.

        Where the run and the store lie does not count, nor what of the store's audit is waived, nor with how many
        workers and which ZeRO stage it is computed, nor what a job adds to the plan; the features have their own.
        """
        content = {name: counted(getattr(self, name)) for name in _HOW}
        content["objectives"] = self.objectives.hashed
        # DeepSpeed's other keys decide how a step is computed, not what.
        passed_on = self.training.deepspeed
        numerics = {name: content["training"]["deepspeed"][name] for name in NUMERIC_SECTIONS if name in passed_on}
        for section, names in _HOW.items():
            content[section] = {name: value for name, value in content[section].items() if name not in names}
        if numerics:
            content["training"]["deepspeed"] = numerics
        kind = self.features.speaker_normalisation
        if kind != "causal_mean":
            content["features"].pop("speaker_order")
        # What is gone counts with the value that it had, and what was renamed by its former name.
        content["features"]["speaker_normalisation"] = {"none": False, "full": True}.get(kind, kind)
        for views in (content["data"]["augmentation"], content["data"]["weak_view"]):
            for modality in ("audio", "video"):
                views[modality] |= {"channel_shift": 0, "level": 0.0}
        return sha256_of_json(content)[:16]

    def with_absolute_paths(self) -> Self:
        """Resolve every path: Ray's workers run in another directory."""
        data = self.data.model_copy(update={"store": absolute_store(self.data.store)})
        objectives, pseudo = self.objectives, self.objectives.pseudo_label
        if pseudo is not None and pseudo.predictions is not None:
            pseudo = pseudo.model_copy(update={"predictions": pseudo.predictions.absolute()})
            objectives = objectives.model_copy(update={"pseudo_label": pseudo})
        places = {"output_dir": absolute_store(self.output_dir), "data": data, "objectives": objectives}
        return self.model_copy(update=places)
