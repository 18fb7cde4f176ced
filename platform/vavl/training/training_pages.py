"""The report of a finished training, put together from its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vavl.corpora.manifest import Manifest
from vavl.metrics.attributes import attribute_scores
from vavl.metrics.classes import class_scores, confusion_counts
from vavl.metrics.intervals import speaker_interval
from vavl.metrics.names import CONDITIONS, metric_name
from vavl.models.settings import AttributeTask
from vavl.reports.pictures import ReliabilityBins, reliability_bins
from vavl.store.store_cache import local_notes
from vavl.tracking.events import event_line, run_events
from vavl.tracking.journal import Journal
from vavl.training.settings import TrainingPlan
from vavl.training.training_content import EventNote, TrainingReport, YardstickNote
from vavl.training.training_report import write_training_report
from vavl.training.training_result import corpus_words, label_words
from vavl.training.worker import PREDICTIONS_FOLDER

_INTERVAL_SEED = 0


def write_report(folder: Path, plan: TrainingPlan, outcome: Mapping[str, Any], journal: Journal) -> Path:
    """Write ``report.html`` and its pictures into the run's directory on this machine; return the page's path."""
    manifest = Manifest.read(local_notes(plan.data.store)).with_labels(plan.data.labels)
    split = "test" if plan.evaluation.test else "validation"
    predictions = pq.read_table(folder / PREDICTIONS_FOLDER / f"{split}.parquet")
    classes = tuple(outcome["classes"]) if plan.data.target != "attributes" else ()
    confusion: dict[str, NDArray[np.int64]] = {}
    reliability: dict[str, ReliabilityBins] = {}
    for condition in CONDITIONS:
        rows = predictions.filter(pc.equal(predictions["condition"], condition))
        if classes and rows.num_rows:
            target, predicted = _columns(rows, "target", classes), _columns(rows, "predicted", classes)
            confusion[condition] = confusion_counts(predicted, target)
            reliability[condition] = reliability_bins(predicted, target.argmax(axis=1))
    report = TrainingReport(
        title=f"VAVL on {outcome['corpus']}",
        corpus=corpus_words(outcome),
        protocol=f"{outcome['protocol']}, fold {outcome['fold_title']}",
        label_target=label_words(outcome),
        speaker_normalisation=outcome["speaker_normalisation"],
        waived_audit=outcome["waived_audit"],
        clips=outcome["clips"],
        speakers=outcome["speakers"],
        metrics=outcome["metrics"],
        history=epoch_history(journal),
        classes=classes,
        confusion=confusion,
        confusion_split=split,
        reliability=reliability,
        intervals=accuracy_intervals(predictions, split, classes),
        by_corpus=scores_by_corpus(predictions, split, outcome["corpora"], _scorer(classes)),
        best_epoch=outcome["best_epoch"],
        yardsticks=yardsticks_of(manifest),
        facts=_facts(plan, outcome),
        notes=_notes(plan, outcome),
        events=[
            EventNote(event.moment, event.step, event_line(replace(event, step=None)), event.facts_in_words)
            for event in run_events(journal.read())
        ],
    )
    return write_training_report(report, folder)


def accuracy_intervals(
    predictions: pa.Table, split: str, classes: tuple[str, ...]
) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals of accuracy over the split's speakers, by metric name."""
    found: dict[str, tuple[float, float]] = {}
    for condition in CONDITIONS if classes else ():
        rows = predictions.filter(pc.equal(predictions["condition"], condition))
        if rows.num_rows:
            target, predicted = _columns(rows, "target", classes), _columns(rows, "predicted", classes)
            right = target.argmax(axis=1) == predicted.argmax(axis=1)
            found[metric_name(split, condition, "accuracy")] = speaker_interval(
                right.astype(np.float64), rows["speaker"].to_pylist(), np.random.default_rng(_INTERVAL_SEED)
            )
    return found


Scorer = Callable[[pa.Table], dict[str, float]]


def scores_by_corpus(
    predictions: pa.Table, split: str, corpora: Sequence[str], scorer: Scorer
) -> dict[str, dict[str, float]]:
    """Return the metrics of each corpus, named like those of the whole split; nothing for a single corpus.

    Args:
        predictions: of the split.
        split: its name.
        corpora: of the store; one without clips in the split is left out.
        scorer: metrics of the rows of one condition.
    """
    found: dict[str, dict[str, float]] = {}
    for corpus in corpora if len(corpora) > 1 else ():
        for condition in CONDITIONS:
            is_own = pc.and_(
                pc.equal(predictions["corpus"], corpus), pc.equal(predictions["condition"], condition)
            )
            rows = predictions.filter(is_own)
            if rows.num_rows:
                scores = {**scorer(rows), "clips": float(rows.num_rows)}
                named = {metric_name(split, condition, name): value for name, value in scores.items()}
                found.setdefault(corpus, {}).update(named)
    return found


def _scorer(classes: tuple[str, ...]) -> Scorer:
    names = classes or AttributeTask().attributes

    def score(rows: pa.Table) -> dict[str, float]:
        predicted, target = _columns(rows, "predicted", names), _columns(rows, "target", names)
        return class_scores(predicted, target) if classes else attribute_scores(predicted, target, names)

    return score


def epoch_history(journal: Journal) -> list[dict[str, Any]]:
    """Return the metrics of each epoch with the mean loss of its steps.

    A resumed run reports steps and epochs a second time: the last account of each counts, once.
    A step whose loss is missing (not finite) does not enter the mean.
    """
    losses: dict[int, float | None] = {}
    epochs: dict[int, dict[str, Any]] = {}
    for record in journal.read():
        if record.kind == "step":
            losses[record.payload["step"]] = record.payload["metrics"].get("train/loss/total")
        elif record.kind == "epoch":
            epochs[record.payload["epoch"]] = record.payload
    history = []
    start = 0
    for epoch, payload in sorted(epochs.items()):
        end = payload["step"]
        known = [loss for step in range(start, end) if (loss := losses.get(step)) is not None]
        mean = {"train/loss/total": sum(known) / len(known)} if known else {}
        history.append({"epoch": epoch, "step": end, **mean, **payload["metrics"]})
        start = end
    return history


def _columns(rows: pa.Table, prefix: str, names: tuple[str, ...]) -> NDArray[np.float64]:
    return np.stack([rows[f"{prefix}_{name}"].to_numpy() for name in names], axis=1)


def yardsticks_of(manifest: Manifest) -> list[YardstickNote]:
    """Return the yard-sticks of the corpus that belong to the chosen set of labels."""
    known = manifest.metadata.get("yardsticks", [])
    return [
        YardstickNote(note["name"], note["accuracy_percent"], note["protocol"])
        for note in known
        if note.get("labels") in (None, manifest.label_set)
    ]


def _facts(plan: TrainingPlan, outcome: Mapping[str, Any]) -> dict[str, Any]:
    training = plan.training
    return {
        "network": f"{outcome['parameters'] / 1e6:.2f} M parameters, width {plan.model.width}",
        "frozen for want of clips": ", ".join(outcome["frozen_parts"]) or "none",
        **{f"training clips, {name}": line for name, line in outcome["partitions"].items()},
        "rows per step": ", ".join(f"{rows} {name}" for name, rows in outcome["rows_per_step"].items()),
        "objectives": ", ".join(plan.objectives.in_words()),
        "weights kept": (
            "those of the best epoch"
            if training.average_decay is None
            else f"running average of the weights, decay {training.average_decay:g}"
        ),
        "optimizer steps": f"{outcome['steps']} in {outcome['epochs']} epochs",
        "workers": f"{outcome['workers']}, ZeRO stage {outcome['zero_stage']}, {training.precision}",
        "seed": training.seed,
        "speed": f"{outcome['clips_per_second']:.0f} clips per second of training",
        "configuration hash": outcome["config_hash"],
        "feature store hash": outcome["store_hash"],
    }


def _notes(plan: TrainingPlan, outcome: Mapping[str, Any]) -> list[str]:
    chosen = f"Epoch {outcome['best_epoch']} was chosen by {', '.join(plan.evaluation.select_by)}"
    if plan.evaluation.test:
        return [f"{chosen}; the test split was measured once, with the weights of that epoch."]
    return [
        f"{chosen}, so validation scores are optimistic; the test split was not measured (evaluation.test)."
    ]
