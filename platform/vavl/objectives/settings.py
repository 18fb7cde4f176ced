"""Which objectives a run trains with, and their weights."""

from __future__ import annotations

from pydantic import Field

from vavl.config.base import FrozenConfig


class SupervisedSettings(FrozenConfig):
    """The task loss on labelled clips: audio head + video head + fusion head."""

    weight: float = Field(1.0, ge=0)
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="classes only; 0 trains on the labels as given"
    )


class ReconstructionSettings(FrozenConfig):
    """Reconstruction of each clip's mean input frame, on every clip that has the modality."""

    weight: float = Field(2.0, ge=0, description="the paper uses 2 for classes and 1 for attributes")


class ObjectiveSettings(FrozenConfig):
    """The objectives of a run; a weight of 0 computes the part, logs it and does not train on it."""

    supervised: SupervisedSettings = SupervisedSettings()
    reconstruction: ReconstructionSettings = ReconstructionSettings()
