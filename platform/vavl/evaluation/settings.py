"""Settings of an evaluation: model, clips, degraded inputs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vavl.config.addresses import StoreAddress
from vavl.config.base import FrozenConfig
from vavl.config.places import FROM_PROJECT, FROM_ROOT

EVERY_SPLIT = "all"
Share = Annotated[float, Field(gt=0, lt=1)]
Decibel = Annotated[float, Field(ge=-60, le=100)]
Seconds = Annotated[float, Field(ge=-60, le=60)]
Deviation = Annotated[float, Field(gt=0, le=100)]


class ClipSelection(FrozenConfig):
    """The clips of an evaluation."""

    store: Annotated[StoreAddress, FROM_ROOT] = Field(
        description="directory that jobs/prepare_corpus.py wrote, or address of one, as in data.store of a training run"
    )
    split: Literal["validation", "test", "train", "all"] = Field(
        "validation", description="split of the fold, or all labeled clips of the store"
    )
    fold: int | None = Field(
        None, ge=0, description="fold of the corpus' splits; null: the model's on its own corpus, else the first"
    )
    label_set: str | None = Field(
        None, description="set of labels by its name in the card; null: the model's, else the card's first"
    )
    labels: dict[str, str | None] = Field(
        {}, description="class of the store -> class of the model, or null to leave its clips out"
    )
    target: Literal["label", "soft_label"] | None = Field(
        None, description="hard class or votes, for a model of classes; null: what the model was trained on"
    )
    batch_size: int = Field(64, ge=1, description="clips per forward")


class DegradationSettings(FrozenConfig):
    """Degraded inputs, each measured by itself; empty lists measure none."""

    noise_db: tuple[Decibel, ...] = Field(
        (20, 10, 0), description="signal-to-noise ratios of noise in the waveform; needs the media"
    )
    noise_kind: Literal["white", "pink"] = Field("white", description="pink: equal power per octave")
    dropped_frames: tuple[Share, ...] = Field((0.25, 0.5), description="shares of video frames that are lost")
    shifted_s: tuple[Seconds, ...] = Field((0.2,), description="seconds that the video comes late")
    feature_noise: tuple[Deviation, ...] = Field(
        (), description="noise on normalized features of both modalities, in deviations"
    )
    seed: int = Field(0, ge=0, description="of all draws, together with the clip's id")


class MediaSettings(FrozenConfig):
    """Where the media behind a store are; noise is added to their sound."""

    card: Annotated[Path | None, FROM_PROJECT] = Field(
        None, description="card of the store's corpus: its environment variable or default directory names the media"
    )
    root: Annotated[Path | None, FROM_ROOT] = Field(None, description="directory of the media; null: as the card says")


class EvaluationPlan(FrozenConfig):
    """What is measured, and where the results go."""

    output_dir: Annotated[Path, FROM_ROOT] = Field(description="directory of report, summary and predictions")
    model: str = Field(
        min_length=1, description="models:/NAME@ALIAS, models:/NAME/VERSION, or the directory of a model or a run"
    )
    data: ClipSelection
    degradations: DegradationSettings = DegradationSettings()
    media: MediaSettings = MediaSettings()
    bootstrap_seed: int = Field(0, ge=0, description="of the draws of speakers behind the 95 % intervals")
    lengths_s: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (), description="seconds between the groups that are scored by length, ascending; []: quartiles"
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="where the network computes")

    @model_validator(mode="after")
    def _lengths_ascend(self) -> Self:
        if any(first >= second for first, second in pairwise(self.lengths_s)):
            raise ValueError(f"lengths_s: {list(self.lengths_s)} do not ascend")
        return self
