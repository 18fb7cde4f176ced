"""Which objectives a run trains with, their weights, and when they begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, create_model, field_validator, model_validator

from vavl.config.base import COUNTS_IF_USED, FrozenConfig, counted
from vavl.config.places import FROM_ROOT
from vavl.config.plugins import check_keys, load_plugin
from vavl.models.settings import LadderShape

if TYPE_CHECKING:  # settings are read where torch need not be imported
    from torch import Tensor

    from vavl.data.batch import ClipBatch
    from vavl.models.vavl import VavlOutput

PLUGIN_GROUP = "vavl.objectives"
"""Entry points of further objectives; each holds an ``ObjectivePlugin``."""
_THRESHOLD = 0.95


class ScheduledSettings(FrozenConfig):
    """Weight of an objective: 0 before ``start_step``, then a straight line up to ``weight``, and 0 from ``end_step``.

    So objectives make phases: pretraining without labels is ``hgr.end_step: 150, supervised.start_step: 150``.

    A weight of 0 computes the objective, logs it and does not train on it.
    """

    weight: float = Field(1.0, ge=0, description="of this objective in the loss")
    start_step: int = Field(0, ge=0, description="first optimizer step with a weight above 0")
    ramp_steps: int = Field(0, ge=0, description="steps from there to the full weight")
    end_step: Annotated[int | None, COUNTS_IF_USED] = Field(
        None, ge=1, description="first optimizer step with a weight of 0 again; null = never"
    )

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> Self:
        if self.end_step is not None and self.end_step <= self.start_step:
            raise ValueError(f"end_step={self.end_step} must come after start_step={self.start_step}")
        return self

    def weight_at(self, step: int) -> float:
        """Return the weight at an optimizer step, from 0."""
        if step < self.start_step or (self.end_step is not None and step >= self.end_step):
            return 0.0
        return self.weight * min(1.0, (step - self.start_step + 1) / (self.ramp_steps + 1))


class SupervisedSettings(ScheduledSettings):
    """The task loss on labeled clips: audio head + video head + fusion head."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="classes only; 0 trains on the labels as given")


class ReconstructionSettings(ScheduledSettings):
    """Reconstruction of each clip's mean input frame, on every clip that has the modality."""

    weight: float = Field(2.0, ge=0, description="the paper uses 2 for classes and 1 for attributes")


class HgrSettings(ScheduledSettings):
    """Soft-HGR maximal correlation; the size K is ``model.correlation_size``.

    A label term is worth at most min(K, classes - 1) / 2, the audio-video term min(K, pairs - 1) / 2:
    equal weights let the audio-video term dominate.
    """

    audio_video: float = Field(1.0, ge=0, description="weight of the term over all pairs, labeled or not")
    audio_label: float = Field(1.0, ge=0, description="weight of the term over labeled clips with audio")
    video_label: float = Field(1.0, ge=0, description="weight of the term over labeled clips with video")


class ContrastiveSettings(ScheduledSettings):
    """InfoNCE between the audio and the video of a clip, against those of the global batch's other pairs."""

    temperature: float = Field(0.1, gt=0, description="the smaller, the more the nearest other clips count")
    size: int = Field(64, ge=1, description="channels of the two projections; they are not part of the saved model")


class LadderSettings(ScheduledSettings, LadderShape):
    """Cross-modal ladder on every clip. While configured, supervised losses are those of the noisy pass."""

    layer_weights: tuple[float, ...] | None = Field(None, description="input first, then every block; null = 1 each")


class PseudoLabelSettings(ScheduledSettings):
    """Targets that a teacher gives to unlabeled clips.

    They come from the weak view (``data.weak_view``) and train all conditions of the clip under the training view
    (``data.augmentation``).
    """

    kind: Literal["soft", "hard"] = Field(
        "soft",
        description="soft: average of the conditions at hand, every clip counts; hard (classes only): the class of the "
        "most confident condition, from threshold up",
    )
    temperature: float = Field(0.5, gt=0, description="soft labels of classes: below 1 makes them sharper")
    align: bool = Field(
        True, description="soft labels of classes: move their running mean to the class shares of the labeled clips"
    )
    threshold: float | None = Field(
        None, gt=0, le=1, description="hard labels: least confidence of one that counts; null = 0.95"
    )
    teacher: Literal["self", "average"] = Field(
        "self", description="average: the averaged weights, see training.average_decay"
    )
    predictions: Annotated[Path | None, FROM_ROOT, COUNTS_IF_USED] = Field(
        None,
        description="Parquet file of predictions in place of the teacher's, of all training clips that it names: "
        "clip_id and predicted_<class> or predicted_<attribute>; jobs/distill_models.py writes it",
    )

    @property
    def least_confidence(self) -> float:
        """Threshold of hard labels."""
        return _THRESHOLD if self.threshold is None else self.threshold

    @model_validator(mode="before")
    @classmethod
    def _former_keys(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        if content.get("adaptive"):
            raise ValueError(
                "adaptive is gone: kind: soft learns from every clip and aligns the classes; kind: hard with threshold "
                "learns from confident ones"
            )
        # Configurations that earlier runs saved hold them where they were not used.
        return {name: value for name, value in content.items() if name not in ("adaptive", "adaptive_momentum")}

    @model_validator(mode="after")
    def _threshold_is_for_hard_labels(self) -> Self:
        if self.threshold is not None and self.kind == "soft":
            raise ValueError(
                f"threshold={self.threshold:g} is for hard labels: write kind: hard for those that earlier versions "
                "trained on, or leave threshold out: soft labels, now the default, train on every clip"
            )
        return self


@dataclass(frozen=True)
class ObjectivePlugin:
    """An objective of another distribution: a function of sums over the clips of the global batch.

    Such a loss is exact over workers and micro-batches, and its gradient goes wherever the sums come from. A mean
    over clips has two sums, the total and the count of the clips with weight.

    Attributes:
        settings: class of its settings.
        moments: from its settings, the output of a micro-batch and the micro-batch to named sums over its clips.
            Every pass returns the same names and shapes, and keeps rows of weight 0 and padding out of them.
        loss: from its settings and the sums over the global batch to a scalar, 0 where no clip counts.
    """

    settings: type[ScheduledSettings]
    moments: Callable[[Any, VavlOutput, ClipBatch], Mapping[str, Tensor]]
    loss: Callable[[Any, Mapping[str, Tensor]], Tensor]


def objective_plugin(name: str) -> ObjectivePlugin:
    """Return the installed objective of a name.

    Raises:
        ValueError: see ``load_plugin``.
    """
    return load_plugin(PLUGIN_GROUP, name, ObjectivePlugin)


class ObjectiveSettings(FrozenConfig):
    """The objectives of a run; null leaves one out altogether."""

    supervised: SupervisedSettings = SupervisedSettings()
    reconstruction: ReconstructionSettings = ReconstructionSettings()
    hgr: HgrSettings | None = None
    contrastive: Annotated[ContrastiveSettings | None, COUNTS_IF_USED] = None
    ladder: LadderSettings | None = None
    pseudo_label: PseudoLabelSettings | None = None
    plugins: Annotated[dict[str, Any], COUNTS_IF_USED] = Field(
        {}, description="settings of installed plug-ins by name: {name: {weight: 0.1}}; see objectives/README.md"
    )

    @field_validator("plugins")
    @classmethod
    def _of_plugins(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Validate each by the class of its plug-in; null leaves one out."""
        given = {name: one for name, one in content.items() if one is not None}
        if taken := sorted(given.keys() & cls.model_fields.keys()):
            raise ValueError(f"`{taken[0]}` is an objective of vavl: write objectives.{taken[0]}")
        classes = {name: objective_plugin(name).settings for name in given}
        for name, one in given.items():
            check_keys(classes[name], one, name)
        # One model of all, so that a message names plug-in and key.
        fields: dict[str, Any] = {name: (one, ...) for name, one in classes.items()}
        return dict(create_model("Plugins", __base__=FrozenConfig, **fields).model_validate(given))

    @property
    def hashed(self) -> dict[str, Any]:
        """What counts for the hash of a configuration; what is gone counts with the value that it had."""
        content, pseudo = counted(self), self.pseudo_label
        if pseudo is not None and pseudo.predictions is not None:
            content["pseudo_label"]["predictions"] = pseudo.predictions.name
        elif pseudo is not None and pseudo.kind == "hard":
            former = {"threshold": pseudo.least_confidence, "adaptive": False, "adaptive_momentum": 0.99}
            kept = {name: content["pseudo_label"][name] for name in ("weight", "start_step", "ramp_steps", "teacher")}
            content["pseudo_label"] = kept | former
        return content

    @property
    def contrast_size(self) -> int:
        """Channels of the projections that the network needs, 0 for none."""
        return self.contrastive.size if self.contrastive else 0

    def weights_at(self, step: int) -> dict[str, float]:
        """Return the weight of every configured objective at an optimizer step."""
        return {name: part.weight_at(step) for name, part in self._configured().items()}

    def in_words(self) -> list[str]:
        """Describe every configured objective, e.g. ``hgr x 0.1 (from step 100 over 50 steps)``."""
        return [f"{name} x {part.weight:g}{_when(part)}" for name, part in self._configured().items()]

    def _configured(self) -> dict[str, ScheduledSettings]:
        parts = {name: getattr(self, name) for name in type(self).model_fields if name != "plugins"}
        return {name: part for name, part in parts.items() if part is not None} | self.plugins


def _when(part: ScheduledSettings) -> str:
    ramp = f" over {part.ramp_steps} steps" if part.ramp_steps else ""
    begin = f"from step {part.start_step}{ramp}" if part.start_step or part.ramp_steps else ""
    end = f"up to step {part.end_step}" if part.end_step is not None else ""
    return f" ({', '.join(filter(None, (begin, end)))})" if begin or end else ""
