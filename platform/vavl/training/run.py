"""Everything a worker sets up before the first step: data, network, engine, checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vavl.data.loader import RankPlace, StepLoader
from vavl.data.partitions import PartitionedClips
from vavl.data.sampler import Sampler
from vavl.errors import TrainingError
from vavl.models.draws import DrawKey
from vavl.models.saved_model import ModelDescription, build_network
from vavl.models.vavl import Vavl, parameter_count
from vavl.objectives.pseudo_label import ConfidenceState
from vavl.objectives.settings import ObjectiveSettings
from vavl.objectives.total import Objective
from vavl.training.average import WeightAverage
from vavl.training.checkpoint import Checkpoints, Restored, differing
from vavl.training.collectives import add_over_ranks, any_rank, rank_and_world_size
from vavl.training.context import LocalContext, WorkerContext
from vavl.training.description import describe_model
from vavl.training.engine import Engine, on_cpu
from vavl.training.engines import EngineShape, make_engine
from vavl.training.evaluation import EvaluationData
from vavl.training.objective_checks import hgr_feeds
from vavl.training.run_data import RunData, open_run_data
from vavl.training.selection_checks import labelled_conditions
from vavl.training.settings import TrainingPlan
from vavl.training.state import LoopState
from vavl.training.worker_output import WorkerOutput

_log = logging.getLogger(__name__)


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
    untrained: Mapping[str, Tensor]
    """Weights that are not trained, on the CPU."""
    objective: Objective
    loader: StepLoader
    checkpoints: Checkpoints
    output: WorkerOutput
    restored: Restored | None
    """The checkpoint that this attempt goes on from."""
    start: LoopState
    """Of the first step of this attempt."""
    place: RankPlace
    steps_per_epoch: int
    total_steps: int

    def weights(self, *, kept: bool = True) -> dict[str, Tensor]:
        """Return all weights, or their average, float32 on the CPU where ``kept``. Every rank must call."""
        average = self.average
        trained = average.weights(kept=kept) if average else self.engine.full_weights(kept=kept)
        return {**self.untrained, **trained} if kept else {}

    def evaluation_data(self) -> EvaluationData:
        """Return what an evaluation during training reads."""
        size = self.plan.evaluation.batch_size
        data = self.data
        return EvaluationData(
            data.collection, data.normaliser, data.task, size, self.place, self.engine.device,
            correlates=self.plan.objectives.hgr is not None,
        )  # fmt: skip


def steps_of_plan(plan: TrainingPlan, training_clips: int, batch_size: int) -> tuple[int, int]:
    """Return the steps of an epoch, (training clips) / (global batch), and of the whole run."""
    per_epoch = -(-training_clips // batch_size)
    return per_epoch, min(plan.training.max_epochs * per_epoch, plan.training.max_steps or 2**62)


def prepare_run(
    plan: TrainingPlan, context: WorkerContext | None = None, output: WorkerOutput | None = None
) -> TrainingRun:
    """Set up one rank, from the newest whole checkpoint if there is one.

    Every rank must call, after the process group was started.

    Args:
        plan: of the run.
        context: of whatever launched this process.
        output: where results go; one of its own by default.

    Raises:
        TrainingError: the checkpoint belongs to another configuration, store or network.
    """
    settings, context = plan.training, context or LocalContext()
    rank, world_size = rank_and_world_size()
    data = open_run_data(plan)
    clips, composition = data.partitioned.clips, dict(data.composition)
    sampler = Sampler(clips, composition, data.collection.lengths(), settings.seed)
    place = RankPlace(rank, world_size, settings.micro_batches(sampler.batch_size, world_size))
    slots = world_size * place.micro_batches
    output = output or WorkerOutput(plan.output_dir)
    checkpoints = Checkpoints(plan.output_dir, settings.keep_checkpoints, context.attempt)
    checkpoints.open()
    restored = checkpoints.newest(output.folder)
    fresh = first_state(plan, data, world_size)
    if restored is not None:
        _check_is_ours(restored, fresh)
    rows = -(-sampler.batch_size // slots)
    shape = EngineShape(context.device(settings), rows, place.micro_batches)
    built = _build(plan, data, restored, shape)
    steps_per_epoch, total_steps = steps_of_plan(plan, data.partitioned.count, sampler.batch_size)
    weak_view = plan.data.weak_view if plan.objectives.pseudo_label else None
    labelled, is_on_gpu = labelled_conditions(data.partitioned), shape.device.type == "cuda"
    run = TrainingRun(
        plan=plan,
        data=data,
        **vars(built),
        objective=Objective.of(data.task, plan.objectives, plan.model, slots, labelled),
        loader=StepLoader(
            data.collection, sampler, data.normaliser, place, plan.data.augmentation, weak_view, is_on_gpu
        ),
        checkpoints=checkpoints,
        output=output,
        restored=restored,
        start=restored.state if restored is not None else fresh,
        place=place,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )
    _warm_up(run)
    _resume_engine(run)
    if rank == 0:
        for line in (*data.table.lines(), *_network_lines(run)):
            _log.info(line)
    return run


def _warm_up(run: TrainingRun) -> None:
    """Take the discarded step that some engines need before the first, on a batch of nothing. Every rank must call."""
    batch = run.loader.filler().to(run.engine.device)

    def passes() -> Tensor:
        output = run.engine.forward(batch, DrawKey(run.plan.training.seed, 0))
        local = run.objective.moments(output, batch, None)
        parts = run.objective.parts(output, batch, local, add_over_ranks(local), None)
        return torch.stack(list(run.objective.weighted(parts, run.start.step).values())).sum() * 0

    run.engine.prepare(passes)


def _resume_engine(run: TrainingRun) -> None:
    """Fill the engine from the checkpoint that the run resumes from, after its warm-up. Every rank must call.

    Raises:
        TrainingError: the engine does not hold what the checkpoint does.
    """
    if run.restored is None:
        return
    values = run.restored.values()
    run.engine.load(values)
    differ = differing(run.engine, values, run.place.rank, run.place.world_size)
    values.close()
    if any_rank(is_true=bool(differ)):
        raise TrainingError(
            "checkpoint", "weights", f"the engine holds other values after loading: {differ[:3] or 'on another rank'}",
            "report this with the versions of torch and deepspeed",
        )  # fmt: skip
    if run.average is not None:
        run.average.load(run.restored.average_file)


@dataclass(frozen=True)
class _Built:
    """What ``TrainingRun`` takes over, under the same names."""

    description: ModelDescription
    frozen: tuple[str, ...]
    parameters: int
    engine: Engine
    average: WeightAverage | None
    untrained: dict[str, Tensor]


def _build(
    plan: TrainingPlan,
    data: RunData,
    restored: Restored | None,
    shape: EngineShape,
) -> _Built:
    """Build the network with the weights of the checkpoint, and the engine around it."""
    description = describe_model(plan, data)

    def build() -> Vavl:
        torch.manual_seed(plan.training.seed)
        return build_network(
            description,
            plan.objectives.ladder,
            activation_checkpointing=plan.training.activation_checkpointing,
        )

    network = build()
    parameters = parameter_count(network)  # before the engine, which may shard them
    frozen = freeze_parts(network, data.partitioned, plan.objectives)
    untrained = {name: on_cpu(one) for name, one in network.named_parameters() if not one.requires_grad}
    if restored is not None:
        values = restored.values()
        shapes = {name: one.shape for name, one in network.named_parameters() if one.requires_grad}
        network.load_state_dict(values.weights(shapes), strict=False)
        values.close()
    engine = make_engine(network, plan.training, shape)
    decay, pseudo = plan.training.average_decay, plan.objectives.pseudo_label
    average = None
    if decay is not None:
        is_teacher = pseudo is not None and pseudo.teacher == "average"
        average = WeightAverage(engine, decay, build, is_teacher=is_teacher)
    return _Built(description, frozen, parameters, engine, average, untrained)


def first_state(plan: TrainingPlan, data: RunData, world_size: int) -> LoopState:
    """Return the state before the first step of a new run."""
    pseudo_labels = plan.objectives.pseudo_label
    return LoopState(
        config_hash=plan.config_hash,
        store_hash=data.collection.store.hash,
        workers=world_size,
        zero_stage=plan.training.zero_stage,
        confidence=ConfidenceState.at_start(data.task.outputs) if pseudo_labels else None,
    )


def _check_is_ours(restored: Restored, fresh: LoopState) -> None:
    for name in ("config_hash", "store_hash"):
        before, now = getattr(restored.state, name), getattr(fresh, name)
        if before != now:
            raise TrainingError(
                str(restored.folder), name, f"the checkpoint has {before}, this run {now}",
                "go back to the earlier setting, or set training.resume=never to start anew",
            )  # fmt: skip


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


def _network_lines(run: TrainingRun) -> list[str]:
    settings = run.plan.training
    frozen = ", ".join(run.frozen) or "none"
    how = f"ZeRO {settings.zero_stage}, {settings.precision}, engine {settings.engine}"
    return [
        f"network: {run.parameters / 1e6:.2f} M parameters; frozen for want of clips: {frozen}",
        f"{run.total_steps} steps ({run.steps_per_epoch} per epoch), {run.place.world_size} worker(s), {how}",
    ]
