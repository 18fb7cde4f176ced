"""The corpus card: everything that the platform knows about a corpus before it reads a clip.

A card is one YAML file in ``datasets/``. It names files by patterns relative to the corpus directory;
no name in it can lead out of that directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from vavl.config.base import FrozenConfig
from vavl.config.files import sha256_of_json
from vavl.config.load import read_yaml_mapping, validate
from vavl.config.places import root_directory
from vavl.corpora.card_sources import (
    ClipList,
    CsdSource,
    DefaultDirectory,
    FileSource,
    GroupValue,
    HfSource,
    LabelSet,
    LabelSetName,
    NameLabels,
    OpenFaceSource,
    SexTable,
    SpeakerTable,
    TableLabels,
    TableSource,
    classes_named,
)
from vavl.corpora.card_splits import NameSplits, SplitRules
from vavl.errors import ConfigError, CorpusError

# What a reader should know and what no clip, label or split depends on.
_PROSE = {"title", "licence", "citation", "obtain", "yardsticks"}


def _source_or(otherwise: str) -> Discriminator:
    """Tell the kinds of a part by its ``source``, which need not stand there for the usual kind."""

    def source_of(value: Any) -> str:
        source = value.get("source") if isinstance(value, dict) else getattr(value, "source", None)
        return otherwise if source is None else str(source)

    return Discriminator(source_of)


class Counts(FrozenConfig):
    """How many clips and speakers a complete copy of the corpus, or of a declared part, has."""

    clips: int = Field(gt=0)
    speakers: int = Field(gt=0)


class Subset(Counts):
    """A known part of the corpus; finding exactly this part is no reason for a warning."""

    reason: str = Field(description="which part it is and why the rest is missing")


class Unpaired(FrozenConfig):
    """What to do with clips that have only one of the two modalities."""

    audio_only: Literal["keep", "drop", "refuse"] = "keep"
    video_only: Literal["keep", "drop", "refuse"] = "keep"


class Yardstick(FrozenConfig):
    """A published or known result to hold own results against."""

    name: str
    accuracy_percent: float = Field(ge=0, le=100)
    protocol: str = Field(description="which clips, folds and inputs the number belongs to")
    citation: str
    labels: str | None = Field(
        default=None, description="set of labels that it belongs to; null: the card has one, or it fits all"
    )


class CorpusCard(FrozenConfig):
    """A corpus: its origin, its files, its labels, its speakers and its splits."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    licence: str
    citation: str
    obtain: str = Field(description="address and steps to get the corpus")
    root_environment_variable: str = Field(pattern=r"^[A-Z][A-Z0-9_]*$")
    default_root: DefaultDirectory | None = Field(
        default=None, description="directory to use when the variable is not set; counts from VAVL_ROOT"
    )

    classes: tuple[str, ...] = Field(
        default=(),
        description="class names in the order of the network's outputs; may be left out where the label is a "
        "ClassLabel column of a dataset (`source: hf`)",
    )

    audio: (
        Annotated[
            Annotated[FileSource, Tag("files")] | Annotated[CsdSource, Tag("csd")] | Annotated[HfSource, Tag("hf")],
            _source_or("files"),
        ]
        | None
    ) = None
    video: (
        Annotated[FileSource | TableSource | OpenFaceSource | CsdSource | HfSource, Field(discriminator="source")]
        | None
    ) = None
    unpaired: Unpaired = Unpaired()

    speaker: Annotated[
        Annotated[GroupValue, Tag("pattern")] | Annotated[SpeakerTable, Tag("table")], _source_or("pattern")
    ]
    clip_list: ClipList | None = None
    sex: (
        Annotated[Annotated[GroupValue, Tag("pattern")] | Annotated[SexTable, Tag("table")], _source_or("pattern")]
        | None
    ) = None
    labels: dict[LabelSetName, LabelSet] = Field(
        default={}, description="named sets of labels; the first is the default of a training run"
    )
    groups: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], GroupValue] = Field(
        default={}, description="further facts of a clip, kept in the manifest as group_<name>"
    )

    splits: SplitRules
    expected: Counts = Field(description="the corpus as published")
    subset: Subset | None = None
    yardsticks: tuple[Yardstick, ...] = ()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.audio is None and self.video is None:
            raise ValueError("neither audio nor video is given")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"a class is listed twice: {', '.join(self.classes)}")
        for key, group in self.groups_used():
            self._check_group(key, group)
        self._check_labels()
        strange = [name for name in self.splits.disjoint_groups if name not in self.groups]
        if strange:
            raise ValueError(f"splits.disjoint_groups: no groups.{strange[0]}")
        return self

    @property
    def datasets(self) -> dict[str, HfSource]:
        """The modalities that are columns of Hugging Face datasets."""
        named = {"audio": self.audio, "video": self.video}
        return {modality: source for modality, source in named.items() if isinstance(source, HfSource)}

    def groups_used(self) -> Iterator[tuple[str, str]]:
        """Yield key of the card and name of each group, or column of a dataset, that the card reads."""
        values = {"speaker": self.speaker, "sex": self.sex}
        values |= {f"groups.{name}": value for name, value in self.groups.items()}
        for key, value in values.items():
            if isinstance(value, GroupValue):
                yield from ((key, group) for group in value.groups)
        if isinstance(self.splits.folds, NameSplits):
            yield "splits.folds", self.splits.folds.group
        for name, labels in self.labels.items():
            match labels:
                case NameLabels(group=group):
                    yield f"labels.{name}", group
                case TableLabels(tables=tables):
                    own = (table for table in tables if table.file is None)
                    yield from ((f"labels.{name}", column) for table in own for column in table.columns)

    def _check_group(self, key: str, group: str) -> None:
        sides = {"audio": self.audio, "video": self.video, "clip_list": self.clip_list}
        for side, source in sides.items():
            # The columns of a dataset are known when it is opened.
            if source is None or isinstance(source, HfSource):
                continue
            if group not in re.compile(source.pattern).groupindex:
                raise ValueError(f"{key}: the pattern of {side} has no group named `{group}`")

    def _check_labels(self) -> None:
        for name, labels in self.labels.items():
            outside = sorted(classes_named(labels) - set(self.classes))
            if isinstance(labels, TableLabels) and not self.datasets and any(not t.file for t in labels.tables):
                raise ValueError(f"labels.{name}: a table without file needs a modality with `source: hf`")
            if outside and (self.classes or not self.datasets):
                problem = f"{', '.join(outside)} not among the classes {', '.join(self.classes)}"
                raise ValueError(f"labels.{name}: {problem}")
        for note in self.yardsticks:
            if note.labels is not None and note.labels not in self.labels:
                raise ValueError(f"yardsticks: `{note.name}` belongs to no set of labels `{note.labels}`")


def read_card(path: Path) -> CorpusCard:
    """Read and validate a corpus card.

    Raises:
        ConfigError: the file is missing, empty, not YAML, or has wrong keys; all faults are listed.
    """
    content = read_yaml_mapping(path)
    for key, text in _texts(content):
        # A card says the same on every machine: its hash may not depend on the environment.
        if "${" in text:
            fix = "write the value itself; the corpus directory is given by root_environment_variable"
            raise ConfigError(str(path), key, "a card takes nothing from the environment", fix)
    return validate(CorpusCard, content, source=str(path))


def require_decided(path: Path) -> None:
    """Refuse a proposed card of which a person has not looked at every guess.

    Raises:
        ConfigError: lines begin with ``# DECIDE:``; they are listed with their numbers. Or it is not YAML.
    """
    read_yaml_mapping(path)  # says what is wrong with a path or a text that cannot be read
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    open_lines = {
        number: line.lstrip(" #").removeprefix("DECIDE:").strip()
        for number, line in enumerate(lines, start=1)
        if re.match(r"\s*#\s*DECIDE:", line)
    }
    if open_lines:
        listed = "".join(f"\n  - line {number}: {text}" for number, text in open_lines.items())
        fix = "look at each line, correct the keys below it where the guess is wrong, then take the DECIDE line out"
        raise ConfigError(str(path), "", f"{len(open_lines)} guesses about the corpus are not decided yet{listed}", fix)


def card_hash(card: CorpusCard) -> str:
    """Return 16 hexadecimal digits over everything that decides clips, labels and splits.

    Title, license, citation and reference scores do not count: correcting their prose makes no store stale.
    """
    content = card.model_dump(mode="json", exclude=_PROSE)
    # The first set is the default; keys of a mapping are sorted before they are hashed.
    return sha256_of_json({**content, "label_sets": list(card.labels)})[:16]


def corpus_root(card: CorpusCard, root: Path | None = None) -> Path:
    """Return the absolute corpus directory: ``root``, else the card's environment variable, else its default.

    Raises:
        CorpusError: no directory is named, or it does not exist.
    """
    variable = card.root_environment_variable
    named = root or os.environ.get(variable) or card.default_root
    if not named:
        problem = "the corpus directory is not known: the environment variable is not set"
        fix = f"export {variable}=/directory/of/the/corpus; how to get it: {card.obtain.strip()}"
        raise CorpusError(card.name, variable, problem, fix)
    directory = (root_directory() or Path.cwd()) / named
    if not directory.is_dir() and not any(source.is_on_hub for source in card.datasets.values()):
        fix = f"set {variable} to the directory of the corpus; how to get it: {card.obtain.strip()}"
        raise CorpusError(str(directory), variable, f"the directory of corpus {card.name} does not exist", fix)
    return directory


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _texts(item, f"{key}.{position}")
    elif isinstance(value, str):
        yield key, value
