"""The clips of a run: what is trained on, validated and tested, and what a global batch is made of."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vavl.audit.audit import pass_audit
from vavl.corpora.manifest import Manifest
from vavl.data.collection import ClipCollection, attributes_of, targets_of
from vavl.data.normalization import Normaliser, normalisers
from vavl.data.partitions import Partition, PartitionedClips, compose_batch
from vavl.data.training_clips import PartitionTable, open_training_clips, rows_by_split
from vavl.errors import InputError
from vavl.features import MODALITIES, FeatureStatistics
from vavl.models.clips import TrainingProfile, clip_distance
from vavl.models.saved_model import ModalityDescription, ModelDescription
from vavl.models.settings import AttributeTask, ClassTask, Task
from vavl.objectives.pseudo_label import LabelStatistics
from vavl.ray_session import check_own_ray
from vavl.store.arrays import pieces
from vavl.store.store_cache import is_at_hand, local_store
from vavl.training.pseudo_labels import GivenPredictions
from vavl.training.run_checks import check_layers, check_objectives, check_selection
from vavl.training.run_directory import resolved
from vavl.training.settings import TrainingPlan
from vavl.training.storage import RunStorage

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """The clips of a run by split and partition."""

    collection: ClipCollection  # all clips of the store, as far as the partition protocol lets the run see them
    # manifest rows by split; validation and test rows as they are in the manifest. A refit has no rows of
    # validation: they are among those of train.
    rows: Mapping[str, NDArray[np.int64]]
    table: PartitionTable  # of all training clips
    partitioned: PartitionedClips  # training clips of the partitions that are drawn from
    composition: Mapping[Partition, int]  # rows of a global batch by partition
    normaliser: Mapping[str, Normaliser]  # by modality, from the training speakers
    task: Task  # what is predicted
    warnings: tuple[str, ...] = ()  # what can be trained and will hardly help

    @cached_property
    def label_statistics(self) -> LabelStatistics:
        """Mean and variance of the labels of the training clips, on the CPU."""
        count, total, squares = 0, np.zeros(self.task.outputs), np.zeros(self.task.outputs)
        for rows in pieces(self.rows["train"]):
            target = self.collection.target[rows[self.collection.is_labelled[rows]]].astype(np.float64)
            count, total, squares = count + len(target), total + target.sum(axis=0), squares + (target**2).sum(axis=0)
        mean = total / count
        variance = np.maximum(squares / count - mean**2, 0)
        return LabelStatistics(torch.from_numpy(mean), torch.from_numpy(variance))

    def given_predictions(self, path: Path) -> GivenPredictions:
        """Read a file of predictions of the training clips; see ``GivenPredictions.read``."""
        clip_ids = self.collection.manifest.table.column("clip_id")
        return GivenPredictions.read(path, clip_ids, self.rows["train"], self.task)


def open_run_data(plan: TrainingPlan) -> RunData:
    """Read store and manifest, apply the partition protocol, and decide what a global batch is made of.

    Raises:
        StoreError, InputError, ConfigError: the store, the fold, the partitions or the composition cannot
            be used.
    """
    collection, rows, partitioned, table = open_training_clips(plan.data, refit=plan.training.refit)
    _check_labels(plan, rows, collection.is_labelled)
    check_layers(plan, collection.store.info)
    normaliser = normalisers(collection, rows["train"], plan.features)
    composition = compose_batch(partitioned, plan.data.composition)
    # A partition that gives no rows to any batch feeds nothing, and its clips make no epoch longer.
    used = partitioned.only(composition)
    task = _task(collection, plan)
    check_classes(collection, rows["train"], plan)
    warnings = check_objectives(plan, used, composition, task)
    return RunData(collection, rows, table, used, composition, normaliser, task, tuple(warnings))


def _check_labels(plan: TrainingPlan, rows: Mapping[str, NDArray[np.int64]], is_labelled: NDArray[np.bool_]) -> None:
    """Refuse a split without a label where one is needed."""
    wanted = {"train": True, "validation": not plan.training.refit, "test": plan.evaluation.test}
    for name in (name for name, is_wanted in wanted.items() if is_wanted):
        if not any(is_labelled[piece].any() for piece in pieces(rows[name])):
            problem = "holds no labeled clip"
            fix = "check the card's splits, data.fold and the quarantine of the store"
            raise InputError(str(plan.data.store), f"split {name} of fold {plan.data.fold}", problem, fix)


def check_classes(collection: ClipCollection, rows: NDArray[np.int64], plan: TrainingPlan) -> None:
    """Refuse training labels that are all alike: there is nothing to tell apart."""
    first, count = None, 0
    for piece in pieces(rows):
        target = collection.target[piece[collection.is_labelled[piece]]]
        first, count = target[:1] if first is None or not len(first) else first, count + len(target)
        if (target != first).any():
            return
    if count:
        problem = f"all {count} labeled training clips have the same target {target[0].tolist()}"
        fix = "label clips of other classes too, or choose another fold or target"
        raise InputError(str(plan.data.store), f"data.target={plan.data.target}, fold {plan.data.fold}", problem, fix)


class PlanNotes(NamedTuple):
    """What a run would be trained on and for, line by line, and what can be trained and will hardly help."""

    lines: Sequence[str]
    warnings: Sequence[str] = ()

    def log(self) -> None:
        """Log them all."""
        for line in self.lines:
            _log.info(line)
        for warning in self.warnings:
            _log.warning(warning)


def check_plan(plan: TrainingPlan) -> PlanNotes:
    """Look at everything that a run reads, as far as that is cheap; return what it would train on.

    Raises:
        VavlError: what a run would stumble over.
    """
    if plan.training.launcher == "ray":
        check_own_ray()
    plan = resolved(plan)
    if not is_at_hand(plan.data.store):
        # Normalization may read features, which are not to be copied for a look.
        manifest = Manifest.read(local_store(plan.data.store)).with_labels(plan.data.labels)
        targets = targets_of(manifest, plan.data.target, plan.data.attributes)
        is_labelled = np.concatenate([labelled for _, labelled in targets])
        _check_labels(plan, rows_by_split(manifest, plan.data.fold, refit=plan.training.refit), is_labelled)
        line = f"{plan.data.store}: manifest and splits are in order; features are copied when they are read"
        return PlanNotes([line, *_objective_lines(plan)])
    data = open_run_data(plan)
    pseudo = plan.objectives.pseudo_label
    if pseudo is not None and pseudo.predictions is not None:
        data.given_predictions(pseudo.predictions)
    warnings: list[str] = []
    if not plan.training.refit:
        warnings = check_selection(plan, data.collection, data.rows["validation"], data.partitioned, data.task)
    splits = ", ".join(f"{name} {len(rows)}" for name, rows in data.rows.items())
    lines = [f"clips by split: {splits}", *data.table.lines(data.composition), *_objective_lines(plan)]
    return PlanNotes(lines, [*data.warnings, *warnings])


def check_run(plan: TrainingPlan) -> None:
    """Do what ``check_plan`` does and log it, prove that the run's address can be written, and apply the store's audit.

    Raises:
        VavlError: see ``check_plan``.
        InputError: the driver of the address, its bucket or the credentials are missing.
        ConfigError: a check of the audit failed that is not waived, or a waiver names no check.
    """
    if isinstance(plan.output_dir, str):
        RunStorage(plan.output_dir).check_writable()
    plan = resolved(plan)  # the audit is of the version that the run reads
    check_plan(plan).log()
    pass_audit(plan.data.store, plan.data.labels, plan.data.waive_audit)


def _objective_lines(plan: TrainingPlan) -> list[str]:
    parts = [words.split(" ", 1) for words in plan.objectives.in_words()]
    width = max(len(name) for name, _ in parts)
    return ["objective, each part with its weight:", *(f"  {name:<{width}}  {how}" for name, how in parts)]


def _task(collection: ClipCollection, plan: TrainingPlan) -> Task:
    if plan.data.target == "attributes":
        return AttributeTask(attributes=attributes_of(collection.manifest, plan.data.attributes))
    return ClassTask(classes=collection.manifest.classes)


def describe_model(plan: TrainingPlan, data: RunData) -> ModelDescription:
    """Put together everything about the model but its weights."""
    manifest, store = data.collection.manifest, data.collection.store
    return ModelDescription(
        network=plan.model,
        task=data.task,
        audio=_describe_modality("audio", data, weighs_layers=plan.model.layer_weights),
        video=_describe_modality("video", data, weighs_layers=plan.model.layer_weights),
        fusion_trained=data.partitioned.feed("audio", "video", with_label=True),
        speaker_normalisation=plan.features.speaker_normalisation,
        speaker_order=plan.features.speaker_order,
        max_frames=plan.data.max_frames,
        provenance={
            "corpus": manifest.corpus,
            "target": plan.data.target,
            "label_set": manifest.label_set,
            "label_target": manifest.target,
            "protocol": manifest.protocol,
            "fold": plan.data.fold,
            "waived_audit": list(plan.data.waive_audit),
            "store_hash": store.hash,
            "config_hash": plan.config_hash,
            **({"refit_steps": plan.training.max_steps} if plan.training.refit else {}),
        },
    )


_MOST_PROFILED = 1000
"""Clips whose features are read for a profile, spread over all."""


def with_training_clips(description: ModelDescription, data: RunData) -> ModelDescription:
    """Add what the training clips are like: shares of the classes, lengths, and distances from their mean.

    Reads features of up to ``_MOST_PROFILED`` clips of each modality; clips of validation count for the distances, as
    those of unseen speakers lie farther off.
    """
    changes: dict[str, Any] = {}
    if isinstance(data.task, ClassTask):
        changes["class_shares"] = tuple(data.label_statistics.mean.tolist())
    for modality in MODALITIES:
        part: ModalityDescription = getattr(description, modality)
        if part.trained:
            profile = _profile(modality, data, measure=description.speaker_normalisation == "none")
            changes[modality] = part.model_copy(update={"profile": profile})
    return description.model_copy(update=changes)


def _profile(modality: str, data: RunData, *, measure: bool) -> TrainingProfile:
    collection = data.collection
    there = {name: rows[collection.has(modality)[rows]] for name, rows in data.rows.items() if name != "test"}
    frames = collection.store.lengths(modality)[collection.store_row[modality][there["train"]]]
    rows = np.concatenate(list(there.values()))
    chosen = rows[:: -(-len(rows) // _MOST_PROFILED)] if measure else ()
    normalisation = data.normaliser[modality].common
    distances = [clip_distance(normalisation.apply(collection.frames(modality, int(row)))) for row in chosen]
    rate_hz = collection.store.info[modality].frame_rate_hz
    return TrainingProfile.of(rate_hz, frames, [found for found in distances if np.isfinite(found)])


def _describe_modality(modality: str, data: RunData, *, weighs_layers: bool) -> ModalityDescription:
    collection = data.collection
    info = collection.store.info.get(modality)
    # A head that no label has trained says nothing, however well its encoder reconstructs.
    trained = data.partitioned.feed(modality, with_label=True)
    statistics: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    if info is not None:
        provenance = {"extractor": info.extractor, "version": info.version, "settings": dict(info.settings)}
        common = data.normaliser[modality].common
        statistics = FeatureStatistics(collection.store.corpus, modality, info.provenance, common).to_dict()
    return ModalityDescription(
        width=collection.width(modality),
        layers=info.layers if info and weighs_layers else 1,
        statistics=statistics if trained else {},
        trained=trained,
        extractor=provenance,
    )
