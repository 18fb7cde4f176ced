"""Which clips a run trains on, and how."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vavl.config.addresses import StoreAddress
from vavl.config.base import COUNTS_IF_USED, FrozenConfig
from vavl.config.places import FROM_ROOT
from vavl.data.augmentation import AugmentationSettings
from vavl.data.partitions import CompositionSettings, PartitionSettings
from vavl.features import SpeakerNormalisation, SpeakerOrder


class DataSettings(FrozenConfig):
    """The feature store, the fold and the label target of a run."""

    store: Annotated[StoreAddress, FROM_ROOT] = Field(
        description="directory that jobs/prepare_corpus.py wrote, or address of one, e.g. s3://bucket/stores/demo; "
        "of a pushed one also the version: s3://bucket/stores/demo@latest, or @ and its first digits"
    )
    fold: int = Field(0, ge=0, description="fold of the corpus' split protocol")
    labels: str | None = Field(
        None, description="set of labels by its name in the card, e.g. intended; null: the card's first"
    )
    target: Literal["label", "soft_label", "attributes"] = Field(
        "label", description="hard class, distribution of votes, or arousal/valence/dominance"
    )
    attributes: Annotated[tuple[Literal["arousal", "valence", "dominance"], ...] | None, COUNTS_IF_USED] = Field(
        None, min_length=1, description="attributes to train for target attributes; null: those that the labels hold"
    )
    waive_audit: tuple[str, ...] = Field(
        (), description="checks of the audit that may fail, e.g. [near_duplicates]; recorded with the run"
    )
    max_frames: int = Field(1500, ge=1, description="a longer clip is cut to this many frames around its middle")
    partitions: PartitionSettings = PartitionSettings()
    composition: CompositionSettings = CompositionSettings()
    augmentation: AugmentationSettings = Field(
        AugmentationSettings(), description="views of the training clips; the strong view of pseudo-labels"
    )
    weak_view: AugmentationSettings = Field(
        AugmentationSettings(), description="views that pseudo-labels are made from"
    )

    @model_validator(mode="after")
    def _weak_view_shows_all_sides(self) -> Self:
        if self.weak_view.modality_dropout:
            raise ValueError("weak_view.modality_dropout must be 0: pseudo-labels come from all modalities of a clip")
        return self

    @model_validator(mode="after")
    def _attributes_are_the_target(self) -> Self:
        if self.attributes is not None and self.target != "attributes":
            raise ValueError("attributes: only with target: attributes")
        if self.attributes is not None and len(set(self.attributes)) != len(self.attributes):
            raise ValueError("attributes: one is named twice")
        return self


class FeatureUse(FrozenConfig):
    """How a run uses the raw features of the store."""

    speaker_normalisation: SpeakerNormalisation = Field(
        "none",
        description="by each speaker's own unlabeled clips, test speakers included: their mean; causal_mean, that of "
        "earlier clips alone; full, mean and deviation (earlier: true); reports say so",
    )
    speaker_order: SpeakerOrder = Field(
        "shuffled",
        description="which clips count as earlier for causal_mean: shuffled by their ids, or file, in the order of the "
        "store, where names do not sort by label",
    )
