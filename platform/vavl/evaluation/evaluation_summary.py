"""The summary of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vavl.config.files import write_json
from vavl.evaluation.evaluation import Evaluation
from vavl.evaluation.report import references
from vavl.evaluation.results import numbers_of
from vavl.evaluation.tracked_evaluation import SUMMARY_FILE
from vavl.serving.model_address import ResolvedModel
from vavl.tracking.journal import clean


def summary_of(evaluation: Evaluation, resolved: ResolvedModel, looks: str) -> dict[str, Any]:
    """Return the content of ``summary.json`` but for what the tracking server adds.

    Keys beside those of ``vavl.evaluation.results.numbers_of``: ``model`` (``address``, ``name``, ``version``,
    ``folder``, ``mlflow_run_id`` of its training, ``provenance``), ``yardsticks`` (``name``,
    ``accuracy_percent``, ``protocol``), ``test_looks`` (how often test was measured before, in words; "" where
    no test clip is measured). After tracking: ``mlflow_run_id`` and ``tracking_complete`` of the evaluation.
    """
    return {
        "model": {
            "address": resolved.address,
            "name": resolved.name,
            "version": resolved.version,
            "folder": str(resolved.folder),
            "mlflow_run_id": resolved.mlflow_run_id,
            "provenance": evaluation.model.description.provenance,
        },
        **numbers_of(evaluation),
        "yardsticks": [
            {"name": one.name, "accuracy_percent": one.accuracy_percent, "protocol": one.protocol}
            for one in references(evaluation)
        ],
        "test_looks": looks,
    }


def write_summary(summary: Mapping[str, Any], folder: Path) -> Path:
    """Write ``summary.json``; a number that is not finite becomes null."""
    path = folder / SUMMARY_FILE
    write_json(path, clean(summary))
    return path
