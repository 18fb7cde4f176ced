"""What a saved model says of the clips of a store: the same numbers as at the end of its training.

A clip is read, cut and normalized as in training, with the statistics that were saved with the model. A model
that normalizes each speaker by their own clips takes these sums from the store, as its training did: labels
are not used, but all clips of a speaker are needed beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vavl.corpora.manifest import TEST, TRAIN, VALIDATION, Manifest
from vavl.data.collection import ATTRIBUTES, ClipCollection, FrameChange, open_collection
from vavl.data.loader import RankPlace
from vavl.data.normalization import Normaliser, speaker_normaliser
from vavl.data.settings import DataSettings, FeatureUse
from vavl.errors import ConfigError, InputError
from vavl.evaluation.settings import EVERY_SPLIT, ClipSelection
from vavl.features import MODALITIES, FeatureStatistics
from vavl.metrics.names import AUDIO_VIDEO, CONDITIONS, MODALITIES_OF
from vavl.models.saved_model import ModelDescription, SavedModel
from vavl.models.settings import AttributeTask, ClassTask
from vavl.store.store_cache import local_store
from vavl.training.evaluation import EvaluationData, SplitPredictions, predict_split

_SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


@dataclass(frozen=True)
class MeasuredClips:
    """The clips of a selection as one model sees them."""

    selection: ClipSelection  # that was asked for
    # all clips of the store, with targets in the model's classes or attributes; modalities that the model was not
    # trained on are absent
    collection: ClipCollection
    normaliser: Mapping[str, Normaliser]  # by modality, from the model
    rows: NDArray[np.int64]  # manifest rows of the labeled clips of the selection, ascending
    fold: int | None  # of the splits; None where all clips are measured
    conditions: tuple[str, ...]  # those that a label has trained
    left_out: int = 0  # labeled clips of the selection whose class the label map sets to null

    @property
    def clip_ids(self) -> list[str]:
        """Names of the clips of ``rows``."""
        ids: list[str] = self.collection.manifest.table["clip_id"].take(self.rows).to_pylist()
        return ids

    def clip_id(self, row: int) -> str:
        """Name of the clip of a manifest row."""
        return str(self.collection.manifest.table["clip_id"][row].as_py())

    @property
    def speaker_names(self) -> NDArray[np.str_]:
        """Speaker of each of ``rows``."""
        return np.asarray(self.collection.speakers)[self.collection.speaker[self.rows]]


def predict_clips(model: SavedModel, clips: MeasuredClips, change: FrameChange | None = None) -> SplitPredictions:
    """Predict the clips, as they are or with their raw frames changed."""
    data = EvaluationData(
        collection=replace(clips.collection, change=change),
        normaliser=clips.normaliser,
        task=model.description.task,
        batch_size=clips.selection.batch_size,
        place=RankPlace(0, 1, 1),
        device=next(model.network.parameters()).device,
    )
    found = predict_split(model.network.eval(), data, clips.rows)
    untrained = dict.fromkeys(set(CONDITIONS) - set(clips.conditions), np.zeros(len(found.rows), np.bool_))
    return replace(found, counts={**found.counts, **untrained})


def open_clips(model: SavedModel, selection: ClipSelection) -> MeasuredClips:
    """Map a store and prepare its clips for a model.

    Raises:
        StoreError: no store, features that are made in another way than the model's, or no usable clip.
        InputError: classes that the model does not have, or no labeled clip in the selection.
        ConfigError: there is no such set of labels, or the label map names classes that there are not.
    """
    directory, description = local_store(selection.store), model.description
    collection = open_collection(_data_settings(description, selection, Manifest.read(directory)))
    statistics = _statistics(description)
    for modality, one in statistics.items():
        if modality in collection.store.info:
            one.check_features(collection.store.info[modality])
    everything = np.arange(len(collection.manifest), dtype=np.int64)
    unusable = {name: everything for name in MODALITIES if name not in statistics}
    collection = replace(
        collection.without(unusable),
        widths={"audio": description.audio.width, "video": description.video.width},
        fold=_fold(description, selection, collection.manifest),
    )
    fold = collection.fold
    rows = everything
    if fold is not None:
        rows = rows[collection.manifest.split(fold) == _SPLITS[selection.split]]
    labelled = rows[collection.is_labelled[rows]]
    collection = _in_terms_of(model, collection, selection, labelled)
    kept = labelled[collection.is_labelled[labelled]]
    conditions = trained_conditions(description)
    _check_any(collection, kept, conditions, selection)
    normaliser = _normalisers(collection, statistics, description)
    return MeasuredClips(selection, collection, normaliser, kept, fold, conditions, len(labelled) - len(kept))


def trained_conditions(description: ModelDescription) -> tuple[str, ...]:
    """Return the conditions that some label has trained; the others say nothing."""
    trained = {"audio": description.audio.trained, "video": description.video.trained}
    return tuple(
        condition
        for condition in CONDITIONS
        if all(trained[modality] for modality in MODALITIES_OF[condition])
        and (condition != AUDIO_VIDEO or description.fusion_trained)
    )


def _data_settings(description: ModelDescription, selection: ClipSelection, manifest: Manifest) -> DataSettings:
    trained_on = description.provenance
    label_set = selection.label_set
    if label_set is None and trained_on.get("label_set") in manifest.label_sets:
        label_set = trained_on["label_set"]
    target = selection.target or trained_on.get("target") or "label"
    attributes = None
    if isinstance(description.task, AttributeTask):
        target, attributes = "attributes", description.task.attributes
    content = {"labels": label_set, "target": target, "attributes": attributes, "max_frames": description.max_frames}
    return DataSettings.model_validate({"store": local_store(selection.store), **content})


def _statistics(description: ModelDescription) -> dict[str, FeatureStatistics]:
    parts = {"audio": description.audio, "video": description.video}
    return {name: FeatureStatistics.from_dict(part.statistics) for name, part in parts.items() if part.trained}


def _normalisers(
    collection: ClipCollection, statistics: Mapping[str, FeatureStatistics], description: ModelDescription
) -> dict[str, Normaliser]:
    kind = description.speaker_normalisation
    features = FeatureUse(speaker_normalisation=kind, speaker_order=description.speaker_order)
    found = {}
    for modality in MODALITIES:
        if modality not in statistics:
            found[modality] = Normaliser.unchanged(collection.width(modality))
        elif kind == "none" or modality not in collection.store.info:
            found[modality] = Normaliser(statistics[modality].normalisation)
        else:
            found[modality] = speaker_normaliser(collection, modality, statistics[modality].normalisation, features)
    return found


def _fold(description: ModelDescription, selection: ClipSelection, manifest: Manifest) -> int | None:
    if selection.split == EVERY_SPLIT:
        return None
    if selection.fold is not None:
        return selection.fold
    own = description.provenance.get("fold")
    is_own_corpus = description.provenance.get("corpus") == manifest.corpus
    return own if is_own_corpus and own in manifest.folds else manifest.folds[0]


def _in_terms_of(
    model: SavedModel, collection: ClipCollection, selection: ClipSelection, rows: NDArray[np.int64]
) -> ClipCollection:
    """Return the collection with targets in the order of the model's outputs."""
    match model.description.task:
        case ClassTask(classes=classes):
            table = class_table(collection.manifest.classes, classes, selection.labels)
            _check_classes(collection, rows, table, classes)
            shares: NDArray[np.floating] = collection.target @ np.maximum(table, 0)
            kept = shares.sum(axis=1)
            if (table < 0).any():
                # Votes for a class that is left out are taken off; the others count in proportion.
                shares = shares / np.where(kept > 0, kept, 1)[:, None]
            is_labelled = collection.is_labelled & (kept > 0)
            return replace(collection, target=shares.astype(np.float32), is_labelled=is_labelled)
        case AttributeTask(attributes=names):
            if selection.labels:
                raise ConfigError("data", "labels", "maps classes, and the model predicts attributes", "remove it")
            order = [ATTRIBUTES.index(name) for name in names]
            return replace(collection, target=collection.target[:, np.argsort(np.argsort(order))])


def class_table(
    store_classes: tuple[str, ...], model_classes: tuple[str, ...], labels: Mapping[str, str | None]
) -> NDArray[np.float32]:
    """Return which class of the model each class of a store stands for.

    ``labels`` says so where names differ; null leaves the clips of a class out.

    Returns:
        (store classes, model classes): 1 where they are the same, a row of -1 for a class that is left out, a
        row of 0 for one that nothing is said about.

    Raises:
        ConfigError: ``labels`` names a class that store or model does not have.
    """
    for kind, named, known in (
        ("store", set(labels), store_classes),
        ("model", {name for name in labels.values() if name is not None}, model_classes),
    ):
        if strange := sorted(named - set(known)):
            problem = f"the {kind} has no class {', '.join(strange)}"
            raise ConfigError("data", "labels", problem, f"choose from {', '.join(known)}")
    table = np.zeros((len(store_classes), len(model_classes)), dtype=np.float32)
    for place, name in enumerate(store_classes):
        meant = labels.get(name, name)
        if meant is None:
            table[place] = -1
        elif meant in model_classes:
            table[place, model_classes.index(meant)] = 1
    return table


def _check_classes(
    collection: ClipCollection, rows: NDArray[np.int64], table: NDArray[np.float32], classes: tuple[str, ...]
) -> None:
    occurring = np.asarray((collection.target[rows] > 0).any(axis=0))
    strange = [
        name
        for name, row, occurs in zip(collection.manifest.classes, table, occurring, strict=True)
        if occurs and not row.any()
    ]
    if strange:
        example = f"data.labels={{{strange[0]}: {classes[0]}}}"
        problem = f"clips are labeled {', '.join(strange)}; the model knows {', '.join(classes)}"
        fix = f"say what each of them means to the model, or null to leave its clips out, e.g. {example}"
        raise InputError(str(collection.store.directory), "classes", problem, fix)


def _check_any(
    collection: ClipCollection, rows: NDArray[np.int64], conditions: tuple[str, ...], selection: ClipSelection
) -> None:
    trained = {modality for condition in conditions for modality in MODALITIES_OF[condition]}
    if not any(collection.has(modality, rows).any() for modality in trained):
        names = ", ".join(sorted(trained)) or "nothing"
        problem = f"holds no labeled clip with what the model was trained on ({names})"
        fix = "choose another data.split, data.fold or data.labels"
        raise InputError(str(selection.store), f"split {selection.split}", problem, fix)
