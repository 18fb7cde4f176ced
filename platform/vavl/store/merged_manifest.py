"""The manifest of a merged store: names that no other corpus has, common labels, common folds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vavl.corpora.label_sets import LABEL_COLUMNS
from vavl.corpora.manifest import TEST, TRAIN, Manifest
from vavl.corpora.splits import NO_SPLIT, SPLITS
from vavl.errors import ConfigError
from vavl.features import MODALITIES
from vavl.store.merge_settings import AlignedFolds, LeaveOneCorpusOut, MergeSettings

LABEL_SET = "merged"
_TEXT = pa.string()
_NAMES = np.array([*SPLITS, NO_SPLIT], dtype=object)  # code -1 is the last one


def unique_names(corpus: str, names: Any) -> Any:
    """Return names of clips or speakers of a corpus with the corpus before them: ``ravdess/01``.

    Names that are sorted stay so, and all those of a corpus stand together: ``/`` sorts before every
    character that the name of a corpus may have.
    """
    return pc.binary_join_element_wise(pa.scalar(corpus), names, "/")


def merged_manifest(
    manifests: Mapping[str, Manifest],
    class_maps: Mapping[str, Mapping[str, str | None]],
    folds: list[MergedFold],
    settings: MergeSettings,
    card_hash: str,
) -> Manifest:
    """Return the manifest of a merged store.

    ``manifests`` (each with the set of labels that is taken) and ``class_maps`` (what becomes of the classes) are by
    corpus, in alphabetical order; ``card_hash`` is over everything that the merge was made from.
    """
    groups = sorted(
        {name for one in manifests.values() for name in one.table.column_names if name.startswith("group_")}
    )
    tables = [
        _table(corpus, manifest, class_maps[corpus], folds, (settings, groups))
        for corpus, manifest in manifests.items()
    ]
    table = pa.concat_tables(tables)
    for fold in folds:
        check_speakers_are_apart(table["speaker"], table[f"split_{fold.number}"], fold.number)
    target = settings.target or _common_target(manifests)
    protocol, validation = _rule_in_words(settings.folds, manifests)
    metadata = {
        "clips": table.num_rows,
        "corpus": settings.name,
        "corpora": sorted(pc.unique(table["corpus"]).to_pylist()),
        "classes": list(settings.classes),
        "labels": {LABEL_SET: {"target": target, "rescaled_from": {}}},
        "label_set": LABEL_SET,
        "target": target,
        "protocol": protocol,
        "folds": [fold.number for fold in folds],
        "fold_names": {str(fold.number): fold.name for fold in folds},
        "card_hash": card_hash,
        "yardsticks": [],
        "validation": validation,
    }
    return Manifest.of(table, metadata)


def _table(
    corpus: str,
    manifest: Manifest,
    names: Mapping[str, str | None],
    folds: list[MergedFold],
    shared: tuple[MergeSettings, list[str]],
) -> pa.Table:
    """Return the rows of one corpus with the columns that all corpora have."""
    settings, groups = shared
    table = manifest.table
    labels, is_dropped = mapped_labels(table, names, settings.classes)
    is_unused = is_dropped & (settings.dropped_clips == "unused")
    splits = {fold.number: fold.column(corpus, manifest, is_unused) for fold in folds}
    # In the order of an ordinary manifest; one that lacks a column has nulls there.
    columns: dict[str, Any] = {
        "clip_id": unique_names(corpus, table["clip_id"]),
        "corpus": _column(table, "corpus"),
        "speaker": unique_names(corpus, table["speaker"]),
        "sex": _column(table, "sex"),
        **labels,
        "test_fold": _test_fold(splits, len(manifest)),
        **{f"{name}_{kind}": _column(table, f"{name}_{kind}") for name in MODALITIES for kind in ("path", "table_key")},
        **{f"split_{number}": column for number, column in splits.items()},
        **{name: _column(table, name) for name in groups},
    }
    return pa.table(columns)


def _test_fold(splits: Mapping[int, pa.Array], clips: int) -> pa.Array:
    """Return the first fold that tests each clip, null for a clip that none does."""
    fold: NDArray[np.float64] = np.full(clips, np.nan)
    for number, column in reversed(list(splits.items())):
        fold[np.asarray(pc.equal(column, SPLITS[2]))] = number
    return pa.array(fold, from_pandas=True).cast(pa.int16())


def _common_target(manifests: Mapping[str, Manifest]) -> str:
    targets = {corpus: manifest.target for corpus, manifest in manifests.items()}
    if len(set(targets.values())) == 1:
        return next(iter(targets.values()))
    return "; ".join(f"{corpus}: {target}" for corpus, target in targets.items())


def class_maps(classes: Mapping[str, tuple[str, ...]], settings: MergeSettings) -> dict[str, dict[str, str | None]]:
    """Return by corpus what becomes of each of its classes: one of the merged store, or None if it is dropped.

    A class that ``labels`` does not name is kept if the merged store has one of this name.

    Raises:
        ConfigError: a class is neither kept nor mapped nor dropped, ``labels`` names one that is not there,
            or a class of the merged store comes from no corpus; all such classes are listed.
    """
    problems = []
    for corpus, names in classes.items():
        named = settings.labels.get(corpus, {})
        lost = [name for name in names if name not in named and name not in settings.classes]
        if lost:
            problems.append(f"labels.{corpus}: {', '.join(lost)}: neither kept nor mapped nor dropped")
        strange = [name for name in named if name not in names]
        if strange:
            problems.append(f"labels.{corpus}: {', '.join(strange)}: no class of this corpus ({', '.join(names)})")
    maps = {
        corpus: {name: settings.labels.get(corpus, {}).get(name, name) for name in names}
        for corpus, names in classes.items()
    }
    fed = {new for one in maps.values() for new in one.values()}
    problems += [f"classes: {name}: comes from no corpus" for name in settings.classes if name not in fed]
    if problems:
        problem = "\n  - ".join(["labels do not fit", *problems])
        fix = "map each class of a corpus to one of `classes`, or to null to drop it"
        raise ConfigError("merge", "", problem, fix)
    return maps


def mapped_labels(
    table: pa.Table, names: Mapping[str, str | None], classes: tuple[str, ...]
) -> tuple[dict[str, pa.Array], NDArray[np.bool_]]:
    """Return the labels of a corpus in the classes of the merged store.

    Shares of dropped classes are taken out of a soft label and the rest is divided by its sum; a soft label
    whose largest share was dropped, and that of a clip whose class was dropped, is null. Attributes stay.

    Args:
        table: of the corpus' manifest; a label column that is not there is null.
        names: what becomes of every class, in the order of the corpus' classes.
        classes: of the merged store.

    Returns:
        The label columns by name, and (clips,), True where the class of the clip was dropped.
    """
    old = pa.array(list(names), pa.string())
    label = _column(table, "label")
    places = pc.index_in(label, value_set=old)
    new_label = pa.array(list(names.values()), pa.string()).take(places)
    is_dropped = np.asarray(pc.and_(pc.is_valid(places), pc.is_null(new_label)))
    soft, soft_dropped = _mapped_shares(_column(table, "soft_label", pa.list_(pa.float32())), names, classes)
    is_dropped = is_dropped | (soft_dropped & np.asarray(pc.is_null(label)))
    columns = {
        "label": new_label,
        "soft_label": pc.if_else(pa.array(is_dropped), pa.scalar(None, soft.type), soft),
        **{name: _column(table, name, pa.float32()) for name in LABEL_COLUMNS[2:]},
    }
    return columns, is_dropped


def _mapped_shares(
    column: pa.Array, names: Mapping[str, str | None], classes: tuple[str, ...]
) -> tuple[pa.Array, NDArray[np.bool_]]:
    """Return the soft labels in the new classes, and where the largest share was of a dropped class."""
    there = np.asarray(column.is_valid())
    shares = np.asarray(column.drop_null().flatten(), dtype=np.float64).reshape(-1, len(names))
    into = np.zeros((len(names), len(classes)))
    for row, new in enumerate(names.values()):
        if new is not None:
            into[row, classes.index(new)] = 1
    kept = shares @ into
    gone = into.sum(axis=1) == 0
    is_lost = gone[shares.argmax(axis=1)] if len(shares) else np.zeros(0, np.bool_)
    # Nothing is divided where nothing was taken out, so that kept shares stay what they are to the bit.
    rest = np.where((shares[:, gone].sum(axis=1) > 0) & ~is_lost, kept.sum(axis=1), 1)
    flat = np.ascontiguousarray((kept / rest[:, None])[~is_lost], dtype=np.float32)
    known = there.copy()
    known[there] = ~is_lost
    ends = np.concatenate([[0], np.cumsum(known)]) * len(classes)
    lists = pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(flat.ravel()), mask=pa.array(~known))
    is_dropped = np.zeros(len(column), np.bool_)
    is_dropped[there] = is_lost
    return lists, is_dropped


def _column(table: pa.Table, name: str, kind: pa.DataType = _TEXT) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, kind)
    column = table[name].cast(kind).combine_chunks()
    return column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)


@dataclass(frozen=True)
class MergedFold:
    """One fold of a merged store."""

    number: int
    of_corpus: Mapping[str, int]  # the fold of each corpus that gives its splits.
    test_corpus: str | None = None  # that is tested as a whole; None where every corpus tests its own speakers.

    @property
    def name(self) -> str:
        """What reports call the fold next to its number."""
        if self.test_corpus is not None:
            return self.test_corpus
        return ", ".join(f"{corpus} {fold}" for corpus, fold in self.of_corpus.items())

    def column(self, corpus: str, manifest: Manifest, is_unused: np.ndarray) -> pa.Array:
        """Return the split of every clip of one corpus; none where ``is_unused``, (clips,)."""
        split = manifest.split(self.of_corpus[corpus]).copy()
        if self.test_corpus == corpus:
            split[split >= 0] = TEST
        elif self.test_corpus is not None:
            split[split == TEST] = TRAIN
        split[is_unused] = -1
        return pa.array(_NAMES[split], pa.string())


def merged_folds(rule: AlignedFolds | LeaveOneCorpusOut, manifests: Mapping[str, Manifest]) -> list[MergedFold]:
    """Return the folds of a merged store.

    Raises:
        ConfigError: a corpus or a fold is not there, or no fold is left.
    """
    match rule:
        case AlignedFolds():
            return _aligned(rule, manifests)
        case LeaveOneCorpusOut():
            first = {corpus: manifest.folds[0] for corpus, manifest in manifests.items()}
            return [MergedFold(number, first, corpus) for number, corpus in enumerate(manifests)]


def _rule_in_words(rule: AlignedFolds | LeaveOneCorpusOut, manifests: Mapping[str, Manifest]) -> tuple[str, str]:
    """Return the name of the split protocol, which every report shows, and who the validation speakers are."""
    if isinstance(rule, LeaveOneCorpusOut):
        protocol = f"leave one corpus out ({', '.join(manifests)})"
        return protocol, "those of the first fold of every corpus that trains"
    protocols = "; ".join(f"{corpus}: {manifest.protocol}" for corpus, manifest in manifests.items())
    return f"aligned folds: {protocols}", "those of every corpus"


def check_speakers_are_apart(speakers: pa.Array, splits: pa.Array, fold: int) -> None:
    """Assert that no speaker is in two of train, validation and test."""
    pairs = pa.table({"speaker": speakers, "split": splits}).group_by(["speaker", "split"]).aggregate([])
    used = [speaker for speaker, split in zip(*pairs.to_pydict().values(), strict=True) if split in SPLITS]
    assert len(used) == len(set(used)), f"fold {fold}: splits share a speaker"


def _aligned(rule: AlignedFolds, manifests: Mapping[str, Manifest]) -> list[MergedFold]:
    strange = sorted(set(rule.by_corpus) - set(manifests))
    if strange:
        problem = f"{', '.join(strange)}: no such corpus"
        fix = f"choose from {', '.join(manifests)}"
        raise ConfigError("merge", "folds.by_corpus", problem, fix)
    common = set.intersection(*(set(manifest.folds) for manifest in manifests.values()))
    named = next(iter(rule.by_corpus.values()), None)
    numbers = sorted(common) if named is None else range(len(named))
    if not numbers:
        problem = "no fold is in all corpora: " + _known(manifests)
        fix = "name their folds in folds.by_corpus"
        raise ConfigError("merge", "folds", problem, fix)
    folds = []
    for number in numbers:
        of_corpus = {
            corpus: rule.by_corpus[corpus][number] if corpus in rule.by_corpus else number for corpus in manifests
        }
        for corpus, fold in of_corpus.items():
            if fold not in manifests[corpus].folds:
                problem = f"{corpus} has no fold {fold}; " + _known(manifests)
                fix = "name folds that are there"
                raise ConfigError("merge", "folds.by_corpus", problem, fix)
        folds.append(MergedFold(number, of_corpus))
    return folds


def _known(manifests: Mapping[str, Manifest]) -> str:
    return "; ".join(f"{corpus} has {list(manifest.folds)}" for corpus, manifest in manifests.items())
