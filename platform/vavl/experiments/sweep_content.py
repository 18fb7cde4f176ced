"""What the report of a sweep states, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SweepAxis:
    """A searched setting: its dotted path, its values in order for choices, and how numbers are spread."""

    path: str
    choices: Sequence[Any] = ()
    is_log: bool = False

    @property
    def title(self) -> str:
        """The last two parts of the path, on two lines."""
        return ".\n".join(self.path.split(".")[-2:])


@dataclass(frozen=True)
class SweepTrial:
    """One trial.

    Attributes:
        number: from 0.
        state: finished, pruned or failed.
        point: values by dotted path.
        scores: of the objectives, in their order; None where one was not measured.
        epochs_run: trained epochs.
        epochs_full: epochs without a stop.
        seconds: of its last attempt.
        reason: why it was stopped or failed.
    """

    number: int
    state: str
    point: Mapping[str, Any]
    scores: Sequence[float | None]
    epochs_run: int
    epochs_full: int
    seconds: float
    reason: str = ""

    @property
    def score(self) -> float | None:
        """Of the first objective."""
        return self.scores[0] if self.scores else None


@dataclass(frozen=True)
class SweepReport:
    """Everything that the report of a sweep shows.

    Attributes:
        title: of the page.
        corpus: name of the corpus.
        objectives: titles, e.g. ``validation audio_video accuracy``.
        signs: by objective: 1 where more is better, else -1.
        is_share: the first objective is a share, shown in percent.
        axes: what was searched.
        trials: by number.
        best: number of the best trial, None when none has finished.
        base: number of the trial with the training configuration's own values, None where there is none.
        front: trials that no other beats in every objective.
        importances: share of each setting in what the first objective varies by; empty when too few finished.
        facts: what else to state, in this order.
        waived_audit: checks of the store's audit that were waived.
        speaker_normalisation: features were normalised by unlabelled clips of each speaker.
    """

    title: str
    corpus: str
    objectives: Sequence[str]
    signs: Sequence[int]
    is_share: bool
    axes: Sequence[SweepAxis]
    trials: Sequence[SweepTrial]
    best: int | None
    base: int | None
    front: Sequence[int] = ()
    importances: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    waived_audit: Sequence[str] = ()
    speaker_normalisation: bool = False

    @property
    def scored(self) -> list[SweepTrial]:
        """Trials with a score of the first objective."""
        return [trial for trial in self.trials if trial.score is not None and trial.state != "failed"]

    @property
    def epochs(self) -> tuple[int, int]:
        """Trained epochs, and epochs without a stop; failed trials left out."""
        counted = [trial for trial in self.trials if trial.state != "failed"]
        return sum(trial.epochs_run for trial in counted), sum(trial.epochs_full for trial in counted)

    def trial(self, number: int) -> SweepTrial:
        """Return a trial."""
        return next(trial for trial in self.trials if trial.number == number)

    def text(self, score: float | None) -> str:
        """Return a score of the first objective as it is to be read."""
        if score is None:
            return "-"
        return f"{100 * score:.1f}" if self.is_share else f"{score:.3f}"
