"""Merge the stores of several corpora into one: features as they are, names, labels and folds made common."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vavl.config.files import make_directory, sha256_of_json
from vavl.corpora.manifest import Manifest
from vavl.corpora.splits import SPLITS
from vavl.errors import ConfigError, StoreError
from vavl.features import MODALITIES, ModalityInfo, changed_settings
from vavl.store.checked_files import replaced_directory
from vavl.store.clip_facts import FILE_NAME as FACTS_FILE
from vavl.store.clip_facts import SCHEMA as FACTS_SCHEMA
from vavl.store.merge_settings import MergeSettings
from vavl.store.merged_manifest import MergedFold, class_maps, merged_folds, merged_manifest, unique_names
from vavl.store.shards import Dtype, map_batches, written_stream
from vavl.store.store import FeatureStore, read_content
from vavl.store.store_cache import local_store
from vavl.store.store_versions import pinned_store, version_of
from vavl.store.store_writer import StoreWriter

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One of the stores that are merged."""

    place: Path | str  # directory or address, its version in full.
    store: FeatureStore
    manifest: Manifest  # with the set of labels that is taken.
    classes: Mapping[str, str | None]  # what becomes of each class.

    @property
    def provenance(self) -> dict[str, Any]:
        """What the merged store.json says of the store; nothing that depends on where it lies."""
        content, manifest = self.store.content, self.manifest
        return {
            "corpus": content["corpus"],
            "store_hash": content["store_hash"],
            "version": version_of(content),
            "card_hash": content["card_hash"],
            "licence": manifest.metadata.get("licence"),
            "citation": manifest.metadata.get("citation"),
            "target": manifest.target,
            "label_set": manifest.label_set,
            "classes": dict(self.classes),
            "protocol": manifest.protocol,
            "clips": len(manifest),
            "sources": content.get("sources", []),
        }


@dataclass(frozen=True)
class MergePlan:
    """Everything that decides the content of a merged store."""

    settings: MergeSettings
    sources: Mapping[str, Source]  # by corpus, in alphabetical order.
    infos: Mapping[str, ModalityInfo]  # by modality that any of the stores has, the provenance that all share.
    folds: list[MergedFold]

    @property
    def card_hash(self) -> str:
        """Sixteen hexadecimal digits over the settings and the stores; where these lie does not count."""
        recipe = self.settings.model_dump(mode="json", include=set(MergeSettings.model_fields) - {"stores"})
        return sha256_of_json([recipe, [source.provenance for source in self.sources.values()]])[:16]

    def manifest(self) -> Manifest:
        """Return the merged manifest."""
        manifests = {corpus: source.manifest for corpus, source in self.sources.items()}
        maps = {corpus: source.classes for corpus, source in self.sources.items()}
        return merged_manifest(manifests, maps, self.folds, self.settings, self.card_hash)


def plan_merge(settings: MergeSettings) -> MergePlan:
    """Look at the stores and decide what becomes of their labels and folds; reads no features.

    Raises:
        StoreError: a store is not there, or its features are not those of the others.
        ConfigError: two stores are of one corpus, or labels or folds do not fit them.
    """
    sources = _sources(settings)
    manifests = {corpus: source.manifest for corpus, source in sources.items()}
    infos = _common_infos(sources, settings)
    return MergePlan(settings, sources, infos, merged_folds(settings.folds, manifests))


def merge_stores(plan: MergePlan, directory: Path) -> FeatureStore:
    """Write the merged store next to ``directory`` and put it there; the same stores give the same bytes.

    Each store is compared with its store.json first. No more than a record batch is in memory.

    Raises:
        StoreError: a store was changed, or the directory holds a store that was not merged.
        InputError: the directory cannot be written.
    """
    check_replaced(directory)
    make_directory(directory.parent)
    with replaced_directory(directory) as new:
        _write(plan, new)
    return FeatureStore.open(directory)


def check_replaced(directory: Path) -> None:
    """Refuse to replace anything but a store that was merged.

    Raises:
        StoreError: the directory holds something else.
    """
    if not directory.exists() or not any(directory.iterdir()):
        return
    if not (directory / "store.json").exists() or "sources" not in read_content(directory):
        problem = "holds something else than a merged store, which a merge would replace"
        fix = "choose another output_dir"
        raise StoreError(str(directory), "", problem, fix)


def _sources(settings: MergeSettings) -> dict[str, Source]:
    found: dict[str, Source] = {}
    for asked in settings.stores:
        place = pinned_store(asked)
        store = FeatureStore.open(local_store(place))
        if store.corpus in found:
            problem = f"{found[store.corpus].place} and {place} are both of {store.corpus}"
            fix = "take one of them; clips are added to a store by jobs/prepare_corpus.py"
            raise ConfigError("merge", "stores", problem, fix)
        manifest = Manifest.read(store.directory).with_labels(settings.label_sets.get(store.corpus))
        found[store.corpus] = Source(place, store, manifest, {})
    strange = sorted({*settings.labels, *settings.label_sets} - set(found))
    if strange:
        problem = f"{', '.join(strange)}: none of the stores is of it"
        fix = f"choose from {', '.join(found)}"
        raise ConfigError("merge", "labels", problem, fix)
    maps = class_maps({corpus: found[corpus].manifest.classes for corpus in sorted(found)}, settings)
    return {corpus: replace(found[corpus], classes=classes) for corpus, classes in maps.items()}


def _common_infos(sources: Mapping[str, Source], settings: MergeSettings) -> dict[str, ModalityInfo]:
    """Return the provenance of each modality that is taken; all stores that have it must agree."""
    infos: dict[str, ModalityInfo] = {}
    for modality in (name for name in MODALITIES if name in settings.modalities):
        having = {corpus: source for corpus, source in sources.items() if modality in source.store.info}
        for corpus, source in having.items():
            info = source.store.info[modality]
            known = infos.setdefault(modality, info)
            if (known.provenance, known.frame_rate_hz) != (info.provenance, info.frame_rate_hz):
                first = next(iter(having))
                problem = f"has other {modality} features than {first}: {_difference(known, info)}"
                fix = (
                    f"extract {corpus} with the settings of {first} (python jobs/prepare_corpus.py CONFIG), or take "
                    f"the other modality alone (modalities)"
                )
                raise StoreError(str(source.place), modality, problem, fix)
    return infos


def _difference(one: ModalityInfo, other: ModalityInfo) -> str:
    if one.extractor != other.extractor:
        return f"{one.extractor} {one.version} -> {other.extractor} {other.version}"
    counts = {"clips": 0, "frames": 0}
    return changed_settings(vars(one) | counts, vars(other) | counts)


def _write(plan: MergePlan, directory: Path) -> None:
    stores = {corpus: source.store for corpus, source in plan.sources.items()}
    all_halved = all(store.dtype(name) == "float16" for store in stores.values() for name in store.info)
    dtype: Dtype = "float16" if all_halved else "float32"
    writer = StoreWriter(directory, plan.settings.name, plan.card_hash, dtype)
    plan.manifest().write(directory)
    for corpus, store in stores.items():
        _log.info("checking %s", corpus)
        store.verify()
    _join_facts(stores, directory)
    for modality, info in plan.infos.items():
        having = {corpus: store for corpus, store in stores.items() if modality in store.info}
        _log.info("writing %s of %s", modality, ", ".join(having))
        sums = {
            str(unique_names(corpus, pa.scalar(speaker)).as_py()): own
            for corpus, store in having.items()
            for speaker, own in store.speaker_sums(modality).items()
        }
        rows = (
            _renamed(batch, corpus, "clip_id", "speaker")
            for corpus, store in having.items()
            for batch in store.batches(modality)
        )
        writer.write_modality(modality, replace(info, clips=0, frames=0), rows, sums)
    counts = Counter({"clips": sum(len(source.manifest) for source in plan.sources.values())})
    for store in stores.values():
        counts.update({key: int(count) for key, count in sorted(store.content["counts"].items()) if key != "clips"})
    writer.finish(counts, [source.provenance for source in plan.sources.values()])


def _join_facts(stores: Mapping[str, FeatureStore], directory: Path) -> None:
    known = {corpus: store for corpus, store in stores.items() if (store.directory / FACTS_FILE).exists()}
    for corpus in stores.keys() - known.keys():
        _log.warning("%s has no %s: nothing is known of its files", corpus, FACTS_FILE)
    if not known:
        return
    with written_stream(directory / FACTS_FILE, FACTS_SCHEMA) as writer:
        for corpus, store in known.items():
            for batch in map_batches(store.directory / FACTS_FILE, FACTS_SCHEMA):
                writer.write_batch(_renamed(batch, corpus, "clip_id"))


def _renamed(batch: pa.RecordBatch, corpus: str, *columns: str) -> pa.RecordBatch:
    for name in columns:
        place = batch.schema.get_field_index(name)
        batch = batch.set_column(place, batch.schema.field(place), unique_names(corpus, batch.column(place)))
    return batch


def merge_summary(plan: MergePlan, store: FeatureStore, seconds: float) -> dict[str, Any]:
    """Return the content of summary.json.

    Keys: ``corpus``, ``clips``, ``speakers``, ``audio_clips``, ``video_clips``; ``labelled`` clips by class;
    ``protocol`` and ``folds``: per fold its ``name`` and clips by split; ``sources``: per corpus ``place``,
    ``clips``, ``store_hash``, ``licence``, ``target``; ``store_hash``, ``seconds``.
    """
    manifest = Manifest.read(store.directory)
    table, folds = manifest.table, {}
    for fold in plan.folds:
        split = table[f"split_{fold.number}"]
        counts = {name: int(pc.sum(pc.equal(split, name)).as_py() or 0) for name in SPLITS}
        folds[str(fold.number)] = {"name": fold.name, **counts}
    labelled = {entry["values"]: entry["counts"] for entry in pc.value_counts(table["label"]).to_pylist()}
    shown = ("clips", "store_hash", "licence", "target")
    return {
        "corpus": store.corpus,
        "clips": len(manifest),
        "speakers": len(manifest.speaker_codes()[1]),
        **{f"{name}_clips": info.clips for name, info in store.info.items()},
        "labelled": {name: labelled.get(name, 0) for name in manifest.classes},
        "protocol": manifest.protocol,
        "folds": folds,
        "sources": {
            corpus: {"place": str(source.place)} | {key: source.provenance[key] for key in shown}
            for corpus, source in plan.sources.items()
        },
        "store_hash": store.hash,
        "seconds": round(seconds, 3),
    }


def merge_rows(summary: Mapping[str, Any], directory: Path) -> list[tuple[str, str]]:
    """Return the rows of the table that the job prints."""
    rows = [
        (corpus, f"{source['clips']} clips, {source['target']}, license {source['licence'] or 'unknown'}")
        for corpus, source in summary["sources"].items()
    ]
    labelled = ", ".join(f"{name} {count}" for name, count in summary["labelled"].items())
    rows += [
        ("clips", f"{summary['clips']} of {summary['speakers']} speakers"),
        ("labelled", labelled),
        ("protocol", summary["protocol"]),
    ]
    for number, fold in summary["folds"].items():
        counts = ", ".join(f"{name} {fold[name]}" for name in SPLITS)
        rows.append((f"fold {number}", f"{fold['name']}: {counts}"))
    return [*rows, ("store", f"{directory} (hash {summary['store_hash']})")]
