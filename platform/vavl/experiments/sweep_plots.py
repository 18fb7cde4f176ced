"""What the report of a sweep states, as plain values, and its plots: history, settings, importance, epochs, front."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vavl.reports.plots import Plot, legend_below, new_figure
from vavl.reports.theme import LIGHT

_ROW_HEIGHT = 0.24
_STATES = {"finished": "trained to its end", "pruned": "stopped early"}


@dataclass(frozen=True)
class SweepAxis:
    """A searched setting: its dotted path, its values in order for choices, and how numbers are spread."""

    path: str
    choices: Sequence[Any] = ()
    is_log: bool = False

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

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
        speaker_normalisation: features were normalized by unlabeled clips of each speaker.
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


def sweep_plots(report: SweepReport) -> Iterator[Plot]:
    """Yield the plots that the trials of a sweep allow."""
    if report.scored:
        yield Plot(
            "history",
            f"{report.objectives[0]} of each trial, and the best so far; a hollow point was stopped early",
            "Scores of the trials in their order with a stair of the best so far",
            history_figure(report),
        )
        yield Plot(
            "parallel_coordinates",
            "every line is a trial: its values, and its score at the right; thin lines were stopped early",
            "Trials as lines over one axis per searched setting",
            parallel_figure(report),
        )
    if report.importances:
        yield Plot(
            "importance",
            f"share of each setting in what {report.objectives[0]} varies by (PED-ANOVA); stopped trials count "
            "with the best epoch they reached",
            "Bars of the importance of each searched setting",
            importance_figure(report),
        )
    if report.epochs[1]:
        run, full = report.epochs
        yield Plot(
            "epochs_saved",
            f"epochs of each trial: {run} of {full}, {100 * (1 - run / full):.0f} % saved by stopping early",
            "Bars of the trained epochs of each trial next to the epochs that it would have had",
            epochs_figure(report),
        )
    if len(report.objectives) > 1 and report.front:
        yield Plot(
            "front",
            f"{report.objectives[0]} and {report.objectives[1]}; filled: no other trial is better in every objective",
            "Trials as points over two objectives, the front among them filled",
            front_figure(report),
        )


def history_figure(report: SweepReport) -> Figure:
    """Draw the first objective over the number of the trial."""
    figure, axes = new_figure((5.6, 3.5))
    scale = 100 if report.is_share else 1
    for state, label in _STATES.items():
        own = [trial for trial in report.scored if trial.state == state]
        if own:
            face = LIGHT.audio_video if state == "finished" else LIGHT.surface
            axes.scatter(
                [trial.number for trial in own],
                [scale * _known(trial) for trial in own],
                s=30,
                zorder=3,
                edgecolors=LIGHT.audio_video,
                facecolors=face,
                linewidths=1.2,
                label=label,
            )
    finished = [trial for trial in report.scored if trial.state == "finished"]
    if finished:
        best = report.signs[0] * np.maximum.accumulate(
            [report.signs[0] * _known(trial) for trial in finished]
        )
        axes.step(
            [trial.number for trial in finished],
            scale * best,
            where="post",
            color=LIGHT.audio,
            label="best so far",
        )
    if report.base is not None:
        axes.axhline(
            scale * _known(report.trial(report.base)),
            color=LIGHT.quiet,
            linewidth=1,
            linestyle=(0, (3, 3)),
            label="the training configuration",
        )
    axes.set_xlabel("trial")
    axes.set_ylabel(_score_label(report))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=LIGHT.line, linewidth=0.8)
    legend_below(axes, columns=2)
    return figure


def parallel_figure(report: SweepReport) -> Figure:
    """Draw every trial as a line over one vertical axis per searched setting, and one for the score."""
    count = len(report.axes)
    figure, axes = new_figure((max(5.6, 1.3 * (count + 1)), 3.8))
    colors = LinearSegmentedColormap.from_list("score", LIGHT.ramp[1:])
    scores = np.array([report.signs[0] * _known(trial) for trial in report.scored])
    places = (scores - scores.min()) / max(float(np.ptp(scores)), 1e-12)
    for trial, place in sorted(zip(report.scored, places, strict=True), key=lambda entry: float(entry[1])):
        heights = [*(_height(axis, trial, report.trials) for axis in report.axes), float(place)]
        is_done = trial.state == "finished"
        axes.plot(
            range(count + 1),
            heights,
            color=colors(place),
            linewidth=1.8 if is_done else 0.9,
            alpha=1.0 if is_done else 0.7,
            zorder=2 + place,
        )
    for position, axis in enumerate(report.axes):
        axes.axvline(position, color=LIGHT.quiet, linewidth=0.8)
        for height, text in _marks(axis, report.trials):
            axes.text(position + 0.04, height, text, color=LIGHT.text, fontsize=7.5, va="center", zorder=5)
    axes.axvline(count, color=LIGHT.quiet, linewidth=0.8)
    ends = sorted((float(scores.min()), float(scores.max())))
    for height, score in zip((0, 1), ends, strict=True):
        axes.text(
            count + 0.04,
            height,
            report.text(report.signs[0] * score),
            color=LIGHT.text,
            fontsize=7.5,
            va="center",
        )
    axes.set_xticks(
        range(count + 1),
        [*(axis.title for axis in report.axes), _score_label(report).replace(" ", "\n")],
        fontsize=7.5,
    )
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.1, count + 0.35)
    return figure


def importance_figure(report: SweepReport) -> Figure:
    """Draw the importance of each setting as a bar, the largest at the top."""
    entries = sorted(report.importances.items(), key=lambda entry: entry[1])
    figure, axes = new_figure((5.6, 0.9 + 1.4 * _ROW_HEIGHT * len(entries)))
    axes.barh(
        [name for name, _ in entries],
        [100 * value for _, value in entries],
        color=LIGHT.audio_video,
        height=0.6,
    )
    axes.set_xlabel("share (%)")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=LIGHT.line, linewidth=0.8)
    return figure


def epochs_figure(report: SweepReport) -> Figure:
    """Draw the trained epochs of each trial in front of the epochs that it would have had."""
    trials = [trial for trial in report.trials if trial.epochs_full]
    figure, axes = new_figure((5.6, 0.9 + _ROW_HEIGHT * len(trials)))
    rows = range(len(trials))
    axes.barh(
        rows, [trial.epochs_full for trial in trials], color=LIGHT.line, height=0.7, label="without a stop"
    )
    for state, color in (("finished", LIGHT.audio_video), ("pruned", LIGHT.audio), ("failed", LIGHT.quiet)):
        own = [
            (row, trial.epochs_run) for row, trial in zip(rows, trials, strict=True) if trial.state == state
        ]
        if own:
            axes.barh(
                [row for row, _ in own], [epochs for _, epochs in own], color=color, height=0.7, label=state
            )
    axes.set_yticks(rows, [f"trial {trial.number}" for trial in trials])
    axes.invert_yaxis()
    axes.set_xlabel("epochs")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(axis="y", length=0)
    figure.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.02),
        ncols=4,
        frameon=False,
        labelcolor=LIGHT.text,
        fontsize=9,
    )
    return figure


def front_figure(report: SweepReport) -> Figure:
    """Draw the finished trials over the first two objectives."""
    figure, axes = new_figure((4.6, 4.2))
    done = [trial for trial in report.scored if trial.state == "finished" and None not in trial.scores[:2]]
    for trial in done:
        on_front = trial.number in report.front
        axes.scatter(
            trial.scores[0],
            trial.scores[1],
            s=34,
            edgecolors=LIGHT.audio_video,
            linewidths=1.2,
            facecolors=LIGHT.audio_video if on_front else LIGHT.surface,
        )
        if on_front:
            axes.annotate(
                str(trial.number),
                (trial.scores[0], trial.scores[1]),
                xytext=(5, 4),
                textcoords="offset points",
                color=LIGHT.text,
                fontsize=8,
            )
    axes.set(xlabel=report.objectives[0], ylabel=report.objectives[1])
    axes.grid(color=LIGHT.line, linewidth=0.8)
    return figure


def _known(trial: SweepTrial) -> float:
    assert trial.score is not None
    return trial.score


def _score_label(report: SweepReport) -> str:
    return f"{report.objectives[0]} (%)" if report.is_share else report.objectives[0]


def _height(axis: SweepAxis, trial: SweepTrial, trials: Sequence[SweepTrial]) -> float:
    """Return the place of a trial's value on its axis, 0 at the bottom and 1 at the top."""
    if axis.choices:
        return _spread(list(axis.choices).index(trial.point[axis.path]), len(axis.choices))
    known = [_number(axis, other) for other in trials if axis.path in other.point]
    low, high = min(known), max(known)
    return (_number(axis, trial) - low) / (high - low) if high > low else 0.5


def _number(axis: SweepAxis, trial: SweepTrial) -> float:
    value = float(trial.point[axis.path])
    return math.log(value) if axis.is_log else value


def _spread(place: int, count: int) -> float:
    return place / (count - 1) if count > 1 else 0.5


def _marks(axis: SweepAxis, trials: Sequence[SweepTrial]) -> Iterator[tuple[float, str]]:
    """Yield the words next to an axis: every choice, or the least and the most that was tried."""
    if axis.choices:
        yield from (
            (_spread(place, len(axis.choices)), str(value)) for place, value in enumerate(axis.choices)
        )
        return
    values: list[Any] = sorted(trial.point[axis.path] for trial in trials if axis.path in trial.point)
    yield 0.0, f"{values[0]:.3g}"
    yield 1.0, f"{values[-1]:.3g}"
