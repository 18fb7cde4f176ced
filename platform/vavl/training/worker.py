"""What one training process does from start to end."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vavl.config.files import read_json, write_json
from vavl.config.progress import log_to_stderr
from vavl.corpora.manifest import Manifest
from vavl.errors import TrainingError
from vavl.features import AUDIO, VIDEO, ModalityInfo
from vavl.models.saved_model import load_model
from vavl.models.vavl import Vavl
from vavl.training.checkpoint_files import LoopState
from vavl.training.collectives import wait_for_all
from vavl.training.context import LocalContext
from vavl.training.evaluation import predict_split, save_predictions, score_split
from vavl.training.loop import BEST_DIRECTORY, train
from vavl.training.records import Report, resumed_events
from vavl.training.run import TrainingRun, prepare_run
from vavl.training.run_directory import OUTCOME_FILE
from vavl.training.settings import TrainingPlan
from vavl.training.storage import WorkerOutput, full_disk_as_error

PREDICTIONS_DIRECTORY = "predictions"
PARTITIONS_FILE = "partitions.csv"
ENGINE_FILE = "deepspeed.json"
"""DeepSpeed's whole configuration: what was generated, and the user's keys over it."""


def train_on_worker(plan: TrainingPlan, report: Report, context: LocalContext | None = None) -> dict[str, Any]:
    """Set up, train, and measure the best epoch. Every rank must call.

    Leaves in ``plan.output_dir``: ``partitions.csv``, ``deepspeed.json``, ``best/`` (the model), ``checkpoints/``,
    ``predictions/`` and ``outcome.json``, which comes last and is missing after a request to stop.

    Returns:
        ``is_stopped`` and ``step``.

    Raises:
        VavlError: what stops the run; a full disk is one.
    """
    context = context or LocalContext()
    context.beat(None)  # a slow load is no step that hangs
    _prepare_process(plan)
    with full_disk_as_error(str(plan.output_dir)):
        run = prepare_run(plan, context, WorkerOutput(plan.output_dir))
        if run.place.rank == 0:
            _write_setup(run)
        # What a killed driver had not received comes first; the journal's readers know repeated steps.
        if run.restored is not None:
            report([*run.restored.records, *resumed_events(run.restored, run.start)])
        end = train(run, run.start, report, context)
        context.beat()
        if not end.is_stopped:
            conclude(run, end.state)
        wait_for_all()
    return {"is_stopped": end.is_stopped, "step": end.state.step}


def _write_setup(run: TrainingRun) -> None:
    run.data.table.write_csv(run.output.directory / PARTITIONS_FILE)
    run.output.publish(PARTITIONS_FILE)
    if run.engine.config:
        write_json(run.output.directory / ENGINE_FILE, run.engine.config)
        run.output.publish(ENGINE_FILE)


def _prepare_process(plan: TrainingPlan) -> None:
    """Set what belongs to the process: threads, and what the log of a worker says."""
    torch.set_num_threads(plan.training.threads)
    # A Ray worker has no log of ours yet; in the driver's process this changes nothing.
    log_to_stderr()
    # DeepSpeed calls collectives by their older names at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


def conclude(run: TrainingRun, state: LoopState) -> None:
    """Measure the model that is kept: the saved weights of the best epoch, in float32.

    Validation always but for a refit, test only when the plan asks. Every rank must call.
    """
    if state.best_epoch < 0:
        raise TrainingError("training", "best epoch", "no epoch was finished", "train at least one epoch")
    wait_for_all()
    model = load_model(run.output.fetch(BEST_DIRECTORY))
    store = run.data.collection.store
    model.check_features(store.corpus, store.info)
    network = model.network.to(run.engine.device)
    metrics: dict[str, float] = {}
    asked = {"validation": not run.plan.training.refit, "test": run.plan.evaluation.test}
    for split in (name for name, is_asked in asked.items() if is_asked):
        predictions = predict_split(network, run.evaluation_data(), run.data.rows[split])
        metrics |= score_split(split, predictions, run.data.task)
        if run.place.rank == 0:
            path = run.output.directory / PREDICTIONS_DIRECTORY / f"{split}.parquet"
            save_predictions(path, split, predictions, run.data.collection, run.data.task)
            run.output.publish(f"{PREDICTIONS_DIRECTORY}/{path.name}")
    if run.place.rank == 0:
        outcome = _outcome(run, state, metrics, layer_weights(network, store.info))
        write_json(run.output.directory / OUTCOME_FILE, outcome)
        run.output.publish(OUTCOME_FILE)
    wait_for_all()


def read_outcome(output_dir: Path) -> dict[str, Any]:
    """Read what the finished workers left."""
    outcome: dict[str, Any] = read_json(output_dir / OUTCOME_FILE)
    return outcome


def layer_weights(network: Vavl, info: Mapping[str, ModalityInfo]) -> dict[str, dict[int, float]]:
    """Return how much each layer counts in a frame, by modality and number of the layer; {} where none are weighted."""
    paths = {AUDIO: network.audio_path, VIDEO: network.video_path}
    return {
        modality: dict(enumerate(path.weigh.shares().tolist(), start=info[modality].settings["layers"][0]))
        for modality, path in paths.items()
        if path.weigh.layers > 1
    }


def _outcome(
    run: TrainingRun, state: LoopState, metrics: dict[str, float], layers: dict[str, dict[int, float]]
) -> dict[str, Any]:
    data, device = run.data, run.engine.device
    manifest: Manifest = data.collection.manifest
    return {
        "metrics": metrics,
        "best_epoch": state.best_epoch,
        "epochs": state.epoch,
        "steps": state.step,
        "best_step": min(state.best_epoch * run.steps_per_epoch, state.step),
        "refit_steps": run.total_steps if run.plan.training.refit else None,
        "skipped_steps": list(state.skipped),
        "clips_per_second": state.trained_clips / max(state.trained_seconds, 1e-9),
        "workers": run.place.world_size,
        "zero_stage": run.plan.training.zero_stage,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "parameters": run.parameters,
        "layer_weights": layers,
        "frozen_parts": list(run.frozen),
        "rows_per_step": {str(name): rows for name, rows in data.composition.items()},
        "clips_by_partition": {str(name): len(rows) for name, rows in data.partitioned.clips.items()},
        "partitions": data.table.summary(),
        "clips": {name: len(rows) for name, rows in data.rows.items()},
        "speakers": {
            name: [data.collection.speakers[code] for code in data.collection.speakers_of(rows)]
            for name, rows in data.rows.items()
        },
        "corpus": manifest.corpus,
        "corpora": list(manifest.corpora),
        "protocol": manifest.protocol,
        "fold": run.plan.data.fold,
        "fold_title": manifest.fold_title(run.plan.data.fold),
        "label_set": manifest.label_set,
        "label_target": manifest.target,
        "classes": list(manifest.classes),
        "waived_audit": list(run.plan.data.waive_audit),
        "speaker_normalisation": run.plan.features.speaker_normalisation,
        "store_hash": state.store_hash,
        "config_hash": state.config_hash,
    }
