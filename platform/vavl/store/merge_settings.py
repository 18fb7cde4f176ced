"""How stores of several corpora become one."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vavl.config.addresses import StoreAddress
from vavl.config.base import FrozenConfig
from vavl.config.places import FROM_ROOT

CorpusName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
CorpusFold = Annotated[int, Field(ge=0, le=32_767)]


class AlignedFolds(FrozenConfig):
    """A fold of the merged store is a fold of every corpus: tested where the corpora test, and so on."""

    rule: Literal["aligned"]
    by_corpus: dict[CorpusName, tuple[CorpusFold, ...]] = Field(
        {},
        description="the folds of a corpus in the order of the merged folds 0, 1, 2 ...; corpora that are not "
        "named give the fold of the same number. Empty: the numbers that all corpora have",
    )

    @model_validator(mode="after")
    def _are_equally_long(self) -> Self:
        lengths = {corpus: len(folds) for corpus, folds in self.by_corpus.items()}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            raise ValueError(f"name equally many folds of every corpus: {lengths}")
        return self


class LeaveOneCorpusOut(FrozenConfig):
    """A fold per corpus, in alphabetical order and named by it: that corpus is tested, the others train.

    The validation speakers are those of the first fold of each other corpus; its test speakers train.
    """

    rule: Literal["leave_one_corpus_out"]


class MergeSettings(FrozenConfig):
    """The stores, and what becomes of their labels and folds."""

    name: CorpusName = Field(description="of the merged corpus")
    stores: Annotated[tuple[StoreAddress, ...], FROM_ROOT] = Field(
        min_length=2, description="directories or addresses of one store per corpus; their order means nothing"
    )
    classes: tuple[str, ...] = Field(
        min_length=2, description="of the merged store, in the order of the network's outputs"
    )
    labels: dict[CorpusName, dict[str, str | None]] = Field(
        {}, description="corpus -> its class -> class of the merged store, or null to drop it"
    )
    label_sets: dict[CorpusName, str] = Field(
        {}, description="corpus -> set of labels to take, by its name in the card; the card's first by default"
    )
    modalities: tuple[Literal["audio", "video"], ...] = Field(
        ("audio", "video"), min_length=1, description="modalities whose features are taken; the others stay behind"
    )
    dropped_clips: Literal["unused", "unlabelled"] = Field(
        "unused", description="clips of a dropped class: in no split, or where they were without a label"
    )
    target: str | None = Field(
        None, description="what the merged labels mean; by default what each corpus says of its own"
    )
    folds: Annotated[AlignedFolds | LeaveOneCorpusOut, Field(discriminator="rule")]

    @model_validator(mode="after")
    def _classes_are_known(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"a class is listed twice: {', '.join(self.classes)}")
        for corpus, names in self.labels.items():
            outside = sorted({name for name in names.values() if name is not None} - set(self.classes))
            if outside:
                raise ValueError(f"labels.{corpus} leads to {', '.join(outside)}, not among the classes")
        return self
