"""The part of a card that says which speakers are tested, validated and trained on."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vavl.config.base import FrozenConfig
from vavl.corpora.card_sources import Expression, RelativeName

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


class SplitNames(FrozenConfig):
    """What a published table calls the three splits, e.g. ``test: [Test1, Test2]``; validation may not be there."""

    train: str | tuple[str, ...]
    validation: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...]

    @property
    def by_text(self) -> dict[str, str]:
        """The table's word -> train, validation or test."""
        named = (("train", self.train), ("validation", self.validation or ()), ("test", self.test))
        return {text: split for split, texts in named for text in ((texts,) if isinstance(texts, str) else texts)}


class NameSplits(FrozenConfig):
    """Published splits in the names of the clips, e.g. directories ``Train``, ``Val`` and ``Test``: fold 0."""

    source: Literal["pattern"]
    group: str
    map: dict[str, Literal["train", "validation", "test", "none"]]

    @model_validator(mode="after")
    def _is_a_split(self) -> Self:
        missing = {"train", "test"} - set(self.map.values())
        if missing:
            raise ValueError(f"map names no {' and no '.join(sorted(missing))}")
        return self


class SplitTables(FrozenConfig):
    """Complete published splits: one CSV table per fold that names the split of every clip or speaker.

    Speakers may not be shared between the splits of a fold. Folds may test the same speaker again.
    """

    source: Literal["split_tables"]
    tables: dict[Fold, RelativeName] = Field(min_length=1)
    key: Literal["clip", "speaker"] = Field(default="clip", description="what a row is about")
    key_column: str
    key_pattern: Expression | None = Field(
        default=None, description="reads clip or speaker (the group of that name) out of the key"
    )
    split_column: str
    names: SplitNames
    speaker_column: str | None = Field(
        default=None, description="the clip's speaker, checked against the card's `speaker`"
    )
    unlisted_clips: Literal["refuse", "none", "train"] = Field(
        default="refuse",
        description="clips that a table lacks: an error, no split, or train unless their speaker is held out",
    )

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        if self.key_pattern is not None and self.key not in re.compile(self.key_pattern).groupindex:
            raise ValueError(f"key_pattern needs a group (?P<{self.key}>...)")
        if self.key == "speaker" and self.speaker_column is not None:
            raise ValueError("speaker_column is for tables of clips (`key: clip`)")
        return self


class SplitRules(FrozenConfig):
    """Speaker-disjoint splits of every fold.

    Test: the speakers of the published fold. Validation: ``validation_speakers`` of the others, drawn
    by a generator seeded from ``protocol`` and fold alone, balanced by sex. Train: the rest. Where splits are
    published for every clip (``split_tables``, or in the names), they are taken as they are; validation speakers
    are drawn from the training ones only where no validation split is published.
    """

    protocol: str = Field(min_length=1, description="name of the split protocol; reports name it, draws depend on it")
    folds: Annotated[ListedFolds | FoldTable | SplitTables | NameSplits, Field(discriminator="source")]
    validation_speakers: int | None = Field(
        default=None, gt=0, description="how many to draw; not where a validation split is published"
    )
    untested_speakers: Literal["refuse", "train"] = Field(
        default="refuse", description="speakers that no fold tests: an error, or training speakers of every fold"
    )
    disjoint_groups: tuple[str, ...] = Field(
        default=(), description="values from the name that, like speakers, stay on one modality, e.g. a session"
    )
    labelled: tuple[Literal["train", "validation", "test"], ...] = Field(
        default=("train", "validation", "test"), description="splits in which a clip without label is an error"
    )

    @model_validator(mode="after")
    def _validation_is_named_once(self) -> Self:
        match self.folds:
            case SplitTables(names=names):
                named = names.validation is not None
            case NameSplits(map=splits):
                named = "validation" in splits.values()
            case _:
                named = False
        if named and self.validation_speakers is not None:
            raise ValueError("split_tables name the validation clips: leave validation_speakers out")
        if not named and self.validation_speakers is None:
            raise ValueError("validation_speakers: how many are to be drawn?")
        return self
