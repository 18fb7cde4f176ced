"""The content of an evaluation's report, with every part that there can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from vavl.evaluation.degradation import Degradation
from vavl.evaluation.evaluation import Evaluation, Measured, Standing
from vavl.evaluation.report import write_report
from vavl.evaluation.scores import ConditionScores, LengthScores
from vavl.evaluation.settings import EvaluationPlan
from vavl.metrics.paired import Interval
from vavl.metrics.scores import scores_of_classes
from vavl.models.settings import AttributeTask, ClassTask
from vavl.training.evaluation import SplitPredictions

CLASSES = ("joy", "<anger>")
COUNTS = np.array([[8, 2], [3, 7]])
SPEAKERS = {"s1": 12, "s2": 8}
RESOLVED: Any = SimpleNamespace(title="demo version 3", address="models:/demo/3", directory="runs/demo")


def evaluation_content() -> Evaluation:
    """Return it: two classes, two speakers, two conditions, two kinds of degradation."""
    names = ("accuracy", "uar", "f1_macro", "calibration_error", "brier", "loss")
    intervals = {name: Interval(0.75, 0.6, 0.9) for name in names}
    metrics = {**dict.fromkeys(names, 0.75), "clips": 20.0, "speakers": 2.0}
    of_speakers = {"audio_video": {"s1": 0.8, "s2": 0.7}, "audio": {"s1": 0.75}}
    scores = {
        condition: ConditionScores(
            metrics,
            intervals,
            COUNTS,
            scores_of_classes(COUNTS),
            {name: {"accuracy": value, "clips": float(SPEAKERS[name])} for name, value in found.items()},
        )
        for condition, found in of_speakers.items()
    }
    degraded = [
        _degraded(kind, level, conditions, value, change)
        for kind, conditions in (("noise", ("audio", "audio_video")), ("shift", ("audio_video",)))
        for level, value, change in (
            ("20 dB", 0.7, Interval(-0.05, -0.1, 0.02)),
            ("0 dB", 0.5, Interval(-0.25, -0.3, -0.2)),
        )
    ]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(2), size=20)
    return Evaluation(
        plan=EvaluationPlan.model_validate({"output_dir": "out", "model": "runs/demo", "data": {"store": "store"}}),
        model=_model(ClassTask(classes=CLASSES)),
        clips=_clips(),
        whole=Measured(None, _predictions(probabilities, np.eye(2)[np.arange(20) % 2]), scores, {}, {}),
        degraded=tuple(degraded),
        not_measured={"noise_5db": "only features are at hand"},
        standing=Standing(
            ("the epoch that is kept was chosen on all 2 measured speakers",),
            ("the labels mean something else",),
            False,
        ),
        lengths=(
            LengthScores(0.5, 1.25, 9, {"audio": Interval(0.5, 0.4, 0.6)}),
            LengthScores(1.25, 4.0, 11, {name: Interval(0.95, 0.9, 1.0) for name in ("audio", "audio_video")}),
        ),
    )


def attribute_content() -> Evaluation:
    """Return the content of an evaluation of two attributes, from audio alone."""
    names = ("arousal", "valence")
    intervals = {f"{kind}_{name}": Interval(0.4, 0.3, 0.5) for kind in ("ccc", "rmse", "mae") for name in names}
    intervals["ccc_mean"] = Interval(0.4, 0.3, 0.5)
    metrics = {**dict.fromkeys(intervals, 0.4), "clips": 20.0, "speakers": 2.0}
    by_speaker = {name: {"ccc_mean": 0.4, "clips": float(clips)} for name, clips in SPEAKERS.items()}
    values = np.random.default_rng(0).random((20, 2))
    scores = {"audio": ConditionScores(metrics, intervals, None, [], by_speaker)}
    whole = Measured(None, _predictions(values, values), scores, {}, {})
    return replace(evaluation_content(), model=_model(AttributeTask(attributes=names)), whole=whole, degraded=())


def write_content(content: Evaluation, directory: Path) -> Path:
    """Write the report of a content and return the path of its page."""
    return write_report(content, RESOLVED, "", directory)


def _degraded(kind: str, level: str, conditions: tuple[str, ...], value: float, change: Interval) -> Measured:
    score = ConditionScores(
        {"accuracy": value, "clips": 20.0}, {"accuracy": Interval(value, value - 0.1, value + 0.1)}, COUNTS, [], {}
    )
    degradation = Degradation("noise", 0, conditions, f"{kind}_{level}", f"{kind}, {level}", kind, level)
    nothing: Any = None
    changes = dict.fromkeys(conditions, change)
    return Measured(degradation, nothing, dict.fromkeys(conditions, score), changes, {})


def _predictions(predicted: Any, target: Any) -> SplitPredictions:
    names, everything = ("audio_video", "audio", "video"), np.ones(len(target), np.bool_)
    return SplitPredictions(
        np.arange(len(target)), dict.fromkeys(names, predicted), dict.fromkeys(names, everything), target
    )


def _model(task: Any) -> Any:
    modality = SimpleNamespace(trained=True, extractor={"extractor": "log_mel"})
    description = SimpleNamespace(
        task=task,
        speaker_normalisation="none",
        provenance={"corpus": "demo", "protocol": "one fold"},
        network=SimpleNamespace(width=8),
        audio=modality,
        video=modality,
    )
    return SimpleNamespace(description=description)


def _clips() -> Any:
    notes = [{"name": "human raters", "accuracy_percent": 67.0, "protocol": "all clips, voice alone"}]
    manifest = SimpleNamespace(
        corpus="demo", protocol="one fold", target="acted emotion", label_set="", metadata={"yardsticks": notes}
    )
    target = np.eye(2)[np.arange(20) % 2]
    collection = SimpleNamespace(manifest=manifest, store=SimpleNamespace(hash="abc"), target=target)
    return SimpleNamespace(
        selection=SimpleNamespace(split="test"),
        fold=None,
        rows=np.arange(20),
        collection=collection,
        speaker_names=np.repeat(list(SPEAKERS), list(SPEAKERS.values())),
    )
