"""What the metrics that choose the epoch ask of the clips, checked before anything starts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vavl.data.collection import ClipCollection
from vavl.data.partitions import PartitionedClips
from vavl.errors import ConfigError, InputError
from vavl.metrics.names import MODALITIES_OF
from vavl.models.settings import AttributeTask, ClassTask, Task
from vavl.training.settings import TrainingPlan


def check_selection(
    plan: TrainingPlan,
    collection: ClipCollection,
    validation: NDArray[np.int64],
    partitioned: PartitionedClips,
    task: Task,
) -> list[str]:
    """Refuse metrics that choose the epoch and that mean nothing.

    Args:
        plan: the run.
        collection: all clips.
        validation: manifest rows.
        partitioned: training clips that are drawn from.
        task: what is predicted.

    Returns:
        A warning for each condition that is measured although no labelled training clip has it.

    Raises:
        ConfigError: a name is no metric of the task, or no metric is of a condition that is trained.
        InputError: no validation clip has the modalities of a metric.
    """
    known = _selecting_metrics(task)
    for name in plan.evaluation.select_by:
        _, condition, metric = name.split("/")
        if metric not in known:
            raise ConfigError(
                "evaluation", "select_by", f"{name} is no metric of which more is better",
                f"its last part is one of: {', '.join(known)}",
            )  # fmt: skip
        if not _present(condition, collection, validation).any():
            raise InputError(
                str(plan.data.store), f"evaluation.select_by {name}", "no validation clip has these modalities",
                "choose metrics of a condition that the corpus has",
            )  # fmt: skip
    return _untrained(plan, collection, validation, partitioned)


def labelled_conditions(partitioned: PartitionedClips) -> tuple[str, ...]:
    """Name the conditions whose heads some labelled training clip feeds."""
    return tuple(name for name, sides in MODALITIES_OF.items() if partitioned.feed(*sides, with_label=True))


def _untrained(
    plan: TrainingPlan,
    collection: ClipCollection,
    validation: NDArray[np.int64],
    partitioned: PartitionedClips,
) -> list[str]:
    trained = labelled_conditions(partitioned)
    missing = [condition for condition in MODALITIES_OF if condition not in trained]
    if all(name.split("/")[1] in missing for name in plan.evaluation.select_by):
        raise ConfigError(
            "evaluation", "select_by",
            f"{', '.join(plan.evaluation.select_by)}: no labelled training clip has "
            f"{_words(plan.evaluation.select_by[0].split('/')[1])}, so its scores mean nothing",
            f"choose metrics of a trained condition ({', '.join(trained) or 'none'}), or change data.partitions",
        )  # fmt: skip
    return [
        f"no labelled training clip has {_words(condition)}, but validation clips have: scores of {condition} "
        "come from weights that are never trained and mean nothing"
        + (", also in evaluation.select_by" if _selects(plan, condition) else "")
        for condition in missing
        if _present(condition, collection, validation).any()
    ]


def _present(condition: str, collection: ClipCollection, validation: NDArray[np.int64]) -> NDArray[np.bool_]:
    sides = [collection.has(modality)[validation] for modality in MODALITIES_OF[condition]]
    present: NDArray[np.bool_] = np.logical_and.reduce([*sides, collection.is_labelled[validation]])
    return present


def _words(condition: str) -> str:
    return " and ".join(MODALITIES_OF[condition])


def _selects(plan: TrainingPlan, condition: str) -> bool:
    return any(name.split("/")[1] == condition for name in plan.evaluation.select_by)


def _selecting_metrics(task: Task) -> tuple[str, ...]:
    match task:
        case ClassTask():
            return ("accuracy", "f1_macro", "f1_micro", "uar")
        case AttributeTask(attributes=names):
            return ("ccc_mean", *(f"ccc_{name}" for name in names))
