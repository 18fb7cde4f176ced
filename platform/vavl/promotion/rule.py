"""When a challenger may take the champion's place: the rule, condition by condition."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from vavl.config.base import FrozenConfig
from vavl.metrics.names import CONDITIONS


class ConditionRule(FrozenConfig):
    """What is asked under one condition; differences are challenger minus champion.

    The lower end of the paired interval of the difference decides, never the difference itself: with
    ``needed_gain: 0.01`` it must lie above +0.01, with ``tolerated_loss: 0.05`` above -0.05. Few speakers
    give wide intervals, and a wide interval never promotes.
    """

    needed_gain: float | None = Field(
        None, ge=0, description="the interval must lie above it; 0: any sure gain"
    )
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
        0.95,
        gt=0.5,
        lt=1,
        description="of the two-sided interval; 0.95: chance puts 2.5 % below its lower end",
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
