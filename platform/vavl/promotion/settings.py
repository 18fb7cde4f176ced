"""Settings of a promotion: who challenges whom, on which clips, and the rule that decides, condition by condition."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from vavl.config.base import FrozenConfig
from vavl.config.places import FROM_ROOT
from vavl.evaluation.settings import ClipSelection
from vavl.metrics.names import CONDITIONS
from vavl.tracking.settings import TrackingSettings

_ALIAS = r"^[A-Za-z0-9_\-]+$"
# What MLflow takes for a version.
_NO_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)
_REGISTERED = re.compile(r"models:/(?P<name>[^/@:]+)(?:@[^/@]+|/\d+)?")


class ConditionRule(FrozenConfig):
    """What is asked under one condition; differences are challenger minus champion.

    The lower end of the paired interval of the difference decides, never the difference itself: with
    ``needed_gain: 0.01`` it must lie above +0.01, with ``tolerated_loss: 0.05`` above -0.05. Few speakers
    give wide intervals, and a wide interval never promotes.
    """

    needed_gain: float | None = Field(None, ge=0, description="the interval must lie above it; 0: any sure gain")
    tolerated_loss: float | None = Field(
        None, ge=0, description="the interval must lie above minus this; 0: any sure gain"
    )
    metric: str | None = Field(None, description="null: the rule's")
    confidence: float | None = Field(None, gt=0.5, lt=1, description="null: the rule's")

    @property
    def threshold(self) -> float:
        """What the lower end of the interval of the difference must exceed."""
        return self.needed_gain if self.needed_gain is not None else -(self.tolerated_loss or 0.0)

    @model_validator(mode="after")
    def _asks_one_thing(self) -> Self:
        if (self.needed_gain is None) == (self.tolerated_loss is None):
            raise ValueError("give either needed_gain or tolerated_loss")
        return self


class PromotionRule(FrozenConfig):
    """The rule of a promotion. All conditions that are asked must hold; null shows a condition only.

    Values are in the unit of the metric: 0.05 is five points of accuracy or 0.05 of CCC.
    """

    metric: str | None = Field(
        None, description="accuracy, f1_macro, uar or ccc_mean, ccc_NAME; null: accuracy, or ccc_mean"
    )
    confidence: float = Field(
        0.95, gt=0.5, lt=1, description="of the two-sided interval; 0.95: chance puts 2.5 % below its lower end"
    )
    audio_video: ConditionRule | None = ConditionRule(needed_gain=0)
    audio: ConditionRule | None = ConditionRule(tolerated_loss=0.05)
    video: ConditionRule | None = ConditionRule(tolerated_loss=0.05)
    least_speakers: int = Field(
        4, ge=2, description="fewer promote nothing: a bootstrap over two or three speakers is too narrow"
    )
    first: Literal["beat_chance", "promote", "refuse"] = Field(
        "beat_chance",
        description="while there is no champion: surely better than one constant answer under every condition "
        "that is asked; or without a look at the scores; or never",
    )

    def of_condition(self, condition: str) -> ConditionRule | None:
        """Return what is asked under ``condition``, None where nothing is."""
        rules = dict(zip(CONDITIONS, (self.audio_video, self.audio, self.video), strict=True))
        return rules[condition]

    def metric_of(self, condition: str) -> str | None:
        """Return the metric under ``condition``; None leaves it to the task."""
        own = self.of_condition(condition)
        return (own.metric if own else None) or self.metric

    def confidence_of(self, condition: str) -> float:
        """Return the confidence of the intervals under ``condition``."""
        own = self.of_condition(condition)
        return own.confidence if own and own.confidence is not None else self.confidence

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if all(self.of_condition(condition) is None for condition in CONDITIONS):
            raise ValueError("asks nothing of any condition; set audio_video, audio or video")
        return self


class PromotionPlan(FrozenConfig):
    """A challenger and the rule that it must win by; or a rollback."""

    directory_key: ClassVar[str | None] = "challenger"

    challenger: str = Field(
        description="models:/NAME/VERSION or models:/NAME@ALIAS; for a rollback models:/NAME is enough"
    )
    output_dir: Annotated[Path, FROM_ROOT] = Field(
        Path("runs/promotion"), description="directory of summary, evidence and report"
    )
    data: ClipSelection | None = Field(None, description="clips that both are measured on; not for a rollback")
    rule: PromotionRule = PromotionRule()
    champion_alias: str = Field("champion", pattern=_ALIAS, description="that people load")
    previous_alias: str = Field("previous", pattern=_ALIAS, description="what a rollback would return to")
    rollback: bool = Field(False, description="return to the champion before this one; nothing is compared")
    tracking: TrackingSettings = TrackingSettings()

    @property
    def model_name(self) -> str:
        """Name of the registered model."""
        found = _REGISTERED.fullmatch(self.challenger)
        assert found is not None
        return found["name"]

    @property
    def champion(self) -> str:
        """Address of the champion."""
        return f"models:/{self.model_name}@{self.champion_alias}"

    @model_validator(mode="after")
    def _names_what_it_needs(self) -> Self:
        if _REGISTERED.fullmatch(self.challenger) is None:
            raise ValueError(
                f"challenger: {self.challenger} is no address of a registered model; write models:/NAME/VERSION"
            )
        if not self.rollback and self.data is None:
            raise ValueError("data: name the store that both models are measured on, e.g. data.store=runs/stores/demo")
        if self.champion_alias == self.previous_alias:
            raise ValueError("champion_alias and previous_alias are the same")
        for alias in (self.champion_alias, self.previous_alias):
            if _NO_ALIAS.fullmatch(alias):
                raise ValueError(f"{alias} cannot be an alias: it means a version to MLflow")
        return self
