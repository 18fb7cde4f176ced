"""Parts of a card that say where clips, features and facts are found in the corpus directory."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from vavl.config.base import FrozenConfig


def _inside_corpus(name: str) -> str:
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or "\\" in name:
        raise ValueError("must be relative to the corpus directory, with / between directories")
    if ".." in PurePosixPath(name).parts or not PurePosixPath(name).parts:
        raise ValueError("must name a file inside the corpus directory")
    return name


def _below_working_directory(name: str) -> str:
    # A card comes from somebody else: only the person at the machine may open other directories to it.
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or ".." in PurePosixPath(name).parts:
        raise ValueError("must be relative to the working directory; any other directory is given by the variable")
    return name


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


def _clip_expression(text: str) -> str:
    if "clip" not in re.compile(_expression(text)).groupindex:
        raise ValueError("needs a group (?P<clip>...): the clip id, the same for audio and video")
    return text


RelativeName = Annotated[str, AfterValidator(_inside_corpus)]
DefaultDirectory = Annotated[str, AfterValidator(_below_working_directory)]
Expression = Annotated[str, AfterValidator(_expression)]
ClipExpression = Annotated[str, AfterValidator(_clip_expression)]
Suffix = Annotated[str, Field(pattern=r"^\.[a-z0-9]+$")]


class FileSource(FrozenConfig):
    """One modality as media files, one per clip.

    ``pattern`` is a regular expression for the whole path below the corpus directory, with ``/``
    between directories and without the suffix. Its named groups feed the other keys of the card; the
    group ``clip`` is the clip id. Suffixes are compared without regard to case.
    """

    source: Literal["files"] = "files"
    pattern: ClipExpression
    suffixes: tuple[Suffix, ...] = Field(min_length=1)


class TableSource(FrozenConfig):
    """One modality as a CSV table of ready features, one row per clip.

    ``pattern`` reads the value of ``key_column`` as it would read a path; ``feature_columns`` is a
    regular expression for the whole name of the columns that are features.
    """

    source: Literal["table"]
    file: RelativeName
    key_column: str
    pattern: ClipExpression
    feature_columns: Expression
    width: int = Field(gt=0, description="number of feature columns")


class OpenFaceSource(FrozenConfig):
    """The video side as tables of OpenFace 2, one CSV file per clip with one row per frame.

    ``pattern`` and ``suffixes`` as for files; ``feature_columns`` is a regular expression for the whole
    name of the columns that are features, without the spaces that OpenFace writes around names.
    """

    source: Literal["openface"]
    pattern: ClipExpression
    suffixes: tuple[Suffix, ...] = Field((".csv",), min_length=1)
    feature_columns: Expression
    width: int = Field(gt=0, description="number of feature columns")
    frame_rate_hz: float = Field(gt=0, le=1000, description="rows per second; other tables are quarantined")
    least_confidence: float = Field(0.8, ge=0, le=1, description="below it a frame's face counts as missed")
    missed: Literal["interpolate", "mask"] = Field(
        "interpolate", description="frames without a face: between their neighbors, or left out"
    )
    longest_gap_s: float = Field(
        1.0, ge=0, description="frames of a longer gap are left out: nobody knows what the face did"
    )
    pooling: Literal["statistics"] | None = Field(
        None,
        exclude_if=lambda value: value is None,  # hashes of earlier cards stay
        description="statistics: mean and deviation over the frames with a face: one frame per clip",
    )


class CsdSegments(FrozenConfig):
    """The container whose intervals cut videos into clips, e.g. that of the labels.

    The clip that is the n-th interval of a video, from 0, has the key ``video[n]``.
    """

    file: RelativeName
    sequence: str | None = Field(default=None, description="group of the file; null: its only one")


class CsdSource(FrozenConfig):
    """One modality as a computational sequence (.csd, HDF5) of the CMU Multimodal SDK: ready features with times.

    ``pattern`` reads the keys of the segments as it would read a path.
    """

    source: Literal["csd"]
    file: RelativeName
    sequence: str | None = Field(default=None, description="group of the file; null: its only one")
    segments: CsdSegments
    pattern: ClipExpression
    width: int = Field(gt=0, description="features per frame")
    non_finite: Literal["refuse", "zero"] = Field(
        default="refuse", description="values NaN or infinite: quarantine the clip, or 0 in their place, counted"
    )


LOCAL_FORMS = ("audiofolder", "videofolder", "parquet", "saved")


def _form_of_dataset(text: str) -> str:
    if text not in LOCAL_FORMS and not re.fullmatch(r"[\w.-]+/[\w.-]+", text, re.ASCII):
        raise ValueError(f"is none of {', '.join(LOCAL_FORMS)}, and no `owner/name` of a dataset on the hub")
    return text


class HfSource(FrozenConfig):
    """One modality as a column of a Hugging Face dataset, one row per clip.

    The other columns are groups like those of a pattern: ``speaker: {group: speaker_id}``. Two more are always there:
    ``clip``, and ``split``, the name of the dataset's split where no column has that name.
    """

    source: Literal["hf"]
    load: Annotated[str, AfterValidator(_form_of_dataset)] = Field(
        description="audiofolder, videofolder or parquet (`load_dataset`), saved (`load_from_disk`), or owner/name of "
        "a dataset on the hub, which is downloaded into the corpus directory"
    )
    config: str | None = Field(default=None, description="configuration of a dataset on the hub")
    revision: str | None = Field(default=None, description="commit, tag or branch of a dataset on the hub")
    data_dir: RelativeName | None = Field(default=None, description="directory of it below the corpus directory")
    data_files: RelativeName | tuple[RelativeName, ...] | dict[str, RelativeName] | None = Field(
        default=None, description="names or wildcards below data_dir, or split -> name; null: all"
    )
    split: str | None = Field(default=None, description="the split to take; null: all")
    column: str | None = Field(default=None, description="of the media; null: `audio` or `video`, like the modality")
    clip: str | None = Field(
        default=None, description="column of the clip ids; null: the media's path below data_dir, without the suffix"
    )

    @property
    def is_on_hub(self) -> bool:
        """True for a dataset that is downloaded."""
        return self.load not in LOCAL_FORMS

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        if not self.is_on_hub and (self.revision or self.config):
            raise ValueError("revision and config are for datasets on the hub")
        if self.load == "saved" and self.data_files is not None:
            raise ValueError("a saved dataset is one directory: name it by data_dir")
        return self


class GroupValue(FrozenConfig):
    """A fact of a clip, read from a named group of the patterns and translated by ``map`` if given.

    Several groups are joined by ``_``: the session and the letter of who speaks in it name a person together.
    A group that took no part in the match and a value mapped to null leave the fact unknown; a value
    that ``map`` does not hold is an error.
    """

    source: Literal["pattern"] = "pattern"
    group: str | tuple[str, ...] = Field(min_length=1)
    map: dict[str, str | None] | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        """The named groups that it is read from."""
        return (self.group,) if isinstance(self.group, str) else self.group


class SpeakerTable(FrozenConfig):
    """The speaker of each clip from a CSV table joined by clip id; a clip may have several rows that agree."""

    source: Literal["table"]
    file: RelativeName
    key_column: str
    key_pattern: ClipExpression = Field(default=r"(?P<clip>.+)", description="reads the clip id out of the key")
    speaker_column: str
    unknown: Literal["refuse", "own"] = Field(
        default="refuse", description="a clip without speaker: an error, or a speaker of its own"
    )


class SexTable(FrozenConfig):
    """The speakers' sex from a CSV table with one row per speaker; a speaker without a row has none."""

    source: Literal["table"]
    file: RelativeName
    speaker_column: str
    sex_column: str
    map: dict[str, str | None] | None = None


class ClipList(FrozenConfig):
    """A published list of the corpus' clips, one row per clip.

    With it a manifest can be built from the tables alone, without any media: to look at labels and splits.
    """

    file: RelativeName
    key_column: str
    pattern: ClipExpression = Field(description="reads the key as the patterns of the modalities read a path")


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
