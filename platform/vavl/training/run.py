"""Everything a worker sets up before the first step: data, network, engine, checkpoints."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vavl.data.collection import ClipCollection, Normaliser, normalisers, open_collection
from vavl.data.loader import RankPlace, StepLoader
from vavl.data.manifest import TEST, TRAIN, VALIDATION
from vavl.data.partition_table import PartitionTable, partition_table
from vavl.data.partitions import Partition, PartitionedClips, compose_batch, partition_clips
from vavl.data.protocol import apply_partitions
from vavl.data.sampler import Sampler
from vavl.data.statistics import FeatureStatistics
from vavl.errors import InputError
from vavl.models.saved_model import ModalityDescription, ModelDescription, build_network
from vavl.models.settings import AttributeTask, ClassTask, Task
from vavl.models.vavl import Vavl, parameter_count
from vavl.objectives.pseudo_label import ConfidenceState
from vavl.objectives.settings import ObjectiveSettings
from vavl.objectives.total import Objective
from vavl.training.average import WeightAverage
from vavl.training.checkpoint import CheckpointFolder, Kept
from vavl.training.collectives import rank_and_world_size
from vavl.training.engine import Engine, make_engine
from vavl.training.evaluation import EvaluationData
from vavl.training.objective_checks import check_objectives, hgr_feeds
from vavl.training.selection_checks import check_selection, labelled_conditions
from vavl.training.settings import TrainingPlan

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """The clips of a run by split and partition.

    Attributes:
        collection: all clips of the store, as far as the partition protocol lets the run see them.
        rows: manifest rows by split; validation and test rows as they are in the manifest.
        table: of all training clips.
        partitioned: training clips of the partitions that are drawn from.
        composition: rows of a global batch by partition.
        normaliser: by modality, from the training speakers.
        task: what is predicted.
        warnings: what can be trained and will hardly help.
    """

    collection: ClipCollection
    rows: Mapping[str, NDArray[np.int64]]
    table: PartitionTable
    partitioned: PartitionedClips
    composition: Mapping[Partition, int]
    normaliser: Mapping[str, Normaliser]
    task: Task
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingRun:
    """A run that is ready for its first step, on one rank."""

    plan: TrainingPlan
    data: RunData
    description: ModelDescription
    frozen: tuple[str, ...]
    """Parts that no training clip feeds; they keep their first weights."""
    parameters: int
    engine: Engine
    average: WeightAverage | None
    copy: nn.Module | None
    """Whole copy of the network on which the gradients of parts are measured."""
    objective: Objective
    loader: StepLoader
    checkpoints: CheckpointFolder
    place: RankPlace
    steps_per_epoch: int
    total_steps: int

    @property
    def kept(self) -> dict[str, Kept]:
        """What a checkpoint holds."""
        return {"engine": self.engine} | ({"average": self.average} if self.average else {})

    def evaluation_data(self) -> EvaluationData:
        """Return what an evaluation during training reads."""
        size = self.plan.evaluation.batch_size
        data = self.data
        return EvaluationData(
            data.collection, data.normaliser, data.task, size, self.place, self.engine.device,
            correlates=self.plan.objectives.hgr is not None,
        )  # fmt: skip


def open_run_data(plan: TrainingPlan) -> RunData:
    """Read store and manifest, apply the partition protocol, and decide what a global batch is made of.

    Raises:
        StoreError, InputError, ConfigError: the store, the fold, the partitions or the composition cannot
            be used.
    """
    collection = open_collection(plan.data)
    split = collection.manifest.split(plan.data.fold)
    rows = {
        name: np.flatnonzero(split == code).astype(np.int64)
        for name, code in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))
    }
    wanted = ("train", "validation", "test") if plan.evaluation.test else ("train", "validation")
    for name in wanted:
        if not collection.is_labelled[rows[name]].any():
            raise InputError(
                str(plan.data.store), f"split {name} of fold {plan.data.fold}", "holds no labelled clip",
                "check the card's splits, data.fold and the quarantine of the store",
            )  # fmt: skip
    collection = apply_partitions(collection, rows["train"], plan.data.partitions)
    has_audio, has_video = collection.has("audio"), collection.has("video")
    partitioned = partition_clips(rows["train"], has_audio, has_video, collection.is_labelled)
    normaliser = normalisers(collection, rows["train"], per_speaker=plan.features.speaker_normalisation)
    composition = compose_batch(partitioned, plan.data.composition)
    # A partition that gives no rows to any batch feeds nothing, and its clips make no epoch longer.
    used = partitioned.only(composition)
    task = _task(collection, plan)
    check_classes(collection, rows["train"], plan)
    table = partition_table(collection, rows["train"])
    warnings = check_objectives(plan, used, composition, task)
    return RunData(collection, rows, table, used, composition, normaliser, task, tuple(warnings))


def check_classes(collection: ClipCollection, rows: NDArray[np.int64], plan: TrainingPlan) -> None:
    """Refuse training labels that are all alike: there is nothing to tell apart."""
    target = collection.target[rows[collection.is_labelled[rows]]]
    if len(target) and not (target != target[0]).any():
        raise InputError(
            str(plan.data.store), f"data.target={plan.data.target}, fold {plan.data.fold}",
            f"all {len(target)} labelled training clips have the same target {target[0].tolist()}",
            "label clips of other classes too, or choose another fold or target",
        )  # fmt: skip


def check_plan(plan: TrainingPlan) -> None:
    """Look at everything that a run reads, as far as that is cheap, and log what it would train on.

    Raises:
        VavlError: what a run would stumble over.
    """
    data = open_run_data(plan)
    for line in _data_lines(data):
        _log.info(line)
    warnings = check_selection(plan, data.collection, data.rows["validation"], data.partitioned, data.task)
    for warning in (*data.warnings, *warnings):
        _log.warning(warning)


def steps_of_plan(plan: TrainingPlan, training_clips: int, batch_size: int) -> tuple[int, int]:
    """Return the steps of an epoch, (training clips) / (global batch), and of the whole run."""
    per_epoch = -(-training_clips // batch_size)
    return per_epoch, min(plan.training.max_epochs * per_epoch, plan.training.max_steps or 2**62)


def prepare_run(plan: TrainingPlan) -> TrainingRun:
    """Set up one rank. Every rank must call, after the process group was started."""
    settings = plan.training
    rank, world_size = rank_and_world_size()
    data = open_run_data(plan)
    sampler = Sampler(
        data.partitioned.clips, dict(data.composition), data.collection.lengths(), settings.seed
    )
    place = RankPlace(rank, world_size, settings.micro_batches)
    description = describe_model(plan, data)
    torch.manual_seed(settings.seed)
    network = build_network(description, plan.objectives.ladder)
    parameters = parameter_count(network)  # before the engine, which may shard them
    frozen = freeze_parts(network, data.partitioned, plan.objectives)
    average, whole_copy = _copies(network, plan)
    steps_per_epoch, total_steps = steps_of_plan(plan, data.partitioned.count, sampler.batch_size)
    slots = world_size * settings.micro_batches
    engine = make_engine(network, settings, rows_per_slot=-(-sampler.batch_size // slots))
    for moving in (average.network if average else None, whole_copy):
        if moving is not None:
            moving.to(engine.device)
    weak_view = plan.data.weak_view if plan.objectives.pseudo_label else None
    run = TrainingRun(
        plan=plan,
        data=data,
        description=description,
        frozen=frozen,
        parameters=parameters,
        engine=engine,
        average=average,
        copy=whole_copy,
        objective=Objective.of(
            data.task, plan.objectives, plan.model, slots, labelled_conditions(data.partitioned)
        ),
        loader=StepLoader(
            data.collection, sampler, data.normaliser, place, plan.data.augmentation, weak_view
        ),
        checkpoints=CheckpointFolder(plan.output_dir / "checkpoints", settings.keep_checkpoints),
        place=place,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )
    if rank == 0:
        for line in (*data.table.lines(), *_network_lines(run)):
            _log.info(line)
    return run


def first_confidence(run: TrainingRun) -> ConfidenceState | None:
    """Return the state behind pseudo-labels before the first step; None without pseudo-labels."""
    return ConfidenceState.at_start(run.data.task.outputs) if run.plan.objectives.pseudo_label else None


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
            "label_target": manifest.target,
            "protocol": manifest.protocol,
            "fold": plan.data.fold,
            "store_hash": store.hash,
            "config_hash": plan.config_hash,
        },
    )


def freeze_parts(
    network: Vavl, partitioned: PartitionedClips, objectives: ObjectiveSettings
) -> tuple[str, ...]:
    """Freeze what no training clip can feed: weight decay would move it without any evidence.

    The functions of soft-HGR are frozen without a word where soft-HGR is not trained.

    Returns:
        Names of the parts that are frozen for want of clips.
    """
    pairs = hgr_feeds(partitioned, objectives.hgr) if objectives.hgr else frozenset()
    correlated = {
        "audio_path.correlate": bool(pairs & {"audio_video", "audio_label"}),
        "video_path.correlate": bool(pairs & {"audio_video", "video_label"}),
        "correlate_label": bool(pairs & {"audio_label", "video_label"}),
    }
    fed = {
        "audio_path": partitioned.feed("audio"),
        "video_path": partitioned.feed("video"),
        "audio_path.head": partitioned.feed("audio", with_label=True),
        "video_path.head": partitioned.feed("video", with_label=True),
        "fusion_head": partitioned.feed("audio", "video", with_label=True),
    }
    if objectives.ladder is not None:
        fed |= {"ladder.audio": fed["audio_path"], "ladder.video": fed["video_path"]}
    unfed = {name for name, is_fed in fed.items() if not is_fed}
    frozen = tuple(name for name in fed if name in unfed and name.removesuffix(".head") not in unfed - {name})
    for name in (*frozen, *(name for name, is_fed in correlated.items() if not is_fed)):
        network.get_submodule(name).requires_grad_(requires_grad=False)
    return frozen


def _copies(network: Vavl, plan: TrainingPlan) -> tuple[WeightAverage | None, nn.Module | None]:
    """Copy the network before an engine shards it."""
    decay, every = plan.training.average_decay, plan.training.gradient_norms_every_steps
    return (
        WeightAverage(copy.deepcopy(network), decay) if decay is not None else None,
        copy.deepcopy(network) if every is not None else None,
    )


def _data_lines(data: RunData) -> list[str]:
    table = ", ".join(
        f"{name}: {len(data.partitioned.clips[name])} clips, {rows} rows/step"
        for name, rows in data.composition.items()
    )
    splits = ", ".join(f"{name} {len(rows)}" for name, rows in data.rows.items())
    return [f"clips by split: {splits}", *data.table.lines(), f"global batch: {table}"]


def _network_lines(run: TrainingRun) -> list[str]:
    settings = run.plan.training
    frozen = ", ".join(run.frozen) or "none"
    how = f"ZeRO {settings.zero_stage}, {settings.precision}, engine {settings.engine}"
    return [
        f"network: {run.parameters / 1e6:.2f} M parameters; frozen for want of clips: {frozen}",
        f"{run.total_steps} steps ({run.steps_per_epoch} per epoch), {run.place.world_size} worker(s), {how}",
    ]


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


def _task(collection: ClipCollection, plan: TrainingPlan) -> Task:
    if plan.data.target == "attributes":
        return AttributeTask()
    return ClassTask(classes=collection.manifest.classes)
