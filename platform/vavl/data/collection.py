"""The clips of a run: flags and labels as arrays that all processes of a machine map, features read from the store."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from vavl.corpora.manifest import MANIFEST_FILE, Manifest
from vavl.corpora.splits import SPLITS
from vavl.data.batch import middle_frames
from vavl.data.settings import DataSettings
from vavl.errors import StoreError
from vavl.features import MODALITIES, ChannelSums
from vavl.store.arrays import PIECE, ArrayWriter, MappedArrays, file_state, pieces, shared_arrays
from vavl.store.checked_files import MAKE_AGAIN
from vavl.store.store import FeatureStore
from vavl.store.store_cache import local_store

ATTRIBUTES = ("arousal", "valence", "dominance")

FrameChange = Callable[[str, int, NDArray[np.float32]], NDArray[np.float32]]
"""(modality, manifest row, raw frames (time, channel)) -> other raw frames, at least one."""


@dataclass(frozen=True)
class ClipCollection:
    """All clips of a manifest with their features."""

    store: FeatureStore  # features.
    manifest: Manifest  # labels, speakers and splits.
    store_row: Mapping[str, NDArray[np.int32]]  # per modality (clips,), row in the store or -1.
    target: NDArray[np.float32]  # (clips, outputs), float32; zeros without label.
    is_labelled: NDArray[np.bool_]  # (clips,).
    speaker: NDArray[np.int32]  # (clips,), codes into ``speakers``.
    speakers: tuple[str, ...]  # names.
    max_frames: int  # longer clips are cut around their middle.
    # per modality (clips,), True where the store has a modality that the run must not read.
    hidden: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    # channels per modality that a network expects of a modality which the store lacks or must not give.
    widths: Mapping[str, int] = field(default_factory=dict)
    # of the raw frames before they are cut and normalized; None reads them as they are.
    change: FrameChange | None = None
    fold: int | None = None  # whose splits messages name; None names none.
    mapped: tuple[MappedArrays, ...] = ()  # what the arrays are mapped from.

    def has(self, modality: str, rows: NDArray[np.integer] | slice = slice(None)) -> NDArray[np.bool_]:
        """Tell of manifest rows, by default of all, whether the run sees the modality."""
        return self.store_row[modality][rows] >= 0

    def speakers_of(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the codes of the speakers of manifest rows, ascending."""
        occurs = np.zeros(len(self.speakers), np.bool_)
        for piece in pieces(rows):
            occurs[self.speaker[piece]] = True
        return np.flatnonzero(occurs)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of all clips by name, e.g. ``store_row.audio``."""
        named: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in ("target", "is_labelled", "speaker")}
        for kind in ("store_row", "hidden"):
            named |= {f"{kind}.{modality}": array for modality, array in getattr(self, kind).items()}
        return named

    def with_arrays(self, mapped: MappedArrays) -> Self:
        """Return the collection with those of its ``arrays`` that are mapped."""
        changed: dict[str, Any] = {"store_row": {}, "hidden": {}, "mapped": (*self.mapped, mapped)}
        for name, array in {**self.arrays(), **mapped.arrays}.items():
            kind, _, modality = name.partition(".")
            if not modality:
                changed[kind] = array
            elif kind in changed:
                changed[kind][modality] = array
        return replace(self, **changed)

    def check_uncut(self) -> None:
        """Refuse mapped files that were cut: the next look at them would be a bus error.

        Raises:
            StoreError: one was.
        """
        self.store.check_uncut()
        for arrays in self.mapped:
            arrays.check_uncut()

    def copied_ahead(self, batches: Iterable[NDArray[np.int64]]) -> AbstractContextManager[None]:
        """Copy in the background what a store at an address has not here yet, as the manifest rows of batches need it.

        See ``FeatureStore.copied_ahead``; rows below 0 are none.
        """
        known = ({name: self.store_row[name][rows[rows >= 0]] for name in self.store.info} for rows in batches)
        return self.store.copied_ahead(known)

    def lengths(self, rows: NDArray[np.integer]) -> NDArray[np.int32]:
        """Return the frames of manifest rows: of the longer modality, as a clip will be padded."""
        longest = np.zeros(len(rows), dtype=np.int32)
        for modality in self.store.info:
            places = self.store_row[modality][rows]
            frames = self.store.lengths(modality)[np.maximum(places, 0)]
            longest = np.maximum(longest, np.where(places >= 0, frames, 0))
        return np.minimum(longest, self.max_frames).astype(np.int32)

    def width(self, modality: str) -> int:
        """Return the channels of a frame; 1 for a modality that the store does not hold."""
        info = self.store.info.get(modality)
        return self.widths.get(modality, info.width if info is not None else 1)

    def frames(self, modality: str, row: int, *, as_stored: bool = False) -> NDArray[Any]:
        """Return the raw frames (time, channel) that manifest row ``row`` has, changed and cut to ``max_frames``.

        They are float32, or ``as_stored`` in the type that they have in the store.
        """
        raw = self.store.features(modality, int(self.store_row[modality][row]), as_stored=as_stored)
        return middle_frames(raw if self.change is None else self.change(modality, row, raw), self.max_frames)

    def is_half(self, modality: str) -> bool:
        """Tell whether frames lie in the store as float16 and are not changed."""
        return self.change is None and modality in self.store.info and self.store.dtype(modality) == "float16"

    def clip_name(self, row: int) -> str:
        """Return the id of manifest row ``row`` with its split, as messages name it."""
        name = str(self.manifest.table["clip_id"][row].as_py())
        split = self.manifest.split(self.fold)[row] if self.fold in self.manifest.folds else -1
        return f"{name} ({SPLITS[split]} clip of fold {self.fold})" if split >= 0 else name

    def without(self, rows: Mapping[str, NDArray[np.int64]]) -> Self:
        """Return a collection that never reads these modalities; ``rows`` are manifest rows by modality."""
        store_row, hidden = dict(self.store_row), dict(self.hidden)
        for modality, gone in rows.items():
            visible = store_row[modality].copy()
            visible[gone] = -1
            hidden[modality] = hidden.get(modality, np.zeros(len(visible), np.bool_)) | (visible < store_row[modality])
            store_row[modality] = visible
        return replace(self, store_row=store_row, hidden=hidden)

    def speaker_sums(self, modality: str) -> dict[str, ChannelSums]:
        """Return the sums of the visible features of each speaker; no entry for one without any.

        Those of the store, but for speakers with hidden sides: their visible clips are added up anew.

        Raises:
            StoreError: the store was damaged, or such a clip is not finite.
        """
        sums = self.store.speaker_sums(modality)
        hidden, rows = self.hidden.get(modality), self.store_row[modality]
        for code in np.unique(self.speaker[hidden]) if hidden is not None else ():
            visible = np.flatnonzero((self.speaker == code) & (rows >= 0))
            del sums[self.speakers[code]]
            own = []
            for row in visible.tolist():
                raw = self.store.features(modality, int(rows[row]))
                if not np.isfinite(raw).all():
                    raise not_finite(self, modality, row, raw)
                own.append(ChannelSums.of(raw))
            if own:
                sums[self.speakers[code]] = ChannelSums.total(own)
        return sums


def open_collection(settings: DataSettings) -> ClipCollection:
    """Open the store and the manifest of a run; features at an address are copied when they are read.

    Raises:
        StoreError: no store, an incomplete or damaged one, or one without a usable clip.
        ConfigError: the manifest has no set of labels of that name.
    """
    folder = local_store(settings.store)
    store = FeatureStore.open(folder)
    manifest = Manifest.read(folder).with_labels(settings.labels)
    purpose = ["clips", str(folder.absolute()), settings.labels, settings.target, settings.attributes]
    mapped = shared_arrays(purpose, state_of(store), lambda writer: _write_clips(writer, store, manifest, settings))
    store_row = {modality: mapped[f"store_row.{modality}"] for modality in MODALITIES}
    plain = (mapped["target"], mapped["is_labelled"], mapped["speaker"], tuple(mapped.facts))
    return ClipCollection(store, manifest, store_row, *plain, settings.max_frames, fold=settings.fold, mapped=(mapped,))


def state_of(store: FeatureStore) -> list[Any]:
    """Return what the arrays of a store's clips are made from: store.json and the state of the manifest's file."""
    return [store.content, file_state(store.directory / MANIFEST_FILE)]


def _write_clips(
    writer: ArrayWriter, store: FeatureStore, manifest: Manifest, settings: DataSettings
) -> tuple[str, ...]:
    """Write the arrays of a collection, and return the names of the speakers."""
    store.check_file(MANIFEST_FILE)
    clip_ids, found = manifest.table.column("clip_id"), False
    for modality in MODALITIES:
        rows = np.full(len(clip_ids), -1, np.int32)
        if modality in store.info:
            rows = store.rows(modality, clip_ids)
        writer.append(f"store_row.{modality}", rows)
        found = found or bool((rows >= 0).any())
    if not found:
        problem = "no clip of the manifest has features in the store"
        fix = "prepare the corpus again: python jobs/prepare_corpus.py CONFIG"
        raise StoreError(str(settings.store), "clip_id", problem, fix)
    for target, is_labelled in targets_of(manifest, settings.target, settings.attributes):
        writer.append("target", target, len(manifest))
        writer.append("is_labelled", is_labelled, len(manifest))
    speaker, speakers = manifest.speaker_codes()
    writer.append("speaker", speaker)
    return speakers


def not_finite(collection: ClipCollection, modality: str, row: int, raw: NDArray[np.floating]) -> StoreError:
    """Return the error that names the clip of a manifest row whose frames ``raw`` cannot be used."""
    is_bad = ~np.isfinite(raw)
    kind = f"{int(is_bad.sum())} of {raw.size} values are NaN or infinite"
    problem = kind if is_bad.any() else "features are so large that they are infinite when normalized"
    fix = f"python jobs/audit_corpus.py {shlex.quote(str(collection.store.directory))} looks for damage; {MAKE_AGAIN}"
    field = f"{modality} of {collection.clip_name(row)}"
    return StoreError(str(collection.store.directory), field, problem, fix)


def attributes_of(manifest: Manifest, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the attributes of a target, in the order of ``ATTRIBUTES``: the wanted ones, or all that a clip has.

    Raises:
        StoreError: no clip has one of those wanted, or any at all.
    """
    table = manifest.table
    there = [name for name in ATTRIBUTES if table.column(name).null_count < len(table)]
    chosen = tuple(name for name in ATTRIBUTES if name in (there if wanted is None else wanted))
    missing = [name for name in chosen if name not in there]
    if missing or not chosen:
        problem = f"no clip has {', '.join(missing)}" if missing else "no clip has this target"
        fix = (
            f"say data.attributes=[{', '.join(there)}], or choose another set of labels (data.labels)"
            if there
            else "choose another data.target: label, soft_label or attributes"
        )
        raise StoreError(f"manifest of {manifest.corpus}", "data.target=attributes", problem, fix)
    return chosen


def targets_of(
    manifest: Manifest, kind: str, attributes: Sequence[str] | None = None
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Yield (clips, outputs) targets and which clips have one, piece by piece; a clip has all attributes or none.

    Args:
        manifest: labels.
        kind: label, soft_label or attributes.
        attributes: see ``attributes_of``.

    Raises:
        StoreError: no clip has the target; the message names what is missing.
    """
    names, found = attributes_of(manifest, attributes) if kind == "attributes" else (), False
    for start in range(0, len(manifest), PIECE):
        target, is_labelled = _targets(Manifest(manifest.table.slice(start, PIECE)), kind, names)
        found = found or bool(is_labelled.any())
        yield target, is_labelled
    if not found:
        problem, fix = "no clip has this target", "choose another data.target: label, soft_label or attributes"
        if names:
            columns = {name: manifest.table.column(name) for name in names}
            counts = (f"{name} {pc.sum(pc.is_finite(column)).as_py() or 0}" for name, column in columns.items())
            problem = f"no clip has {' and '.join(names)} together; clips with each: {', '.join(counts)}"
            fix = "name those to train, e.g. data.attributes=[valence]"
        raise StoreError(f"manifest of {manifest.corpus}", f"data.target={kind}", problem, fix)


def _targets(manifest: Manifest, kind: str, attributes: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    match kind:
        case "label":
            index = manifest.class_index()
            labelled = index >= 0
            target = np.zeros((len(index), len(manifest.classes)), dtype=np.float32)
            target[labelled, index[labelled]] = 1
        case "soft_label":
            column = manifest.table.column("soft_label").combine_chunks()
            labelled = np.asarray(column.is_valid())
            target = np.zeros((len(column), len(manifest.classes)), dtype=np.float32)
            target[labelled] = np.asarray(column.drop_null().flatten()).reshape(-1, len(manifest.classes))
        case _:
            columns = [np.asarray(manifest.table.column(name), dtype=np.float32) for name in attributes]
            target = np.stack(columns, axis=1)
            labelled = np.asarray(np.isfinite(target).all(axis=1))
            target = np.where(labelled[:, None], target, 0).astype(np.float32)
    return target, labelled
