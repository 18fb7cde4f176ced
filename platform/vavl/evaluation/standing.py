"""What the scores of a model on some clips are worth: which of them took part in making the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vavl.corpora.manifest import TRAIN, VALIDATION, Manifest
from vavl.evaluation.measure import MeasuredClips
from vavl.models.saved_model import ModelDescription
from vavl.models.settings import ClassTask

_SHOWN = 8


@dataclass(frozen=True)
class Standing:
    """How the measured clips stand to the model.

    Attributes:
        warnings: what makes the scores too high or hard to compare.
        notes: what a reader should know.
        is_cross_corpus: the clips are of another corpus than the model's.
    """

    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    is_cross_corpus: bool


def standing_of(description: ModelDescription, clips: MeasuredClips) -> Standing:
    """Compare the provenance of a model with the clips that it is measured on."""
    manifest, trained_on = clips.collection.manifest, description.provenance
    is_cross = trained_on.get("corpus") != manifest.corpus
    warnings = list(_cross_corpus(trained_on, manifest) if is_cross else _own_corpus(trained_on, clips))
    notes = [*_labels(trained_on, manifest), *_classes(description, clips)]
    if waived := trained_on.get("waived_audit"):
        warnings.append(f"the training waived checks of the audit of its store: {', '.join(waived)}")
    if clips.left_out:
        notes.append(f"{clips.left_out} labelled clips are left out by data.labels")
    untrained = [name for name in ("audio_video", "audio", "video") if name not in clips.conditions]
    if untrained:
        notes.append(f"no label has trained {', '.join(untrained)}: not measured")
    return Standing(tuple(warnings), tuple(notes), is_cross)


def _cross_corpus(trained_on: dict[str, Any], manifest: Manifest) -> Iterator[str]:
    yield (
        f"the model was trained on corpus {trained_on.get('corpus', 'unknown')}, the clips are of {manifest.corpus}; "
        "whether some of their speakers took part in its training is not known here"
    )


def _own_corpus(trained_on: dict[str, Any], clips: MeasuredClips) -> Iterator[str]:
    manifest = clips.collection.manifest
    if trained_on.get("protocol") != manifest.protocol:
        yield (
            f"the model was trained under the protocol {trained_on.get('protocol')}, the store has "
            f"{manifest.protocol}: its training speakers are not known here and may be among these"
        )
        return
    fold = trained_on.get("fold")
    if fold not in manifest.folds:
        yield f"the model was trained on fold {fold}, which the store does not have: its speakers may be among these"
        return
    split = manifest.split(fold)
    speaker = clips.collection.speaker
    measured = set(speaker[clips.rows].tolist())
    for code, what in (
        (
            TRAIN,
            "the model was trained on {who}: the scores say how well it remembers, not how well it hears others",
        ),
        (VALIDATION, "the epoch that is kept was chosen on {who}: the scores are optimistic"),
    ):
        seen = sorted(
            clips.collection.speakers[one] for one in measured & set(speaker[split == code].tolist())
        )
        if seen:
            yield what.format(who=_who(seen, len(measured)))


def _who(names: list[str], of: int) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    every = "all" if len(names) == of else f"{len(names)} of the"
    return f"{every} {of} measured speakers ({shown})"


def _labels(trained_on: dict[str, Any], manifest: Manifest) -> Iterator[str]:
    meant, here = trained_on.get("label_target"), manifest.target
    if meant != here:
        yield f"the labels mean {here!r}; the model learned {meant!r}"


def _classes(description: ModelDescription, clips: MeasuredClips) -> Iterator[str]:
    if not isinstance(description.task, ClassTask):
        return
    labels = {old: new for old, new in clips.selection.labels.items() if old != new}
    if labels:
        yield "classes of the store: " + ", ".join(
            f"{old} counts as {new}" if new else f"{old} is left out" for old, new in labels.items()
        )
    occurs = np.asarray(clips.collection.target[clips.rows].any(axis=0))
    absent = [name for name, there in zip(description.task.classes, occurs, strict=True) if not there]
    if absent:
        yield f"no measured clip is {', '.join(absent)}; the model may still say so, which counts as wrong"


def chance_and_majority(clips: MeasuredClips) -> tuple[float, float, str]:
    """Return the yard-sticks that every corpus of classes has.

    Returns:
        Share right by guessing evenly among the classes; share right when the most frequent class is always
        said; and among which clips it is the most frequent: the training clips of the fold, or the measured
        ones where there are none.
    """
    target = clips.collection.target
    classes = target.shape[1]
    measured = target[clips.rows].argmax(axis=1)
    counted, whose = measured, "the measured clips"
    if clips.fold is not None:
        training = np.flatnonzero(clips.collection.manifest.split(clips.fold) == TRAIN)
        training = training[clips.collection.is_labelled[training]]
        if len(training):
            counted, whose = target[training].argmax(axis=1), f"the training clips of fold {clips.fold}"
    most = int(np.bincount(counted, minlength=classes).argmax())
    return 1 / classes, float((measured == most).mean()), whose
