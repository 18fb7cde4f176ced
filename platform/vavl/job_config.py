"""The settings of the packages put together: one class per job."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from demo_corpus.settings import DemoCorpusSettings
from vavl.audit.settings import AuditSettings
from vavl.config.addresses import StoreAddress
from vavl.config.base import FrozenConfig
from vavl.config.places import FROM_PROJECT, FROM_ROOT
from vavl.evaluation.settings import EvaluationPlan
from vavl.experiments.comparison_settings import ComparisonPlan
from vavl.experiments.distillation_settings import DistillationPlan
from vavl.experiments.sweep_settings import SweepPlan
from vavl.extraction.settings import ExtractionRun, FeatureSettings
from vavl.prediction.settings import MANIFEST_SUFFIXES, MEDIA_SUFFIXES, PredictionSettings
from vavl.promotion.settings import PromotionPlan
from vavl.serving.onnx_export import ExportSettings
from vavl.store.merge_settings import MergeSettings
from vavl.tracking.settings import TrackingSettings, TrackingTarget
from vavl.training.settings import TrainingPlan


class MakeDemoCorpusJob(FrozenConfig):
    """Settings of ``jobs/make_demo_corpus.py``."""

    output_dir: Annotated[Path, FROM_ROOT] = Field(description="directory of the rendered corpus")
    workers: int | None = Field(None, ge=1, description="processes; one per core by default")
    overwrite: bool = Field(False, description="replace a demo corpus that is there")
    corpus: DemoCorpusSettings = DemoCorpusSettings()


class DescribeCorpusJob(FrozenConfig):
    """Settings of ``jobs/describe_corpus.py``."""

    directory_key: ClassVar[str | None] = "folder"

    folder: Annotated[Path, FROM_ROOT] = Field(description="directory of the recordings")
    output_dir: Annotated[Path, FROM_ROOT] = Field(
        Path("runs/descriptions"), description="the proposal goes into a directory in it, by the name of the corpus"
    )
    name: str | None = Field(
        None, pattern=r"^[a-z][a-z0-9_]*$", description="name of the corpus; by default that of the directory"
    )
    cards: Annotated[Path, FROM_PROJECT] = Field(Path("datasets"), description="cards that may fit already")
    most_files: int = Field(200_000, gt=0, description="files whose names are looked at")
    probed_files: int = Field(200, ge=0, description="files of each modality that are opened for lengths and rates")
    pictured_clips: int = Field(12, ge=0, le=60, description="clips on the contact sheet")
    overwrite: bool = Field(False, description="replace an earlier proposal")


class PrepareCorpusJob(ExtractionRun):
    """Settings of ``jobs/prepare_corpus.py``."""

    output_dir: Annotated[Path, FROM_ROOT] = Field(description="directory of the feature store")
    card: Annotated[Path, FROM_PROJECT] = Field(description="corpus card, e.g. datasets/ravdess.yaml")
    root: Annotated[Path | None, FROM_ROOT] = Field(
        None, description="corpus directory; by default the environment variable named in the card"
    )
    faces_preview: int = Field(
        0, ge=0, le=500, description="clips whose found faces are drawn into faces.png next to the store"
    )
    push_to: Annotated[StoreAddress | None, FROM_ROOT] = Field(
        None,
        description="directory or address that the finished store is pushed to as a version, e.g. s3://bucket/stores",
    )
    features: FeatureSettings = FeatureSettings()


class MergeStoresJob(MergeSettings):
    """Settings of ``jobs/merge_stores.py``."""

    output_dir: Annotated[Path, FROM_ROOT] = Field(
        description="directory of the merged store; one that was merged earlier there is replaced"
    )
    push_to: Annotated[StoreAddress | None, FROM_ROOT] = Field(
        None,
        description="directory or address that the merged store is pushed to as a version, e.g. s3://bucket/stores",
    )


class PushStoreJob(FrozenConfig):
    """Settings of ``jobs/push_store.py``."""

    output_dir: Annotated[Path, FROM_ROOT] = Field(description="directory of summary.json")
    store: Annotated[Path, FROM_ROOT] = Field(description="directory of the feature store")
    to: Annotated[StoreAddress, FROM_ROOT] = Field(
        description="directory or address below which all versions lie, e.g. s3://bucket/stores"
    )
    read_back: bool = Field(
        True, description="read every file back and compare its SHA-256; false: compare its size alone"
    )


class ListStoresJob(FrozenConfig):
    """Settings of ``jobs/list_stores.py``."""

    directory_key: ClassVar[str | None] = "address"

    address: Annotated[StoreAddress, FROM_ROOT] = Field(
        description="directory or address that stores were pushed to, or one of the corpora in it"
    )
    output_dir: Annotated[Path, FROM_ROOT] = Field(Path("runs/list_stores"), description="directory of summary.json")


class ConvertStoreJob(FrozenConfig):
    """Settings of ``jobs/convert_store.py``."""

    directory_key: ClassVar[str | None] = "store"

    store: Annotated[Path, FROM_ROOT] = Field(description="directory of a store of format 1; it is replaced")
    output_dir: Annotated[Path, FROM_ROOT] = Field(Path("runs/convert_store"), description="directory of summary.json")


class AuditCorpusJob(FrozenConfig):
    """Settings of ``jobs/audit_corpus.py``."""

    directory_key: ClassVar[str | None] = "store"

    store: Annotated[StoreAddress | None, FROM_ROOT] = Field(
        None, description="directory or address of a feature store"
    )
    card: Annotated[Path | None, FROM_PROJECT] = Field(
        None, description="corpus card in place of a store: its labels and splits alone, from its tables"
    )
    root: Annotated[Path | None, FROM_ROOT] = Field(
        None, description="corpus directory of the card; by default the environment variable named in it"
    )
    output_dir: Annotated[Path | None, FROM_ROOT] = Field(
        None, description="directory of summary and report; null: the report next to the store, the summary in audit/"
    )
    audit: AuditSettings = Field(
        AuditSettings(), description="thresholds of this audit; training judges by the defaults"
    )

    @model_validator(mode="after")
    def _names_one_thing(self) -> Self:
        if (self.store is None) == (self.card is None):
            raise ValueError("name either a store, or a card whose labels are to be looked at")
        if self.card is not None and self.output_dir is None:
            raise ValueError("output_dir: name a directory for the results of a card")
        return self


class TrainModelJob(TrainingPlan):
    """Settings of ``jobs/train_model.py``: the plan of a training, and where it is tracked."""

    tracking: TrackingSettings = TrackingSettings()


class CompareObjectivesJob(ComparisonPlan):
    """Settings of ``jobs/compare_objectives.py``: the grid of a comparison, and where it is tracked."""

    tracking: TrackingSettings = TrackingSettings()


class DistillModelsJob(DistillationPlan):
    """Settings of ``jobs/distill_models.py``: teachers, student and rounds, and where registered teachers are found."""

    tracking: TrackingSettings = TrackingSettings()


class EvaluateModelJob(EvaluationPlan):
    """Settings of ``jobs/evaluate_model.py``: what is measured, and where model and results are tracked."""

    tracking: TrackingSettings = TrackingSettings()


class ExportModelJob(ExportSettings):
    """Settings of ``jobs/export_model.py``: what is exported, and where registered models are found."""

    output_dir: Annotated[Path, FROM_ROOT] = Field(description="directory of model.onnx and summary.json")
    tracking: TrackingSettings = TrackingSettings()


class PredictClipsJob(PredictionSettings):
    """Settings of ``jobs/predict_clips.py``: what is predicted, and where registered models are found."""

    directory_key: ClassVar[str | None] = "input"
    directory_key_suffixes: ClassVar[Set[str]] = MEDIA_SUFFIXES | MANIFEST_SUFFIXES

    tracking: TrackingSettings = TrackingSettings()


class TuneModelJob(SweepPlan):
    """Settings of ``jobs/tune_model.py``: what is searched and how, and where it is tracked."""

    tracking: TrackingSettings = TrackingSettings()


class PromoteModelJob(PromotionPlan):
    """Settings of ``jobs/promote_model.py``: challenger, clips and rule, and where the registry is."""


class SyncTrackingJob(FrozenConfig):
    """Settings of ``jobs/sync_tracking.py``."""

    directory_key: ClassVar[str | None] = "folder"

    folder: Annotated[Path, FROM_ROOT] = Field(description="directory of a run, or of many")
    output_dir: Annotated[Path | None, FROM_ROOT] = Field(
        None, description="directory of summary.json; null: the directory, or sync/ in it where it is a run's own"
    )
    seconds_per_run: float = Field(3600, gt=0, description="longest time for one run")
    relocate: bool = Field(
        False,
        description="first let the SQLite database of a copied or moved project name the places of its artifacts here",
    )
    tracking: TrackingTarget = TrackingTarget()


class CheckSetupJob(FrozenConfig):
    """Settings of ``jobs/check_setup.py``."""

    output_dir: Annotated[Path, FROM_ROOT] = Field(
        description="directory of the summary; its disk is the one that is measured"
    )
    cards: Annotated[Path, FROM_PROJECT] = Field(Path("datasets"), description="directory of the corpus cards")
    needed: tuple[str, ...] = Field((), description="names of corpora that must be there; the others only warn")
    least_free_disk_gb: float = Field(5, ge=0, description="free disk space")
    least_memory_gb: float = Field(4, ge=0, description="main memory")
    least_shared_memory_gb: float = Field(1, ge=0, description="free in /dev/shm, for Ray's objects")
    try_imports: bool = Field(True, description="import the packages with compiled parts; about 20 s")
    start_ray: bool = Field(False, description="start Ray on this machine and run a task")
    tracking: TrackingSettings = TrackingSettings()


JOB_SETTINGS: dict[str, type[FrozenConfig]] = {
    "audit_corpus": AuditCorpusJob,
    "check_setup": CheckSetupJob,
    "convert_store": ConvertStoreJob,
    "compare_objectives": CompareObjectivesJob,
    "describe_corpus": DescribeCorpusJob,
    "distill_models": DistillModelsJob,
    "evaluate_model": EvaluateModelJob,
    "export_model": ExportModelJob,
    "list_stores": ListStoresJob,
    "make_demo_corpus": MakeDemoCorpusJob,
    "merge_stores": MergeStoresJob,
    "predict_clips": PredictClipsJob,
    "prepare_corpus": PrepareCorpusJob,
    "promote_model": PromoteModelJob,
    "push_store": PushStoreJob,
    "sync_tracking": SyncTrackingJob,
    "train_model": TrainModelJob,
    "tune_model": TuneModelJob,
}
"""Settings of every job that can be submitted to a cluster, by the name of its file in ``jobs/``."""
