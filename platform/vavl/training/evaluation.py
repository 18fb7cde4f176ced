"""Predictions and scores of a split under the three conditions, exact over ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from vavl.config.files import written_beside
from vavl.data.batch import ClipBatch
from vavl.data.collection import ClipCollection
from vavl.data.loader import RankPlace, evaluation_batches
from vavl.data.normalization import Normaliser
from vavl.errors import TrainingError
from vavl.metrics.names import AUDIO, AUDIO_VIDEO, CONDITIONS, VIDEO, metric_name
from vavl.metrics.scores import attribute_scores, class_scores
from vavl.models.clips import logits_by_condition
from vavl.models.settings import AttributeTask, ClassTask, Task
from vavl.models.vavl import VavlOutput
from vavl.objectives.hgr import soft_hgr
from vavl.objectives.moments import add_moments, moments_under
from vavl.objectives.total import HGR_PAIRS, hgr_moments
from vavl.training.collectives import add_array_over_ranks, add_over_ranks

Forward = Callable[[ClipBatch], VavlOutput]


@dataclass(frozen=True)
class SplitPredictions:
    """What the network says of every labeled clip of a split."""

    rows: NDArray[np.int64]  # (clips,), manifest rows, ascending
    # by condition (clips, outputs): class probabilities or attribute values
    predicted: Mapping[str, NDArray[np.float64]]
    # by condition (clips,): the clip has the condition's modalities and a label
    counts: Mapping[str, NDArray[np.bool_]]
    target: NDArray[np.float64]  # (clips, outputs)
    correlation: Mapping[str, float] = field(default_factory=dict)
    """Soft-HGR over the split by pair of ``HGR_PAIRS``; empty where it is not trained."""


@dataclass(frozen=True)
class EvaluationData:
    """What an evaluation reads."""

    collection: ClipCollection  # the clips
    normaliser: Mapping[str, Normaliser]  # by modality
    task: Task  # what is predicted
    batch_size: int  # clips per rank and forward
    place: RankPlace  # of this rank
    device: torch.device  # where the network is
    correlates: bool = False  # soft-HGR is trained, so it is measured as well


@torch.no_grad()
def predict_split(forward: Forward, data: EvaluationData, rows: NDArray[np.int64]) -> SplitPredictions:
    """Predict the labeled clips among ``rows``. Every rank must call, with the network in evaluation mode.

    One forward gives all three conditions; each clip is seen by exactly one rank.
    """
    rows = np.sort(rows[data.collection.is_labelled[rows]])
    found = np.zeros((len(CONDITIONS), len(rows), data.task.outputs))
    moments: dict[str, torch.Tensor] = {}
    pinned = data.device.type == "cuda"
    for batch in evaluation_batches(data.collection, rows, data.normaliser, data.batch_size, data.place, pinned):
        moved = batch.to(data.device)
        output = forward(moved)
        if data.correlates:
            more = hgr_moments(output, moved)
            moments = add_moments(moments, more) if moments else more
        for condition, (logits, clip) in logits_by_condition(output, batch).items():
            index = batch.index[clip].numpy()
            real = index >= 0
            place = np.searchsorted(rows, index[real])
            found[CONDITIONS.index(condition), place] = logits.numpy()[real]
    found = add_array_over_ranks(found, data.device)
    total = add_over_ranks(moments) if moments else {}
    if isinstance(data.task, ClassTask):
        found = softmax(found, axis=-1)
    has_audio, has_video = data.collection.has("audio", rows), data.collection.has("video", rows)
    counts = {AUDIO_VIDEO: has_audio & has_video, AUDIO: has_audio, VIDEO: has_video}
    return SplitPredictions(
        rows,
        dict(zip(CONDITIONS, found, strict=True)),
        counts,
        data.collection.target[rows].astype(np.float64),
        dict(zip(HGR_PAIRS, soft_hgr(moments_under("hgr", total)).tolist(), strict=True)) if moments else {},
    )


def _check_finite(split: str, condition: str, predicted: NDArray[np.float64]) -> None:
    bad = int((~np.isfinite(predicted).all(axis=-1)).sum())
    if bad:
        fix = "lower training.optimizer.learning_rate, or look at the features: the weights have grown out of bounds"
        raise TrainingError(split, condition, f"the prediction of {bad} of {len(predicted)} clips is not finite", fix)


def score_split(split: str, predictions: SplitPredictions, task: Task) -> dict[str, float]:
    """Return the metrics of a split, named ``<split>/<condition>/<metric>``, with the clips counted.

    Raises:
        TrainingError: a prediction is not finite.
    """
    scores: dict[str, float] = {}
    for condition in CONDITIONS:
        counts = predictions.counts[condition]
        predicted, target = predictions.predicted[condition][counts], predictions.target[counts]
        _check_finite(split, condition, predicted)
        match task:
            case ClassTask():
                found = class_scores(predicted, target)
            case AttributeTask():
                found = attribute_scores(predicted, target, task.attributes)
        if found:
            scores |= {metric_name(split, condition, name): value for name, value in found.items()}
            scores[metric_name(split, condition, "clips")] = float(counts.sum())
    for pair, value in predictions.correlation.items():
        condition = pair.removesuffix("_label")
        name = "soft_hgr" if condition == pair else "soft_hgr_label"
        scores[metric_name(split, condition, name)] = value
    return scores


def save_predictions(
    path: Path, split: str, predictions: SplitPredictions, collection: ClipCollection, task: Task
) -> None:
    """Write one row per clip and condition: clip_id, corpus, speaker, condition, target and predictions."""
    names = task.classes if isinstance(task, ClassTask) else task.attributes
    about = collection.manifest.table.select(["clip_id", "corpus"]).take(pa.array(predictions.rows))
    speakers = [collection.speakers[code] for code in collection.speaker[predictions.rows]]
    tables = []
    for condition in CONDITIONS:
        columns = {
            "clip_id": about["clip_id"],
            "corpus": about["corpus"],
            "speaker": pa.array(speakers, pa.string()),
            "split": pa.array([split] * len(speakers), pa.string()),
            "condition": pa.array([condition] * len(speakers), pa.string()),
        }
        for column, name in enumerate(names):
            columns[f"target_{name}"] = pa.array(predictions.target[:, column])
            columns[f"predicted_{name}"] = pa.array(predictions.predicted[condition][:, column])
        tables.append(pa.table(columns).filter(pa.array(predictions.counts[condition])))
    with written_beside(path) as partial:
        pq.write_table(pa.concat_tables(tables), partial)
