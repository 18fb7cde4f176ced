"""What an evaluation leaves as files: predictions and the summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vavl.config.files import write_json, written_beside
from vavl.evaluation.evaluation import Evaluation, Measured
from vavl.evaluation.report import references
from vavl.metrics.names import CONDITIONS, metric_name
from vavl.metrics.scores import CALIBRATION_BINS
from vavl.models.settings import AttributeTask, ClassTask
from vavl.serving.model_address import ResolvedModel
from vavl.tracking.journal import clean

PREDICTIONS_FILE = "predictions.parquet"
SUMMARY_FILE = "summary.json"


def write_predictions(evaluation: Evaluation, directory: Path) -> Path:
    """Write ``predictions.parquet``: one row per clip, condition and degradation ("none" for whole inputs).

    Columns: clip_id, corpus, speaker, split, degradation, condition, label, probability_<class> or one column
    per attribute, true_label and target_<class or attribute>, and error: why a clip could not be degraded, in
    which case its prediction is null.
    """
    tables = [table for measured in (evaluation.whole, *evaluation.degraded) for table in _tables(evaluation, measured)]
    path = directory / PREDICTIONS_FILE
    with written_beside(path) as partial:
        pq.write_table(pa.concat_tables(tables), partial)
    return path


def _tables(evaluation: Evaluation, measured: Measured) -> Iterator[pa.Table]:
    for condition in CONDITIONS if measured.degradation is None else measured.degradation.conditions:
        # Clips that could not be degraded keep their row, with the reason.
        rows = np.flatnonzero(evaluation.whole.predictions.counts[condition])
        if len(rows):
            yield _table(evaluation, measured, condition, rows)


def _table(evaluation: Evaluation, measured: Measured, condition: str, rows: Any) -> pa.Table:
    clips, task = evaluation.clips, evaluation.model.description.task
    predictions = measured.predictions
    predicted, target = predictions.predicted[condition][rows], predictions.target[rows]
    about = clips.collection.manifest.table.select(["clip_id", "corpus"]).take(pa.array(predictions.rows[rows]))
    missing = ~predictions.counts[condition][rows]
    errors = [measured.failed.get(int(row)) for row in predictions.rows[rows]]

    def text(value: str) -> pa.Array:
        return pa.array([value] * len(rows), pa.string())

    columns = {
        "clip_id": about["clip_id"],
        "corpus": about["corpus"],
        "speaker": pa.array(clips.speaker_names[rows].tolist(), pa.string()),
        "split": text(clips.selection.split),
        "degradation": text(measured.name),
        "condition": text(condition),
    }
    match task:
        case ClassTask(classes=names):
            labels = np.asarray(names)
            columns["label"] = pa.array(labels[predicted.argmax(axis=1)].tolist(), pa.string(), mask=missing)
            values = {f"probability_{name}": place for place, name in enumerate(names)}
            columns["true_label"] = pa.array(labels[target.argmax(axis=1)].tolist(), pa.string())
        case AttributeTask(attributes=names):
            columns["label"] = columns["true_label"] = pa.nulls(len(rows), pa.string())
            values = {name: place for place, name in enumerate(names)}
    columns |= {name: pa.array(predicted[:, place], mask=missing) for name, place in values.items()}
    columns |= {f"target_{name}": pa.array(target[:, place]) for place, name in enumerate(names)}
    return pa.table({**columns, "error": pa.array(errors, pa.string())})


def summary_of(evaluation: Evaluation, resolved: ResolvedModel, test_evaluations: str) -> dict[str, Any]:
    """Return the content of ``summary.json`` but for what the tracking server adds.

    Keys next to those of ``numbers_of``: ``model`` (``address``, ``name``, ``version``,
    ``folder``, ``mlflow_run_id`` of its training, ``provenance``), ``yardsticks`` (``name``,
    ``accuracy_percent``, ``protocol``), ``test_looks`` (how often test was measured before, in words; "" where
    no test clip is measured). After tracking: ``mlflow_run_id`` and ``tracking_complete`` of the evaluation.
    """
    named = {name: getattr(resolved, name) for name in ("address", "name", "version", "mlflow_run_id")}
    provenance = evaluation.model.description.provenance
    return {
        "model": {**named, "folder": str(resolved.directory), "provenance": provenance},
        **numbers_of(evaluation),
        "yardsticks": [asdict(one) for one in references(evaluation)],
        "test_looks": test_evaluations,
    }


def write_summary(summary: Mapping[str, Any], directory: Path) -> Path:
    """Write ``summary.json``; a number that is not finite becomes null."""
    path = directory / SUMMARY_FILE
    write_json(path, clean(summary))
    return path


def numbers_of(evaluation: Evaluation) -> dict[str, Any]:
    """Return the part of ``summary.json`` that the measurement decides; numbers may be NaN.

    Keys: ``metrics`` (flat: ``<split>/<condition>/<metric>``, degraded inputs ``...:<degradation>``),
    ``intervals`` (95 %, [low, high], same names; of degraded inputs the main measure's), ``differences``
    (degraded minus whole of the main measure, paired over speakers: value, low, high), ``classes`` and
    ``speakers`` (scores by condition, of whole inputs), ``confusion`` (counts by condition, true class by
    row), ``calibration_bins``, and what they belong to: ``corpus``, ``store_hash``, ``protocol``, ``fold``,
    ``split``, ``label_set``, ``label_target``, ``clips``, ``conditions``, ``outputs``, ``is_cross_corpus``,
    ``speaker_normalisation``; ``lengths`` (main measure by length: low_s, high_s, clips, scores by condition);
    ``warnings``, ``notes``, ``not_measured`` (why, by degradation) and ``failed``
    (why, by degradation and clip).
    """
    clips, description = evaluation.clips, evaluation.model.description
    manifest, split = clips.collection.manifest, clips.selection.split
    whole, names = evaluation.whole.scores, evaluation.outputs
    return {
        "corpus": manifest.corpus,
        "store_hash": clips.collection.store.hash,
        "protocol": manifest.protocol,
        "fold": clips.fold,
        "split": split,
        "label_set": manifest.label_set,
        "label_target": manifest.target,
        "clips": len(clips.rows),
        "conditions": list(clips.conditions),
        "outputs": list(names),
        "is_cross_corpus": evaluation.standing.is_cross_corpus,
        "speaker_normalisation": description.speaker_normalisation,
        "metrics": evaluation.metrics(),
        "intervals": {
            metric_name(split, condition, name) + measured.suffix: [interval.low, interval.high]
            for measured in (evaluation.whole, *evaluation.degraded)
            for condition, scores in measured.scores.items()
            for name, interval in scores.intervals.items()
        },
        "differences": {
            metric_name(split, condition, evaluation.main_measure) + measured.suffix: asdict(interval)
            for measured in evaluation.degraded
            for condition, interval in measured.differences.items()
        },
        "calibration_bins": CALIBRATION_BINS,
        "confusion": {name: one.confusion.tolist() for name, one in whole.items() if one.confusion is not None},
        "classes": {
            condition: {name: asdict(one) for name, one in zip(names, scores.classes, strict=True)}
            for condition, scores in whole.items()
            if scores.classes
        },
        "speakers": {condition: scores.by_speaker for condition, scores in whole.items()},
        "lengths": [asdict(one) for one in evaluation.lengths],
        "warnings": list(evaluation.standing.warnings),
        "notes": list(evaluation.standing.notes),
        "not_measured": dict(evaluation.not_measured),
        "failed": {
            measured.name: {clips.clip_id(row): reason for row, reason in measured.failed.items()}
            for measured in evaluation.degraded
            if measured.failed
        },
    }
