"""The part of a card that says which speakers are tested, validated and trained on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vavl.config.base import FrozenConfig
from vavl.data.card_sources import RelativeName

Fold = Annotated[int, Field(ge=0, le=32_767)]


class ListedFolds(FrozenConfig):
    """Test speakers written into the card: fold -> speakers."""

    source: Literal["list"]
    test_speakers: dict[Fold, tuple[str, ...]] = Field(min_length=1)


class FoldTable(FrozenConfig):
    """Test speakers from a CSV table with one row per speaker."""

    source: Literal["table"]
    file: RelativeName
    speaker_column: str
    fold_column: str
    speaker_digits: int = Field(
        default=0, ge=0, description="fill speaker numbers with zeros on the left to this many digits"
    )


class SplitRules(FrozenConfig):
    """Speaker-disjoint splits of every fold.

    Test: the speakers of the published fold. Validation: ``validation_speakers`` of the others, drawn
    by a generator seeded from ``protocol`` and fold alone, balanced by sex. Train: the rest.
    """

    protocol: str = Field(
        min_length=1, description="name of the split protocol; reports name it, draws depend on it"
    )
    folds: Annotated[ListedFolds | FoldTable, Field(discriminator="source")]
    validation_speakers: int = Field(gt=0)
    untested_speakers: Literal["refuse", "train"] = Field(
        default="refuse",
        description="speakers that no fold tests: an error, or training speakers of every fold",
    )
    labelled: tuple[Literal["train", "validation", "test"], ...] = Field(
        default=("train", "validation", "test"),
        description="splits in which a clip without label is an error",
    )
