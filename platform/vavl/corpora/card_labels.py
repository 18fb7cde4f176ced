"""The part of a card that says what a clip is labeled with: named sets of labels."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from vavl.config.base import FrozenConfig
from vavl.corpora.card_sources import ClipExpression, Expression, GroupValue, RelativeName


def _ends_no_column(name: str) -> str:
    if "__" in name:
        raise ValueError("may not hold two underscores in a row: columns of the manifest end in __<name>")
    return name


LabelSetName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$"), AfterValidator(_ends_no_column)]
Attribute = Literal["arousal", "valence", "dominance"]


class NameLabels(FrozenConfig):
    """One class per clip, read from a named group of the patterns and translated by ``map`` if given."""

    source: Literal["pattern"]
    target: str = Field(description="what the label means, e.g. intended emotion; every report names it")
    group: str
    map: dict[str, str | None] | None = None

    @property
    def value(self) -> GroupValue:
        """The class as a value from the name."""
        return GroupValue(group=self.group, map=self.map)


class RowFilter(FrozenConfig):
    """The rows of a table that count: those whose ``column`` matches ``pattern`` as a whole."""

    column: str
    pattern: Expression


class LabelTable(FrozenConfig):
    """Labels from a CSV table with one row per clip, joined by clip id, or from columns of a Hugging Face dataset.

    Any of three kinds, also together: one class per clip (``label_column``, translated by ``map``),
    a share, count of votes or intensity per class (``soft_columns``: class -> column; the rows are
    normalized to sum 1, and the largest is the class where there is no ``label_column``) and attributes
    (``attribute_columns``: arousal, valence, dominance -> column; rescaled to 0 .. 1). Clips without a
    row are unlabeled.
    """

    file: RelativeName | None = Field(default=None, description="null: the dataset of a modality with `source: hf`")
    key_column: str | None = Field(default=None, description="column that names the clip; of a file alone")
    key_pattern: ClipExpression = Field(default=r"(?P<clip>.+)", description="reads the clip id out of the key")
    rows: RowFilter | None = Field(default=None, description="rows that count, where a table holds several kinds")
    label_column: str | None = None
    map: dict[str, str | None] | None = None
    soft_columns: dict[str, str] = Field(default={})
    on_tie: Literal["first_class", "no_class"] = Field(
        default="first_class", description="equal largest shares: the class listed first, or no class (the shares stay)"
    )
    on_zero: Literal["refuse", "unlabelled"] = Field(
        default="refuse", description="all shares 0: an error, or a clip without this label"
    )
    attribute_columns: dict[Attribute, str] = Field(default={})
    attribute_range: tuple[float, float] | None = Field(
        default=None, description="lowest and highest value; the manifest holds them rescaled to 0 .. 1"
    )

    @model_validator(mode="after")
    def _holds_a_label(self) -> Self:
        if not (self.label_column or self.soft_columns or self.attribute_columns):
            raise ValueError("names no label_column, soft_columns or attribute_columns")
        if (self.file is None) != (self.key_column is None):
            raise ValueError("file and key_column belong together: give both, or neither for columns of a dataset")
        if self.attribute_columns and self.attribute_range is None:
            raise ValueError("attribute_columns need an attribute_range")
        if self.attribute_range is not None and self.attribute_range[0] >= self.attribute_range[1]:
            raise ValueError("attribute_range is the lowest and the highest value, in this order")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the label is read from."""
        named = (self.label_column, self.rows.column if self.rows else None)
        return (*(name for name in named if name), *self.soft_columns.values(), *self.attribute_columns.values())

    @property
    def classes(self) -> set[str]:
        """The classes that the table names."""
        return {name for name in (self.map or {}).values() if name is not None} | set(self.soft_columns)


class TableLabels(FrozenConfig):
    """Labels from one table, or from several joined by clip id; each part of a label comes from one."""

    source: Literal["tables"]
    target: str = Field(description="what the label means, e.g. perceived emotion; every report names it")
    tables: tuple[LabelTable, ...] = Field(min_length=1)


LabelSet = Annotated[NameLabels | TableLabels, Field(discriminator="source")]


def classes_named(labels: NameLabels | TableLabels) -> set[str]:
    """Return the classes that a set of labels names in the card."""
    match labels:
        case NameLabels(map=names):
            return {name for name in (names or {}).values() if name is not None}
        case TableLabels(tables=tables):
            return set().union(*(table.classes for table in tables))


def original_ranges(labels: NameLabels | TableLabels) -> dict[Attribute, tuple[float, float]]:
    """Return the range of each attribute in the corpus' own tables."""
    match labels:
        case NameLabels():
            return {}
        case TableLabels(tables=tables):
            return {
                name: table.attribute_range
                for table in tables
                if table.attribute_range is not None
                for name in table.attribute_columns
            }
