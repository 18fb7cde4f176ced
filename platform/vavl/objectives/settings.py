"""Which objectives a run trains with, their weights, and when they begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model, field_validator

from vavl.config.base import FrozenConfig
from vavl.config.plugins import check_keys, load_plugin
from vavl.models.settings import LadderShape

if TYPE_CHECKING:  # settings are read where torch need not be imported
    from torch import Tensor

    from vavl.data.batch import ClipBatch
    from vavl.models.vavl import VavlOutput

PLUGIN_GROUP = "vavl.objectives"
"""Entry points of further objectives; each holds an ``ObjectivePlugin``."""


class ScheduledSettings(FrozenConfig):
    """Weight of an objective: 0 before ``start_step``, then a straight line up to ``weight``.

    A weight of 0 computes the objective, logs it and does not train on it.
    """

    weight: float = Field(1.0, ge=0, description="of this objective in the loss")
    start_step: int = Field(0, ge=0, description="first optimizer step with a weight above 0")
    ramp_steps: int = Field(0, ge=0, description="steps from there to the full weight")

    def weight_at(self, step: int) -> float:
        """Return the weight at an optimizer step, from 0."""
        if step < self.start_step:
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


class LadderSettings(ScheduledSettings, LadderShape):
    """Cross-modal ladder on every clip. While configured, supervised losses are those of the noisy pass."""

    layer_weights: tuple[float, ...] | None = Field(None, description="input first, then every block; null = 1 each")


class PseudoLabelSettings(ScheduledSettings):
    """Hard labels that the network gives to unlabeled clips (FixMatch, Sohn et al. 2020); classes only.

    The label comes from the weak view (``data.weak_view``) under the surest of audio + video, audio and
    video; it trains all conditions of the clip under the training view (``data.augmentation``).
    """

    threshold: float = Field(0.95, gt=0, le=1, description="least confidence of a label that counts")
    adaptive: bool = Field(
        False, description="thresholds per class follow the network's confidence (FreeMatch); threshold is unused"
    )
    adaptive_momentum: float = Field(0.99, ge=0, lt=1, description="of the running means behind them")
    teacher: Literal["self", "average"] = Field(
        "self", description="average: the averaged weights, see training.average_decay"
    )


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
    ladder: LadderSettings | None = None
    pseudo_label: PseudoLabelSettings | None = None
    plugins: dict[str, Any] = Field(
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

    def weights_at(self, step: int) -> dict[str, float]:
        """Return the weight of every configured objective at an optimizer step."""
        return {name: part.weight_at(step) for name, part in self._configured().items()}

    def in_words(self) -> list[str]:
        """Describe every configured objective, e.g. ``hgr x 0.1 (from step 100 over 50 steps)``."""
        return [f"{name} x {part.weight:g}{_begin(part)}" for name, part in self._configured().items()]

    def _configured(self) -> dict[str, ScheduledSettings]:
        parts = {name: getattr(self, name) for name in type(self).model_fields if name != "plugins"}
        return {name: part for name, part in parts.items() if part is not None} | self.plugins


def _begin(part: ScheduledSettings) -> str:
    if not part.start_step and not part.ramp_steps:
        return ""
    ramp = f" over {part.ramp_steps} steps" if part.ramp_steps else ""
    return f" (from step {part.start_step}{ramp})"
