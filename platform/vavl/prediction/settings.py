"""What is predicted, and how; defaults fit a person who has a file or a directory and a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vavl.config.addresses import StoreAddress
from vavl.config.base import FrozenConfig
from vavl.config.places import FROM_ROOT, root_directory
from vavl.media.listing import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from vavl.models.settings import DecisionSettings
from vavl.workers.settings import WorkerSettings

Condition = Literal["audio_video", "audio", "video"]

MEDIA_SUFFIXES = AUDIO_SUFFIXES | VIDEO_SUFFIXES
MANIFEST_SUFFIXES = frozenset({".parquet", ".csv", ".rttm"})
_RESULTS = Path("runs/predictions")


class TimelineSettings(FrozenConfig):
    """How the course of a prediction within a clip is drawn."""

    window_s: float = Field(1.0, gt=0, le=60, description="length of the piece that one prediction sees")
    hop_s: float = Field(0.1, gt=0, le=60, description="from one piece to the next")
    thumbnails: int = Field(8, ge=0, le=16, description="faces above the course, as many as fit; 0: none")
    theme: Literal["light", "dark"] = Field("light", description="for light or dark slides")
    most_clips: int = Field(20, ge=1, description="of many clips, so many get a plot")


class PredictionSettings(DecisionSettings, WorkerSettings):
    """What is predicted, with which model, and what is written."""

    input: Annotated[StoreAddress, FROM_ROOT] = Field(
        description="directory of media, media file, table (.parquet, .csv, .rttm), or a store's directory or address"
    )
    model: str = Field(min_length=1, description="models:/NAME@ALIAS, models:/NAME/VERSION, or a directory")
    output_dir: Annotated[Path | None, FROM_ROOT] = Field(
        None, description="directory of the results; null: runs/predictions/<name of the input>"
    )
    root: Annotated[Path | None, FROM_ROOT] = Field(
        None,
        description="what the paths of a manifest count from; links of a manifest or directory may not lead out of it; "
        "null: the directory of the manifest, or the input itself",
    )
    sound_of_video: bool = Field(
        True, description="a video file without a sound file next to it gives its own sound track as well"
    )
    conditions: tuple[Condition, ...] | None = Field(
        None,
        min_length=1,
        description="a row for each of these that a clip allows; null: one row from all that a clip has, "
        "and every condition for a single file",
    )
    faces: Literal["largest", "each"] = Field(
        "largest",
        description="largest: one face per clip, as in the training run: the largest where one is first found, and "
        "that person from there on; each: rows for every face that is followed",
    )
    clips_per_batch: int = Field(16, ge=1, le=4096, description="clips that go through the network at once")
    resume: bool = Field(True, description="keep what is predicted already from the same files and model")
    retry_failed: bool = Field(True, description="try clips again that failed before, though nothing changed")
    timeline: bool = Field(False, description="draw the course of the prediction within each clip")
    windows: TimelineSettings = TimelineSettings()

    @model_validator(mode="after")
    def _names_each_condition_once(self) -> Self:
        if self.conditions is not None and len(set(self.conditions)) != len(self.conditions):
            raise ValueError("conditions: each may stand there once")
        return self

    @property
    def directory(self) -> Path:
        """Directory of the results."""
        if self.output_dir is not None:
            return self.output_dir
        place = self.input.absolute() if isinstance(self.input, Path) else self.input
        name = str(place).rstrip("/").rpartition("/")[2].partition("@")[0]
        return (root_directory() or Path()) / _RESULTS / (name or "input")
