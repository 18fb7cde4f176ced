"""Settings of a promotion: who challenges whom, on which clips, under which rule."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from vavl.config.base import FrozenConfig
from vavl.config.places import FROM_ROOT
from vavl.evaluation.settings import ClipSelection
from vavl.promotion.rule import PromotionRule
from vavl.tracking.settings import TrackingSettings

_ALIAS = r"^[A-Za-z0-9_\-]+$"
# What MLflow takes for a version.
_NO_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)
_REGISTERED = re.compile(r"models:/(?P<name>[^/@:]+)(?:@[^/@]+|/\d+)?")


class PromotionPlan(FrozenConfig):
    """A challenger and the rule that it must win by; or the way back."""

    folder_key: ClassVar[str | None] = "challenger"

    challenger: str = Field(
        description="models:/NAME/VERSION or models:/NAME@ALIAS; for a rollback models:/NAME is enough"
    )
    output_dir: Annotated[Path, FROM_ROOT] = Field(
        Path("runs/promotion"), description="folder of summary, evidence and report"
    )
    data: ClipSelection | None = Field(
        None, description="clips that both are measured on; not for a rollback"
    )
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
            raise ValueError(
                "data: name the store that both models are measured on, e.g. data.store=runs/stores/demo"
            )
        if self.champion_alias == self.previous_alias:
            raise ValueError("champion_alias and previous_alias are the same")
        for alias in (self.champion_alias, self.previous_alias):
            if _NO_ALIAS.fullmatch(alias):
                raise ValueError(f"{alias} cannot be an alias: it means a version to MLflow")
        return self
