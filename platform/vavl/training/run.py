"""Everything a worker sets up before the first step: data, network, engine, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from vavl.data.batch import ClipBatch
from vavl.data.loader import RankPlace, StepLoader
from vavl.data.partitions import PartitionedClips
from vavl.data.sampler import Sampler
from vavl.errors import TrainingError
from vavl.models.draws import DrawKey
from vavl.models.saved_model import ModelDescription, build_network
from vavl.models.vavl import Vavl, VavlOutput, parameter_count
from vavl.objectives.moments import Moments
from vavl.objectives.pseudo_label import LabelStatistics, PseudoTarget
from vavl.objectives.settings import ObjectiveSettings
from vavl.objectives.total import Objective
from vavl.training.average import WeightAverage
from vavl.training.checkpoint import Checkpoints, Restored
from vavl.training.checkpoint_files import AVERAGE_FILE, CheckpointValues, LoopState
from vavl.training.collectives import add_over_ranks, rank_and_world_size
from vavl.training.context import LocalContext
from vavl.training.engine import Engine, TorchEngine, check_precision, compile_blocks, on_cpu
from vavl.training.evaluation import EvaluationData
from vavl.training.pseudo_labels import GivenPredictions, PseudoLabels
from vavl.training.run_checks import hgr_feeds, labelled_conditions
from vavl.training.run_data import RunData, describe_model, open_run_data, with_training_clips
from vavl.training.settings import TrainingPlan, TrainingSettings
from vavl.training.storage import WorkerOutput


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
    pseudo_labels: PseudoLabels | None
    given: GivenPredictions | None
    """Predictions from a file in place of a teacher's, on the device."""
    labels: LabelStatistics | None
    """Of the labeled training clips, on the device; None without pseudo-labels."""
    untrained: Mapping[str, Tensor]
    """Weights that are not trained, on the CPU."""
    objective: Objective
    loader: StepLoader
    checkpoints: Checkpoints
    output: WorkerOutput
    restored: Restored | None
    """The checkpoint that this attempt resumes from."""
    start: LoopState
    """Of the first step of this attempt."""
    place: RankPlace
    steps_per_epoch: int
    total_steps: int

    @cached_property
    def described_with_clips(self) -> ModelDescription:
        """The description as it is saved; reads clips when it is first asked for. One rank is enough."""
        return with_training_clips(self.description, self.data)

    def weights(self, *, kept: bool = True) -> dict[str, Tensor]:
        """Return all weights, or their average, float32 on the CPU where ``kept``. Every rank must call."""
        average = self.average
        trained = average.weights(kept=kept) if average else self.engine.full_weights(kept=kept)
        return {**self.untrained, **trained} if kept else {}

    def draws(self, step: int) -> DrawKey:
        """Return the key of a step's draws: the same whenever and wherever its rows are computed."""
        return DrawKey(self.plan.training.seed, step)

    def loss(
        self,
        step: int,
        batch: ClipBatch,
        output: VavlOutput,
        local: Moments,
        moments: Moments,
        pseudo: PseudoTarget | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a micro-batch's share of the weighted objective, and its unweighted parts; see ``Objective``."""
        parts = self.objective.parts(output, batch, local, moments, pseudo)
        return torch.stack(list(self.objective.weighted(parts, step).values())).sum(), parts

    @property
    def in_words(self) -> str:
        """What is trained for how long, and by whom."""
        settings, workers = self.plan.training, self.place.world_size
        frozen = f"; frozen for want of clips: {', '.join(self.frozen)}" if self.frozen else ""
        how = f"{workers} worker(s), ZeRO {settings.zero_stage}, {settings.precision}, engine {settings.engine}"
        steps = f"{self.total_steps} steps ({self.steps_per_epoch} per epoch)"
        return f"network of {self.parameters / 1e6:.2f} M parameters, {steps}, {how}{frozen}"

    def evaluation_data(self) -> EvaluationData:
        """Return what an evaluation during training reads."""
        size = self.plan.evaluation.batch_size
        data, correlates = self.data, self.plan.objectives.hgr is not None
        return EvaluationData(
            data.collection, data.normaliser, data.task, size, self.place, self.engine.device, correlates
        )


def steps_of_plan(plan: TrainingPlan, training_clips: int, batch_size: int) -> tuple[int, int]:
    """Return the steps of an epoch, (training clips) / (global batch), and of the whole run."""
    per_epoch = -(-training_clips // batch_size)
    if plan.training.refit:
        assert plan.training.max_steps is not None  # ``resolved`` looked it up
        return per_epoch, plan.training.max_steps
    return per_epoch, min(plan.training.max_epochs * per_epoch, plan.training.max_steps or 2**62)


def prepare_run(
    plan: TrainingPlan, context: LocalContext | None = None, output: WorkerOutput | None = None
) -> TrainingRun:
    """Set up one rank, from the newest whole checkpoint if there is one.

    Every rank must call, after the process group was started.

    ``output``: where results go; one of its own by default.

    Raises:
        TrainingError: the checkpoint belongs to another configuration, store or network.
    """
    settings, context = plan.training, context or LocalContext()
    rank, world_size = rank_and_world_size()
    data = open_run_data(plan)
    sampler = Sampler(data.partitioned.clips, data.composition, data.collection.lengths, settings.seed)
    place = RankPlace(rank, world_size, settings.micro_batches(sampler.batch_size, world_size))
    output = output or WorkerOutput(plan.output_dir)
    checkpoints = Checkpoints(plan.output_dir, settings.keep_checkpoints, context.attempt)
    checkpoints.open()
    restored = checkpoints.newest(output.directory)
    start = _start(plan, data, restored, world_size)
    description = describe_model(plan, data)
    network = _network(plan, description)
    parameters = parameter_count(network)  # before the engine, which may shard them
    frozen = freeze_parts(network, data.partitioned, plan.objectives)
    untrained = {name: on_cpu(one) for name, one in network.named_parameters() if not one.requires_grad}
    if restored is not None:
        restored.load_weights(network)
    device, slots = context.device(settings), world_size * place.micro_batches
    rows_per_slot = -(-sampler.batch_size // slots)
    engine = make_engine(network, settings, device, rows_per_slot, place.micro_batches)
    steps_per_epoch, total_steps = steps_of_plan(plan, data.partitioned.count, sampler.batch_size)
    run = TrainingRun(
        plan=plan,
        data=data,
        description=description,
        frozen=frozen,
        parameters=parameters,
        engine=engine,
        average=_average(plan, engine, description),
        pseudo_labels=_pseudo_labels(plan, data, output, start, rank),
        given=_given(plan, data, device),
        labels=data.label_statistics.to(device) if plan.objectives.pseudo_label else None,
        untrained=untrained,
        objective=_objective(plan, data, slots, rows_per_slot),
        loader=_loader(plan, data, sampler, place, device),
        checkpoints=checkpoints,
        output=output,
        restored=restored,
        start=start,
        place=place,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )
    _start_engine(run)
    return run


def _objective(plan: TrainingPlan, data: RunData, slots: int, rows_per_slot: int) -> Objective:
    ladder = plan.objectives.ladder
    return Objective(
        task=data.task,
        settings=plan.objectives,
        ladder_weights=(ladder and ladder.layer_weights) or (1.0,) * plan.model.ladder_layers,
        pieces=slots,
        rows=slots * rows_per_slot,
        labelled=labelled_conditions(data.partitioned),
    )


def _network(plan: TrainingPlan, description: ModelDescription) -> Vavl:
    torch.manual_seed(plan.training.seed)
    network = build_network(
        description,
        plan.objectives.ladder,
        plan.objectives.contrast_size,
        activation_checkpointing=plan.training.activation_checkpointing,
    )
    if plan.training.compile:
        compile_blocks(network)
    return network


def make_engine(
    network: nn.Module, settings: TrainingSettings, device: torch.device, rows: int, micro_batches: int = 1
) -> Engine:
    """Build the engine that the settings name.

    Args:
        network: on the CPU, float32; parts that must not train have ``requires_grad`` False.
        settings: engine, stage and precision.
        device: that it trains on.
        rows: clips of a micro-batch of one rank.
        micro_batches: of a rank per optimizer step.

    Raises:
        TrainingError: the card lacks the precision, or DeepSpeed refuses its configuration.
    """
    check_precision(settings, device)
    match settings.engine:
        case "deepspeed":
            from vavl.training.deepspeed_engine import DeepSpeedEngine

            return DeepSpeedEngine(network, settings, device, rows, micro_batches)
        case "torch":
            return TorchEngine(network, settings, device, micro_batches)


def _average(plan: TrainingPlan, engine: Engine, description: ModelDescription) -> WeightAverage | None:
    decay, pseudo = plan.training.average_decay, plan.objectives.pseudo_label
    if decay is None:
        return None
    is_teacher = pseudo is not None and pseudo.teacher == "average"
    return WeightAverage(engine, decay, partial(_network, plan, description), is_teacher=is_teacher)


def _given(plan: TrainingPlan, data: RunData, device: torch.device) -> GivenPredictions | None:
    path = plan.objectives.pseudo_label and plan.objectives.pseudo_label.predictions
    return data.given_predictions(path).to(device) if path else None


def _pseudo_labels(
    plan: TrainingPlan, data: RunData, output: WorkerOutput, start: LoopState, rank: int
) -> PseudoLabels | None:
    if plan.objectives.pseudo_label is None:
        return None
    return PseudoLabels(output, data.collection.manifest.table.column("clip_id"), data.task, rank, start.step)


def _loader(plan: TrainingPlan, data: RunData, sampler: Sampler, place: RankPlace, device: torch.device) -> StepLoader:
    pseudo = plan.objectives.pseudo_label
    weak_view = plan.data.weak_view if pseudo and pseudo.predictions is None else None
    collection, normaliser, gpu = data.collection, data.normaliser, device if device.type == "cuda" else None
    return StepLoader(collection, sampler, normaliser, place, plan.data.augmentation, weak_view, gpu)


def _start_engine(run: TrainingRun) -> None:
    """Take the discarded step that some engines need before the first, on a batch of nothing; then fill the engine.

    Every rank must call.
    """
    batch = run.loader.filler().to(run.engine.device)

    def passes() -> Tensor:
        output = run.engine.forward(batch, run.draws(0))
        local = run.objective.moments(output, batch, None)
        return run.loss(run.start.step, batch, output, local, add_over_ranks(local))[0] * 0

    run.engine.prepare(passes)
    if run.restored is None:
        return
    with CheckpointValues(run.restored.directory) as values:
        run.engine.load(values)
    if run.average is not None:
        run.average.load(run.restored.directory / AVERAGE_FILE)


def _start(plan: TrainingPlan, data: RunData, restored: Restored | None, world_size: int) -> LoopState:
    """Return the state before the first step of this attempt; refuse the checkpoint of another run."""
    fresh = LoopState(
        config_hash=plan.config_hash,
        store_hash=data.collection.store.hash,
        workers=world_size,
        zero_stage=plan.training.zero_stage,
        teacher_mean=tuple(data.label_statistics.mean.tolist()) if plan.objectives.pseudo_label else None,
    )
    if restored is None:
        return fresh
    for name in ("config_hash", "store_hash"):
        before, now = getattr(restored.state, name), getattr(fresh, name)
        if before != now:
            fix = "go back to the earlier setting, or set training.resume=never to start anew"
            raise TrainingError(str(restored.directory), name, f"the checkpoint has {before}, this run {now}", fix)
    # Checkpoints of earlier versions hold no mean of the teacher; the hard labels of their runs need none.
    mean = restored.state.teacher_mean or fresh.teacher_mean
    now = {"workers": fresh.workers, "zero_stage": fresh.zero_stage, "teacher_mean": mean}
    return restored.state.model_copy(update=now)


def freeze_parts(network: Vavl, partitioned: PartitionedClips, objectives: ObjectiveSettings) -> tuple[str, ...]:
    """Freeze what no training clip can feed: weight decay would move it without any evidence.

    The functions of soft-HGR and the projections for contrast are frozen unmentioned where those are not trained.

    Returns:
        Names of the parts that are frozen for want of clips.
    """
    pairs = hgr_feeds(partitioned, objectives.hgr) if objectives.hgr else frozenset()
    correlated = {
        "audio_path.correlate": bool(pairs & {"audio_video", "audio_label"}),
        "video_path.correlate": bool(pairs & {"audio_video", "video_label"}),
        "correlate_label": bool(pairs & {"audio_label", "video_label"}),
    }
    if objectives.contrastive is not None:
        fed_pairs = partitioned.feed("audio", "video")
        correlated["contrast"] = fed_pairs and objectives.contrastive.weight > 0
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
