"""What a run writes down about its model, beside the weights."""

from __future__ import annotations

from typing import Any

from vavl.features import FeatureStatistics
from vavl.models.saved_model import ModalityDescription, ModelDescription
from vavl.training.run_data import RunData
from vavl.training.settings import TrainingPlan


def describe_model(plan: TrainingPlan, data: RunData) -> ModelDescription:
    """Put together everything about the model but its weights."""
    manifest, store = data.collection.manifest, data.collection.store
    return ModelDescription(
        network=plan.model,
        task=data.task,
        audio=_describe_modality("audio", data),
        video=_describe_modality("video", data),
        fusion_trained=data.partitioned.feed("audio", "video", with_label=True),
        speaker_normalisation=plan.features.speaker_normalisation,
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
        },
    )


def _describe_modality(modality: str, data: RunData) -> ModalityDescription:
    collection = data.collection
    info = collection.store.info.get(modality)
    # A head that no label has trained says nothing, however well its encoder reconstructs.
    trained = data.partitioned.feed(modality, with_label=True)
    return ModalityDescription(
        width=collection.width(modality),
        statistics=_statistics(modality, data) if trained else {},
        trained=trained,
        extractor=_provenance(info),
    )


def _statistics(modality: str, data: RunData) -> dict[str, Any]:
    store = data.collection.store
    common = data.normaliser[modality].common
    return FeatureStatistics(store.corpus, modality, store.info[modality].provenance, common).to_dict()


def _provenance(info: Any) -> dict[str, Any]:
    if info is None:
        return {}
    return {"extractor": info.extractor, "version": info.version, "settings": dict(info.settings)}
