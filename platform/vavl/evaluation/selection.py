"""Which clips of a store a model is measured on, and what their labels mean to it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vavl.config.base import FrozenConfig
from vavl.config.places import FROM_ROOT
from vavl.store.store_address import StoreAddress

EVERY_SPLIT = "all"


class ClipSelection(FrozenConfig):
    """The clips of an evaluation."""

    store: Annotated[StoreAddress, FROM_ROOT] = Field(
        description="folder that jobs/prepare_corpus.py wrote, or address of one, as in data.store of a training"
    )
    split: Literal["validation", "test", "train", "all"] = Field(
        "validation", description="split of the fold, or all labelled clips of the store"
    )
    fold: int | None = Field(
        None,
        ge=0,
        description="fold of the corpus' splits; null: the model's on its own corpus, else the first",
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
