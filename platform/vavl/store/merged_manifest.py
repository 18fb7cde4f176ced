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
from vavl.corpora.manifest import NONE, TEST, TRAIN, Manifest
from vavl.corpora.splits import NO_SPLIT, SPLITS
from vavl.errors import ConfigError
from vavl.features import MODALITIES
from vavl.store.merge_settings import AlignedFolds, LeaveOneCorpusOut, MergeSettings

LABEL_SET = "merged"
_SPLIT_NAMES = np.array([*SPLITS, NO_SPLIT], dtype=object)  # by code; -1 is the last one
# Of every corpus; a manifest that lacks one has nulls there.
_PLACES = tuple(f"{modality}_{kind}" for modality in MODALITIES for kind in ("path", "table_key"))
_SHARES = pa.list_(pa.float32())


def unique_names(corpus: str, names: Any) -> Any:
    """Return names of clips or speakers of a corpus with the corpus before them: ``ravdess/01``.

    Names that are sorted stay so, and all those of a corpus stand together: ``/`` sorts before every
    character that the name of a corpus may have.
    """
    return pc.binary_join_element_wise(pa.scalar(corpus), names, "/")


@dataclass(frozen=True)
class MergedFold:
    """One fold of a merged store."""

    number: int
    name: str  # what reports call it next to its number.
    splits: Mapping[str, NDArray[np.int8]]  # by corpus, (clips,): TRAIN, VALIDATION, TEST or NONE.


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
    columns = {name for one in manifests.values() for name in one.table.column_names}
    groups = sorted(name for name in columns if name.startswith("group_"))
    tables = []
    for corpus, manifest in manifests.items():
        table = manifest.table
        labels, is_dropped = mapped_labels(table, class_maps[corpus], settings.classes)
        is_unused = is_dropped & (settings.dropped_clips == "unused")
        splits = {fold.number: np.where(is_unused, NONE, fold.splits[corpus]) for fold in folds}
        # In the order of an ordinary manifest.
        merged: dict[str, Any] = {
            "clip_id": unique_names(corpus, table["clip_id"]),
            "corpus": _column(table, "corpus"),
            "speaker": unique_names(corpus, table["speaker"]),
            "sex": _column(table, "sex"),
            **labels,
            "test_fold": _first_tested(splits),
            **{name: _column(table, name) for name in _PLACES},
            **{f"split_{fold}": pa.array(_SPLIT_NAMES[split], pa.string()) for fold, split in splits.items()},
            **{name: _column(table, name) for name in groups},
        }
        tables.append(pa.table(merged))
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


def _first_tested(splits: Mapping[int, NDArray[np.int8]]) -> pa.Array:
    """Return the first fold that tests each clip, null for a clip that none does."""
    is_tested = np.stack([split == TEST for split in splits.values()])
    is_any = is_tested.any(axis=0)
    # What lies under a null enters the hash of the file, too.
    first = np.where(is_any, np.array(list(splits))[is_tested.argmax(axis=0)], 0)
    return pa.array(first, pa.int16(), mask=~is_any)


def _column(table: pa.Table, name: str, kind: pa.DataType | None = None) -> pa.Array:
    """Return a column of a manifest, by default of text, in one piece; null where the manifest lacks it."""
    kind = kind or pa.string()
    if name not in table.column_names:
        return pa.nulls(table.num_rows, kind)
    column = table[name].cast(kind).combine_chunks()
    return column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)


def _common_target(manifests: Mapping[str, Manifest]) -> str:
    targets = {corpus: manifest.target for corpus, manifest in manifests.items() if manifest.classes}
    if len(set(targets.values())) == 1:
        return next(iter(targets.values()))
    return "; ".join(f"{corpus}: {target}" for corpus, target in targets.items())


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


def class_maps(classes: Mapping[str, tuple[str, ...]], settings: MergeSettings) -> dict[str, dict[str, str | None]]:
    """Return by corpus what becomes of each of its classes: one of the merged store, or None if it is dropped.

    A class that ``labels`` does not name is kept if the merged store has one of this name.

    Raises:
        ConfigError: a class is neither kept nor mapped nor dropped, ``labels`` names one that is not there,
            or a class of the merged store comes from no corpus; all such classes are listed.
    """
    problems, maps = [], {}
    for corpus, names in classes.items():
        named = settings.labels.get(corpus, {})
        maps[corpus] = {name: named.get(name, name) for name in names}
        lost = [name for name in names if name not in named and name not in settings.classes]
        if lost:
            problems.append(f"labels.{corpus}: {', '.join(lost)}: neither kept nor mapped nor dropped")
        strange = [name for name in named if name not in names]
        if strange:
            problems.append(f"labels.{corpus}: {', '.join(strange)}: no class of this corpus ({', '.join(names)})")
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
    label, soft = _column(table, "label"), _column(table, "soft_label", _SHARES)
    places = pc.index_in(label, value_set=pa.array(list(names), pa.string()))
    new_label = pa.array(list(names.values()), pa.string()).take(places)
    is_dropped = np.asarray(pc.and_(pc.is_valid(places), pc.is_null(new_label)))

    has_shares = np.asarray(soft.is_valid())
    shares = np.asarray(soft.drop_null().flatten(), dtype=np.float64).reshape(has_shares.sum(), len(names))
    into = np.array([[name == new for name in classes] for new in names.values()]).reshape(-1, len(classes))
    gone = np.asarray(~into.any(axis=1))
    kept, is_lost = shares @ into, np.zeros(len(label), np.bool_)
    if len(shares):
        is_lost[has_shares] = gone[shares.argmax(axis=1)]
    is_dropped = is_dropped | (is_lost & np.asarray(label.is_null()))
    is_known = has_shares & ~is_lost & ~is_dropped
    # Nothing is divided where nothing was taken out, so that kept shares stay what they are to the bit.
    rest = np.where((shares[:, gone].sum(axis=1) > 0) & is_known[has_shares], kept.sum(axis=1), 1)
    flat = (kept / rest[:, None])[is_known[has_shares]].astype(np.float32).ravel()
    ends = np.concatenate([[0], np.cumsum(is_known)]) * len(classes)
    columns = {
        "label": new_label,
        "soft_label": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(flat), mask=pa.array(~is_known)),
        **{name: _column(table, name, pa.float32()) for name in LABEL_COLUMNS[2:]},
    }
    return columns, is_dropped


def merged_folds(rule: AlignedFolds | LeaveOneCorpusOut, manifests: Mapping[str, Manifest]) -> list[MergedFold]:
    """Return the folds of a merged store.

    Raises:
        ConfigError: a corpus or a fold is not there, or no fold is left.
    """
    match rule:
        case AlignedFolds():
            return [
                MergedFold(
                    number,
                    ", ".join(f"{corpus} {fold}" for corpus, fold in of_corpus.items()),
                    {corpus: manifests[corpus].split(fold) for corpus, fold in of_corpus.items()},
                )
                for number, of_corpus in _aligned(rule, manifests).items()
            ]
        case LeaveOneCorpusOut():
            first = {corpus: manifest.split(manifest.folds[0]) for corpus, manifest in manifests.items()}
            return [
                MergedFold(number, tested, {name: _with_tested(split, name == tested) for name, split in first.items()})
                for number, tested in enumerate(manifests)
            ]


def _with_tested(split: NDArray[np.int8], is_tested: bool) -> NDArray[np.int8]:
    """Return a corpus' split with all of it tested, or with its test speakers among those that train."""
    return np.where(split >= 0, TEST, split) if is_tested else np.where(split == TEST, TRAIN, split)


def _aligned(rule: AlignedFolds, manifests: Mapping[str, Manifest]) -> dict[int, dict[str, int]]:
    """Return by merged fold the fold of each corpus that it is made of."""
    strange = sorted(set(rule.by_corpus) - set(manifests))
    if strange:
        problem = f"{', '.join(strange)}: no such corpus"
        fix = f"choose from {', '.join(manifests)}"
        raise ConfigError("merge", "folds.by_corpus", problem, fix)
    known = "; ".join(f"{corpus} has {list(manifest.folds)}" for corpus, manifest in manifests.items())
    common = set.intersection(*(set(manifest.folds) for manifest in manifests.values()))
    named = next(iter(rule.by_corpus.values()), None)
    numbers = sorted(common) if named is None else range(len(named))
    if not numbers:
        problem = f"no fold is in all corpora: {known}"
        raise ConfigError("merge", "folds", problem, "name their folds in folds.by_corpus")
    folds = {
        number: {corpus: rule.by_corpus[corpus][number] if corpus in rule.by_corpus else number for corpus in manifests}
        for number in numbers
    }
    for of_corpus in folds.values():
        for corpus, fold in of_corpus.items():
            if fold not in manifests[corpus].folds:
                problem = f"{corpus} has no fold {fold}; {known}"
                raise ConfigError("merge", "folds.by_corpus", problem, "name folds that are there")
    return folds
