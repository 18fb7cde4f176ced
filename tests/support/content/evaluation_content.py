"""The content of an evaluation's report, with every part that there can be."""

from __future__ import annotations

import numpy as np

from vavl.evaluation.plots import DegradedScore
from vavl.evaluation.report import EvaluationReport
from vavl.evaluation.scores import LengthScores
from vavl.metrics.paired import Interval
from vavl.metrics.scores import scores_of_classes
from vavl.reports.plots import reliability_bins
from vavl.training.report import ReferenceScore

CLASSES = ("joy", "<anger>")
COUNTS = np.array([[8, 2], [3, 7]])
NOTHING = float("nan")


def evaluation_content() -> EvaluationReport:
    """Return it: two classes, two speakers, two conditions, two kinds of degradation."""
    names = ("accuracy", "uar", "f1_macro", "calibration_error", "brier", "loss")
    scores = {name: Interval(0.75, 0.6, 0.9) for name in names}
    scores |= {name: Interval(20.0, NOTHING, NOTHING) for name in ("clips", "speakers")}
    degraded = [
        DegradedScore(kind, level, condition, Interval(value, value - 0.1, value + 0.1), change, 20)
        for kind, condition in (("noise", "audio"), ("noise", "audio_video"), ("shift", "audio_video"))
        for level, value, change in (
            ("20 dB", 0.7, Interval(-0.05, -0.1, 0.02)),
            ("0 dB", 0.5, Interval(-0.25, -0.3, -0.2)),
        )
    ]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(2), size=30)
    return EvaluationReport(
        model="Evaluation of demo version 3",
        corpus="demo", split="test", protocol="one fold", label_target="acted emotion",
        measure="accuracy", is_share=True,
        scores={"audio_video": scores, "audio": scores},
        outputs=CLASSES,
        confusion={"audio_video": COUNTS, "audio": COUNTS},
        reliability={"audio": reliability_bins(probabilities, np.zeros(30, dtype=np.int64), 15)},
        classes={"audio_video": scores_of_classes(COUNTS)},
        speakers={"audio_video": {"s1": 0.8, "s2": 0.7}, "audio": {"s1": 0.75}},
        speaker_clips={"s1": 12, "s2": 8},
        lengths=[
            LengthScores(0.5, 1.25, 9, {"audio": Interval(0.5, 0.4, 0.6)}),
            LengthScores(1.25, 4.0, 11, {name: Interval(0.95, 0.9, 1.0) for name in ("audio", "audio_video")}),
        ],
        degraded=degraded,
        not_measured={"noise_5db": "only features are at hand"},
        references=[ReferenceScore("human raters", 67.0, "all clips, voice alone")],
        warnings=["the epoch that is kept was chosen on all 2 measured speakers"],
        notes=["the labels mean something else"],
        origin={"corpus": "demo"},
        facts={"store hash": "abc"},
    )  # fmt: skip
