"""The clips that two models are compared on: the same for both, and none that either was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vavl.config.files import sha256_of_json
from vavl.corpora.manifest import TRAIN
from vavl.errors import InputError
from vavl.evaluation.measure import MeasuredClips, open_clips, predict_clips
from vavl.evaluation.settings import ClipSelection
from vavl.models.saved_model import ModelDescription, SavedModel
from vavl.models.settings import ClassTask
from vavl.promotion.contest import Contestant


@dataclass(frozen=True)
class SameClips:
    """The clips of a contest, as each model sees them.

    Attributes:
        by_model: title of a model -> its view, the challenger first; all of the same rows.
        unknown: titles of models that were trained on another corpus: what it shares with this one is not known.
    """

    by_model: Mapping[str, MeasuredClips]
    unknown: tuple[str, ...]

    @property
    def first(self) -> MeasuredClips:
        """The view of the challenger."""
        return next(iter(self.by_model.values()))

    @property
    def speakers(self) -> Sequence[str]:
        """Speaker of each clip."""
        return [str(name) for name in self.first.speaker_names]

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits over the names and the labels of the clips, in their order."""
        clips = self.first
        target = clips.collection.target[clips.rows].tolist()
        return sha256_of_json([clips.collection.manifest.corpus, clips.clip_ids, target])[:16]


def open_same_clips(models: Mapping[str, SavedModel], selection: ClipSelection) -> SameClips:
    """Open the clips of a selection for every model.

    Args:
        models: by title, the challenger first.
        selection: without a fold, that of the challenger.

    Raises:
        InputError: the models predict different things, see different clips, or one was trained on some of them.
        StoreError, ConfigError: see ``open_clips``.
    """
    _check_tasks({title: model.description for title, model in models.items()})
    opened: dict[str, MeasuredClips] = {}
    unknown = []
    for title, model in models.items():
        opened[title] = open_clips(model, selection)
        # The others are to be measured on these very clips, whatever fold they were trained on.
        selection = selection.model_copy(update={"fold": opened[title].fold})
        if not _check_unseen(title, model.description, opened[title]):
            unknown.append(title)
    same = SameClips(opened, tuple(unknown))
    for title, clips in opened.items():
        if not np.array_equal(clips.rows, same.first.rows):
            raise InputError(
                title, "clips", f"is measured on {len(clips.rows)} clips, the challenger on {len(same.first.rows)}",
                "name the labels that both are to be measured on: data.label_set, data.labels",
            )  # fmt: skip
    return same


def predict_same_clips(models: Mapping[str, SavedModel], clips: SameClips) -> dict[str, Contestant]:
    """Let every model predict the clips."""
    return {
        title: Contestant(predict_clips(models[title], own), frozenset(own.conditions))
        for title, own in clips.by_model.items()
    }


def _check_tasks(descriptions: Mapping[str, ModelDescription]) -> None:
    (first, one), *others = ((title, _outputs(entry)) for title, entry in descriptions.items())
    for title, outputs in others:
        if outputs != one:
            raise InputError(
                title, "task", f"predicts {', '.join(sorted(outputs))}; {first} predicts {', '.join(sorted(one))}",
                "register models of other classes or attributes under another name",
            )  # fmt: skip


def _outputs(description: ModelDescription) -> frozenset[str]:
    task = description.task
    return frozenset(task.classes if isinstance(task, ClassTask) else task.attributes)


def _check_unseen(title: str, description: ModelDescription, clips: MeasuredClips) -> bool:
    """Refuse clips that the model was trained on; return whether that can be known."""
    manifest, trained_on = clips.collection.manifest, description.provenance
    fold = trained_on.get("fold")
    if trained_on.get("corpus") != manifest.corpus or fold not in manifest.folds:
        return False
    seen = int((manifest.split(fold)[clips.rows] == TRAIN).sum())
    if seen:
        raise InputError(
            title, "data", f"was trained on {seen} of these {len(clips.rows)} clips (fold {fold})",
            "choose data.split=test, or the fold that both models were trained on: data.fold",
        )  # fmt: skip
    return True
