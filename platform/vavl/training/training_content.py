"""What the report of a training states, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vavl.metrics.names import TEST, VALIDATION
from vavl.reports.pictures import ReliabilityBins


@dataclass(frozen=True)
class YardstickNote:
    """A result to hold the own one against; ``accuracy_percent`` from 0 to 100."""

    name: str
    accuracy_percent: float
    protocol: str = ""


@dataclass(frozen=True)
class EventNote:
    """Something that happened to a run; ``step`` is None where none is concerned."""

    moment: str
    step: int | None
    text: str
    facts: str = ""


@dataclass(frozen=True)
class TrainingReport:
    """Everything that the report of a training shows.

    Attributes:
        title: of the page, e.g. "demo: VAVL, fold 0".
        corpus: name of the corpus.
        protocol: name of the split protocol, with the fold.
        label_target: what the labels mean, e.g. "intended emotion".
        speaker_normalisation: features were normalised by unlabelled clips of each speaker, test
            speakers included; marked at the top of the page.
        clips: clips by split.
        speakers: speakers by split.
        metrics: flat, ``<split>/<condition>/<metric>``; shares from 0 to 1.
        history: one mapping per epoch: ``epoch`` and metrics.
        classes: in the order of the confusion matrices; empty for attributes.
        confusion: counts (true class, predicted class) by condition, of ``confusion_split``.
        confusion_split: split of ``confusion`` and ``reliability``.
        reliability: by condition.
        intervals: 95 % intervals by metric name, with the unit of ``metrics``.
        by_corpus: metrics of ``confusion_split`` for each corpus of a merged store; empty for one corpus.
        best_epoch: that the metrics belong to.
        yardsticks: published or known results; chance is added by itself.
        facts: what else to state (model, hashes, settings), in this order.
        notes: sentences for the end of the page.
        events: what happened to the run, in order: restarts, skipped steps and the like.
        waived_audit: checks of the store's audit that were waived; marked at the top of the page.
    """

    title: str
    corpus: str
    protocol: str
    label_target: str
    speaker_normalisation: bool
    clips: Mapping[str, int]
    speakers: Mapping[str, Sequence[str]]
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, Any]]
    classes: Sequence[str] = ()
    confusion: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    confusion_split: str = TEST
    reliability: Mapping[str, ReliabilityBins] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    by_corpus: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    best_epoch: int | None = None
    yardsticks: Sequence[YardstickNote] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    events: Sequence[EventNote] = ()
    waived_audit: Sequence[str] = ()

    @property
    def headline_split(self) -> str | None:
        """The split whose scores head the page: test if it was measured, else validation."""
        measured = {name.split("/")[0] for name in self.metrics}
        return next((split for split in (TEST, VALIDATION) if split in measured), None)
