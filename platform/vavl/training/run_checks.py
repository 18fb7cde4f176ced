"""What objectives and the metrics that choose the epoch ask of the clips, checked before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from vavl.data.collection import ClipCollection
from vavl.data.partitions import Partition, PartitionedClips
from vavl.errors import ConfigError, InputError
from vavl.features import ModalityInfo
from vavl.metrics.names import MODALITIES_OF
from vavl.models.settings import AttributeTask, ClassTask, NetworkSettings, Task
from vavl.objectives.settings import HgrSettings, LadderSettings, PseudoLabelSettings
from vavl.training.settings import TrainingPlan

_NEEDS = {
    "audio_video": (("audio", "video"), False, "both audio and video"),
    "audio_label": (("audio",), True, "audio and a label"),
    "video_label": (("video",), True, "video and a label"),
}


def check_objectives(
    plan: TrainingPlan, partitioned: PartitionedClips, composition: Mapping[Partition, int], task: Task
) -> list[str]:
    """Refuse objectives that no training clip could feed.

    Returns:
        Warnings: what can be trained and will hardly help.

    Raises:
        ConfigError: an objective has weight and no clips, or does not fit the network or the task.
    """
    objectives, warnings = plan.objectives, list(_warnings(plan, composition))
    if objectives.hgr is not None and objectives.hgr.weight > 0:
        _check_hgr(objectives.hgr, partitioned)
    if objectives.contrastive is not None and objectives.contrastive.weight > 0:
        _check_contrastive(composition)
    if objectives.ladder is not None:
        _check_ladder(objectives.ladder, plan.model)
    if objectives.pseudo_label is not None:
        _check_pseudo_label(plan, objectives.pseudo_label, partitioned, task)
    return warnings


def check_layers(plan: TrainingPlan, info: Mapping[str, ModalityInfo]) -> None:
    """Refuse learned weights of layers for a store, whose ``info`` by modality is given, that keeps none.

    Raises:
        ConfigError: no modality has frames of several layers.
    """
    if plan.model.layer_weights and all(one.layers == 1 for one in info.values()):
        found = ", ".join(f"{modality}: {one.extractor}" for modality, one in info.items())
        raise ConfigError(
            "model",
            "layer_weights",
            f"is true, but no frame of {plan.data.store} holds several layers of a network ({found})",
            "make a store with features.audio.keep_layers: true, a range of layers and no pooling (one extractor "
            "alone), or set model.layer_weights: false",
        )


def hgr_feeds(partitioned: PartitionedClips, settings: HgrSettings) -> frozenset[str]:
    """Name the pairs of soft-HGR that have weight and clips."""
    return frozenset(
        pair
        for pair, (modalities, needs_label, _) in _NEEDS.items()
        if settings.weight * getattr(settings, pair) > 0 and partitioned.feed(*modalities, with_label=needs_label)
    )


def _check_hgr(settings: HgrSettings, partitioned: PartitionedClips) -> None:
    fed = hgr_feeds(partitioned, settings)
    for pair, (_, _, what) in _NEEDS.items():
        if getattr(settings, pair) > 0 and pair not in fed:
            fix = f"set objectives.hgr.{pair}=0, or change data.partitions"
            raise ConfigError("objectives", f"hgr.{pair}", f"has weight, but no training clip has {what}", fix)


def _warnings(plan: TrainingPlan, composition: Mapping[Partition, int]) -> Iterator[str]:
    kind, hgr, size = plan.features.speaker_normalisation, plan.objectives.hgr, plan.model.correlation_size
    for name, view in (("augmentation", plan.data.augmentation), ("weak_view", plan.data.weak_view)):
        if view.speaker_exchange and kind != "none":
            yield (
                f"data.{name}.speaker_exchange {view.speaker_exchange:g} changes nothing: "
                f"features.speaker_normalisation {kind} takes the speakers' means out of the clips; "
                "set one of the two to 0 or none"
            )
    pairs = _pairs(composition)
    if hgr is not None and hgr.weight > 0 and hgr.audio_video != 0 and size >= pairs:
        yield (
            f"model.correlation_size {size} is not below the {pairs} pairs of a global batch: soft-HGR can reach "
            f"its bound {min(size, pairs - 1) / 2:g} on independent data there; lower it, or raise "
            "data.composition.batch_size"
        )


def _pairs(composition: Mapping[Partition, int]) -> int:
    """Count the clips of a global batch with both audio and video."""
    return sum(rows for name, rows in composition.items() if len(name.modalities) == 2)


def _check_contrastive(composition: Mapping[Partition, int]) -> None:
    pairs = _pairs(composition)
    if pairs < 2:
        raise ConfigError(
            "objectives",
            "contrastive.weight",
            f"has weight, but a global batch has {pairs} clips with both audio and video, and none to compare with",
            "set objectives.contrastive=null, or raise data.composition.batch_size or the share of pairs",
        )


def _check_ladder(settings: LadderSettings, model: NetworkSettings) -> None:
    layers = model.ladder_layers
    if model.subsampling > 1:
        problem = f"rebuilds layers of one length, and model.subsampling is {model.subsampling}"
        raise ConfigError("objectives", "ladder", problem, "set model.subsampling: 1, or objectives.ladder: null")
    given = settings.layer_weights
    if given is not None and len(given) != layers:
        fix = "give one for the input frames and one for every modality block and shared block, or null"
        raise ConfigError("objectives", "ladder.layer_weights", f"has {len(given)} numbers for {layers} layers", fix)


def _check_pseudo_label(
    plan: TrainingPlan, settings: PseudoLabelSettings, partitioned: PartitionedClips, task: Task
) -> None:
    if settings.kind == "hard" and not isinstance(task, ClassTask):
        problem = "is hard, which labels classes, but data.target is attributes"
        fix = "set objectives.pseudo_label.kind=soft and leave out threshold"
        raise ConfigError("objectives", "pseudo_label.kind", problem, fix)
    if settings.weight > 0 and settings.predictions is None and all(name.is_labelled for name in partitioned.clips):
        fix = "set objectives.pseudo_label=null, or data.partitions.labelled_fraction below 1"
        raise ConfigError("objectives", "pseudo_label.weight", "has weight, but every training clip has a label", fix)
    if settings.teacher == "average" and plan.training.average_decay is None:
        problem = "is average, but no average of the weights is kept"
        fix = "set training.average_decay, e.g. 0.99, or objectives.pseudo_label.teacher=self"
        raise ConfigError("objectives", "pseudo_label.teacher", problem, fix)


def check_selection(
    plan: TrainingPlan,
    collection: ClipCollection,
    validation: NDArray[np.int64],
    partitioned: PartitionedClips,
    task: Task,
) -> list[str]:
    """Refuse metrics that choose the epoch and that mean nothing.

    Returns:
        A warning for each condition that is measured although no labeled training clip has it.

    Raises:
        ConfigError: a name is no metric of the task, or no metric is of a condition that is trained.
        InputError: no validation clip has the modalities of a metric.
    """
    known = _selecting_metrics(task)
    for name in plan.evaluation.select_by:
        _, condition, metric = name.split("/")
        if metric not in known:
            fix = f"choose one that ends in {', '.join(known)}"
            raise ConfigError("evaluation", "select_by", f"{name} is no metric of which more is better", fix)
        if not _present(condition, collection, validation).any():
            problem = "no validation clip has these modalities"
            fix = "choose metrics of a condition that the corpus has"
            raise InputError(str(plan.data.store), f"evaluation.select_by {name}", problem, fix)
    return _untrained(plan, collection, validation, partitioned)


def labelled_conditions(partitioned: PartitionedClips) -> tuple[str, ...]:
    """Name the conditions whose heads some labeled training clip feeds."""
    return tuple(name for name, sides in MODALITIES_OF.items() if partitioned.feed(*sides, with_label=True))


def _untrained(
    plan: TrainingPlan, collection: ClipCollection, validation: NDArray[np.int64], partitioned: PartitionedClips
) -> list[str]:
    trained = labelled_conditions(partitioned)
    missing = [condition for condition in MODALITIES_OF if condition not in trained]
    selecting = [name.split("/")[1] for name in plan.evaluation.select_by]
    if set(selecting) <= set(missing):
        raise ConfigError(
            "evaluation",
            "select_by",
            f"{', '.join(plan.evaluation.select_by)}: no labeled training clip has "
            f"{_words(selecting[0])}, so its scores mean nothing",
            f"choose metrics of a trained condition ({', '.join(trained) or 'none'}), or change data.partitions",
        )
    return [
        f"no labeled training clip has {_words(condition)}, but validation clips have: scores of {condition} "
        "come from weights that are never trained and mean nothing"
        + (", also in evaluation.select_by" if condition in selecting else "")
        for condition in missing
        if _present(condition, collection, validation).any()
    ]


def _present(condition: str, collection: ClipCollection, validation: NDArray[np.int64]) -> NDArray[np.bool_]:
    sides = [collection.has(modality, validation) for modality in MODALITIES_OF[condition]]
    present: NDArray[np.bool_] = np.logical_and.reduce([*sides, collection.is_labelled[validation]])
    return present


def _words(condition: str) -> str:
    return " and ".join(MODALITIES_OF[condition])


def _selecting_metrics(task: Task) -> tuple[str, ...]:
    match task:
        case ClassTask():
            return ("accuracy", "f1_macro", "f1_micro", "uar")
        case AttributeTask(attributes=names):
            return ("ccc_mean", *(f"ccc_{name}" for name in names))
