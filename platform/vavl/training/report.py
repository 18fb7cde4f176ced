"""The report of a finished training run: what was measured on what, put together from its directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vavl.corpora.manifest import Manifest
from vavl.data.normalization import NORMALIZED_BY
from vavl.features import normalisation_kind
from vavl.metrics.names import CONDITIONS, SPLITS, TEST, VALIDATION, metric_name
from vavl.metrics.paired import Interval, speaker_interval
from vavl.metrics.scores import attribute_scores, class_scores, confusion_counts
from vavl.reports.plots import (
    Curve,
    Plot,
    ReliabilityBins,
    confusion_figure,
    curves_figure,
    reliability_bins,
    reliability_figure,
    write_plots,
)
from vavl.reports.render import write_page
from vavl.reports.theme import CONDITION_TITLES
from vavl.store.store_cache import local_store
from vavl.tracking.journal import Event, Journal, Record, run_events
from vavl.training.settings import TrainingPlan
from vavl.training.training_result import chosen_words, corpus_words, label_words, layer_words
from vavl.training.worker import PREDICTIONS_DIRECTORY

_INTERVAL_SEED = 0
_NO_PREDICTIONS = pa.table({"condition": pa.array([], pa.string()), "corpus": pa.array([], pa.string())})
"""Of a refit that does not measure the test split."""
# Metric, its title, and whether it is a share shown in percent. Only those that were measured appear.
_COLUMNS = (
    ("accuracy", "accuracy %", True),
    ("uar", "UAR %", True),
    ("f1_macro", "F1 %", True),
    ("ccc_mean", "CCC", False),
    ("ccc_arousal", "arousal", False),
    ("ccc_valence", "valence", False),
    ("ccc_dominance", "dominance", False),
    ("calibration_error", "ECE %", True),
    ("loss", "loss", False),
    ("clips", "clips", False),
)
_HEADLINES = (("accuracy", "accuracy", True), ("ccc_mean", "mean CCC", False))
_CURVES = (*_HEADLINES, ("loss", "loss", False))
_TRAIN_LOSS = "train/loss/total"


@dataclass(frozen=True)
class ReferenceScore:
    """A result to hold the own one against; ``accuracy_percent`` from 0 to 100."""

    name: str
    accuracy_percent: float
    protocol: str = ""


@dataclass(frozen=True)
class TrainingReport:
    """What the report of a training run shows."""

    outcome: Mapping[str, Any]  # of the run; its metrics are flat, ``<split>/<condition>/<metric>``, shares from 0 to 1
    history: Sequence[Mapping[str, Any]]  # one mapping per epoch: ``epoch`` and metrics
    classes: Sequence[str] = ()  # in the order of the confusion matrices; empty for attributes
    split: str = TEST  # of ``confusion``, ``reliability`` and ``by_corpus``
    # counts (true class, predicted class) by condition
    confusion: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    reliability: Mapping[str, ReliabilityBins] = field(default_factory=dict)  # by condition
    # 95 % intervals by metric name, with the unit of the metrics
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    # metrics of ``split`` for each corpus of a merged store; empty for one corpus
    by_corpus: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    best_epoch: int | None = None  # that the metrics belong to
    references: Sequence[ReferenceScore] = ()  # published or known results; chance is added by itself
    # what else to state (model, hashes, settings), in this order
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()  # sentences for the end of the page
    events: Sequence[Event] = ()  # what happened to the run, in order: restarts, skipped steps and the like

    @property
    def headline_split(self) -> str | None:
        """The split whose scores head the page: test if it was measured, else validation."""
        measured = {name.split("/")[0] for name in self.outcome["metrics"]}
        return next((split for split in (TEST, VALIDATION) if split in measured), None)


def write_report(directory: Path, plan: TrainingPlan, outcome: Mapping[str, Any], journal: Journal) -> Path:
    """Write ``report.html`` and its plots into the run's directory on this machine; return the page's path."""
    manifest = Manifest.read(local_store(plan.data.store)).with_labels(plan.data.labels)
    split = TEST if plan.evaluation.test else VALIDATION
    classes = tuple(outcome["classes"]) if plan.data.target != "attributes" else ()
    confusion: dict[str, NDArray[np.int64]] = {}
    reliability: dict[str, ReliabilityBins] = {}
    intervals: dict[str, tuple[float, float]] = {}
    is_measured = plan.evaluation.test or not plan.training.refit
    file = directory / PREDICTIONS_DIRECTORY / f"{split}.parquet"
    predictions = pq.read_table(file) if is_measured else _NO_PREDICTIONS
    for condition in CONDITIONS:
        rows = predictions.filter(pc.equal(predictions["condition"], condition))
        if classes and rows.num_rows:
            target, predicted = _columns(rows, "target", classes), _columns(rows, "predicted", classes)
            confusion[condition] = confusion_counts(predicted, target)
            reliability[condition] = reliability_bins(predicted, target.argmax(axis=1))
            is_right = (target.argmax(axis=1) == predicted.argmax(axis=1)).astype(np.float64)
            draws = np.random.default_rng(_INTERVAL_SEED)
            name = metric_name(split, condition, "accuracy")
            intervals[name] = speaker_interval(is_right, rows["speaker"].to_pylist(), draws)
    report = TrainingReport(
        outcome=outcome,
        history=epoch_history(journal),
        classes=classes,
        split=split,
        confusion=confusion,
        reliability=reliability,
        intervals=intervals,
        by_corpus=scores_by_corpus(predictions, split, outcome["corpora"], classes),
        best_epoch=None if plan.training.refit else outcome["best_epoch"],
        references=references_of(manifest),
        facts=_facts(plan, outcome),
        notes=_notes(plan, outcome),
        events=run_events(journal.read()),
    )
    return write_report_page(report, directory)


def write_report_page(report: TrainingReport, directory: Path) -> Path:
    """Write ``report.html`` and its plots into ``directory``; return the page's path."""
    outcome, plots = report.outcome, list(report_plots(report))
    write_plots(plots, directory)
    measured = {name.rsplit("/", 1)[-1] for name in outcome["metrics"]}
    words = {
        "corpus": corpus_words(outcome),
        "split protocol": f"{outcome['protocol']}, fold {outcome['fold_title']}",
        "label target": label_words(outcome),
    }
    return write_page(
        directory / "report.html",
        "training/report.html",
        f"VAVL on {outcome['corpus']}",
        f"{words['corpus']} · {words['split protocol']} · label target: {words['label target']}",
        report=report,
        words=words,
        normalisation=normalisation_kind(outcome["speaker_normalisation"]),
        confusions=[plot for plot in plots if plot.name.startswith("confusion_")],
        other_plots=[plot for plot in plots if not plot.name.startswith("confusion_")],
        splits=SPLITS,
        normalized_by=NORMALIZED_BY,
        conditions=CONDITION_TITLES,
        columns=[column for column in _COLUMNS if column[0] in measured],
        headlines=_HEADLINES,
        scores=_by_split(outcome["metrics"], report.intervals),
        corpus_scores={corpus: _by_split(metrics, {})[report.split] for corpus, metrics in report.by_corpus.items()},
    )


def _by_split(
    metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]
) -> dict[str, dict[str, dict[str, Interval]]]:
    """Return flat metrics by split, condition and name, in the order of every table."""
    found: dict[str, dict[str, dict[str, Interval]]] = {}
    for split in SPLITS:
        for condition in CONDITIONS:
            start = metric_name(split, condition, "")
            own = {name: value for name, value in metrics.items() if name.startswith(start)}
            if own:
                found.setdefault(split, {})[condition] = {
                    name.removeprefix(start): Interval(value, *intervals.get(name, (np.nan, np.nan)))
                    for name, value in own.items()
                }
    return found


def report_plots(report: TrainingReport) -> Iterator[Plot]:
    """Yield the plots of a report: confusions, learning curves, reliability."""
    for condition in CONDITIONS:
        if condition in report.confusion:
            yield Plot(
                f"confusion_{condition}",
                f"{CONDITION_TITLES[condition]}: percent of each true class",
                f"Confusion matrix of {CONDITION_TITLES[condition]} on {report.split}",
                confusion_figure(report.confusion[condition], report.classes),
            )
    yield from _curve_plots(report)
    if report.reliability:
        yield Plot(
            "reliability",
            f"{report.split}: below the diagonal is overconfident, larger points hold more clips",
            "Stated confidence against the share of right predictions",
            reliability_figure(report.reliability),
        )


def _curve_plots(report: TrainingReport) -> Iterator[Plot]:
    for metric, title, is_share in _CURVES:
        curves = [
            _curve(report, metric_name(VALIDATION, condition, metric), CONDITION_TITLES[condition], condition)
            for condition in CONDITIONS
        ]
        if metric == "loss":
            curves.append(_curve(report, _TRAIN_LOSS, "training, all objectives", ""))
        curves = [curve for curve in curves if curve.values]
        if curves:
            yield Plot(
                f"curve_{metric}",
                f"validation {title} by epoch",
                f"Curves of validation {title} over {len(report.history)} epochs",
                curves_figure(curves, title, best_epoch=report.best_epoch, percent=is_share),
            )


def _curve(report: TrainingReport, name: str, label: str, condition: str) -> Curve:
    points = [(entry["epoch"], entry[name]) for entry in report.history if entry.get(name) is not None]
    return Curve(label, [epoch for epoch, _ in points], [value for _, value in points], condition)


def scores_by_corpus(
    predictions: pa.Table, split: str, corpora: Sequence[str], classes: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Return the metrics of each corpus, named like those of the whole split; nothing for a single corpus.

    ``corpora``: of the store; one without clips in the split is left out. ``classes``: empty for attributes.
    """
    found: dict[str, dict[str, float]] = {}
    for corpus in corpora if len(corpora) > 1 else ():
        for condition in CONDITIONS:
            is_own = pc.and_(pc.equal(predictions["corpus"], corpus), pc.equal(predictions["condition"], condition))
            rows = predictions.filter(is_own)
            if rows.num_rows:
                scores = {**_scores(rows, classes), "clips": float(rows.num_rows)}
                named = {metric_name(split, condition, name): value for name, value in scores.items()}
                found.setdefault(corpus, {}).update(named)
    return found


def _scores(rows: pa.Table, classes: tuple[str, ...]) -> dict[str, float]:
    prefix = "predicted_"
    attributes = (name for name in rows.column_names if name.startswith(prefix))
    names = classes or tuple(name.removeprefix(prefix) for name in attributes)
    predicted, target = _columns(rows, "predicted", names), _columns(rows, "target", names)
    return class_scores(predicted, target) if classes else attribute_scores(predicted, target, names)


def epoch_history(journal: Journal) -> list[dict[str, Any]]:
    """Return the metrics of each epoch with the mean loss of its steps.

    A resumed run reports steps and epochs a second time: the last account of each counts, once.
    A step whose loss is missing (not finite) does not enter the mean, nor does one whose record was damaged.
    """
    losses: dict[int, Any] = {}
    epochs: dict[int, Record] = {}
    for record in journal.read():
        step, epoch = record.payload.get("step"), record.payload.get("epoch")
        if record.kind == "step" and isinstance(step, int):
            losses[step] = record.metrics.get("train/loss/total")
        elif record.kind == "epoch" and isinstance(step, int) and isinstance(epoch, int):
            epochs[epoch] = record
    history = []
    start = 0
    for epoch, record in sorted(epochs.items()):
        end = record.payload["step"]
        known = [loss for step in range(start, end) if isinstance(loss := losses.get(step), int | float)]
        mean = {"train/loss/total": sum(known) / len(known)} if known else {}
        history.append({"epoch": epoch, "step": end, **mean, **record.metrics})
        start = end
    return history


def _columns(rows: pa.Table, prefix: str, names: tuple[str, ...]) -> NDArray[np.float64]:
    return np.stack([rows[f"{prefix}_{name}"].to_numpy() for name in names], axis=1)


def references_of(manifest: Manifest) -> list[ReferenceScore]:
    """Return the reference scores of the corpus that belong to the chosen set of labels."""
    known = manifest.metadata.get("yardsticks", [])
    return [
        ReferenceScore(note["name"], note["accuracy_percent"], note["protocol"])
        for note in known
        if note.get("labels") in (None, manifest.label_set)
    ]


def _facts(plan: TrainingPlan, outcome: Mapping[str, Any]) -> dict[str, Any]:
    training = plan.training
    return {
        "network": f"{outcome['parameters'] / 1e6:.2f} M parameters, width {plan.model.width}",
        **({"learned weights of layers": layers} if (layers := layer_words(outcome)) else {}),
        "frozen for want of clips": ", ".join(outcome["frozen_parts"]) or "none",
        **{f"training clips, {name}": line for name, line in outcome["partitions"].items()},
        "rows per step": ", ".join(f"{rows} {name}" for name, rows in outcome["rows_per_step"].items()),
        "objectives": ", ".join(plan.objectives.in_words()),
        "weights kept": (
            chosen_words(outcome)
            if training.average_decay is None
            else f"{chosen_words(outcome)}; running average of the weights, decay {training.average_decay:g}"
        ),
        "optimizer steps": f"{outcome['steps']} in {outcome['epochs']} epochs",
        "workers": f"{outcome['workers']}, ZeRO stage {outcome['zero_stage']}, {training.precision}",
        "seed": training.seed,
        "speed": f"{outcome['clips_per_second']:.0f} clips per second of training",
        "configuration hash": outcome["config_hash"],
        "feature store hash": outcome["store_hash"],
    }


def _notes(plan: TrainingPlan, outcome: Mapping[str, Any]) -> list[str]:
    if plan.training.refit:
        why = f"; validation chose their number in {plan.training.refit_from}" if plan.training.refit_from else ""
        test = "was measured once, with these weights" if plan.evaluation.test else "was not measured (evaluation.test)"
        speakers = "the validation speakers were trained on and not measured"
        return [f"Refit for {outcome['refit_steps']} steps{why}: {speakers}; the test split {test}."]
    chosen = f"Epoch {outcome['best_epoch']} was chosen by {', '.join(plan.evaluation.select_by)}"
    if plan.evaluation.test:
        return [f"{chosen}; the test split was measured once, with the weights of that epoch."]
    return [f"{chosen}, so validation scores are optimistic; the test split was not measured (evaluation.test)."]
