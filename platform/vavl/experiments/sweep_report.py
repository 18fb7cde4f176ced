"""The HTML page of a sweep and its plots: history, settings, importance, epochs, front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vavl.corpora.manifest import Manifest
from vavl.experiments.study import storage_address, study_name
from vavl.experiments.sweep_result import SweepResult
from vavl.experiments.sweep_settings import Axis, ChoiceAxis, name_of
from vavl.experiments.trials import TrialEnd
from vavl.reports.plots import DASHED, LEGEND, PLOTS_DIRECTORY, Plot, legend_below, new_figure, write_plots
from vavl.reports.render import is_share, number, write_page
from vavl.reports.theme import LIGHT
from vavl.store.store_cache import local_store

_ROW_HEIGHT = 0.24
_STATES = {"finished": "trained to its end", "pruned": "stopped early"}
_POINTS = {"s": 32, "edgecolors": LIGHT.audio_video, "linewidths": 1.2}


def titles_of(result: SweepResult) -> list[str]:
    """Return the objectives as they are to be read, e.g. ``validation audio_video accuracy``."""
    return [goal.metric.replace("/", " ").replace("_", " ") for goal in result.plan.objectives]


def sweep_plots(result: SweepResult) -> Iterator[Plot]:
    """Yield the plots that the trials of a sweep allow."""
    titles = titles_of(result)
    if result.scored:
        yield Plot(
            "history",
            f"{titles[0]} of each trial, and the best so far; a hollow point was stopped early",
            "Scores of the trials in their order with a stair of the best so far",
            history_figure(result),
        )
        yield Plot(
            "parallel_coordinates",
            "every line is a trial: its values, and its score at the right; thin lines were stopped early",
            "Trials as lines over one axis per searched setting",
            parallel_figure(result),
        )
    if result.importances:
        yield Plot(
            "importance",
            f"share of each setting in what {titles[0]} varies by (PED-ANOVA); stopped trials count "
            "with the best epoch they reached",
            "Bars of the importance of each searched setting",
            importance_figure(result),
        )
    if result.epochs[1]:
        run, full = result.epochs
        yield Plot(
            "epochs_saved",
            f"epochs of each trial: {run} of {full}, {100 * (1 - run / full):.0f} % saved by stopping early",
            "Bars of the trained epochs of each trial next to the epochs that it would have had",
            epochs_figure(result),
        )
    if len(titles) > 1 and result.front:
        yield Plot(
            "front",
            f"{titles[0]} and {titles[1]}; filled: no other trial is better in every objective",
            "Trials as points over two objectives, the front among them filled",
            front_figure(result),
        )


def history_figure(result: SweepResult) -> Figure:
    """Draw the first objective over the number of the trial."""
    figure, axes = new_figure((5.6, 3.5))
    scale = 100 if is_share(result.plan.objectives[0].metric) else 1
    for state, label in _STATES.items():
        own = [trial for trial in result.scored if trial.state == state]
        if own:
            face = LIGHT.audio_video if state == "finished" else LIGHT.surface
            x, y = [trial.number for trial in own], [scale * _known(result, trial) for trial in own]
            axes.scatter(x, y, zorder=3, **{**_POINTS, "facecolors": face, "label": label})
    finished = [trial for trial in result.scored if trial.state == "finished"]
    if finished:
        sign = result.plan.objectives[0].sign
        best = scale * sign * np.maximum.accumulate([sign * _known(result, trial) for trial in finished])
        numbers = [trial.number for trial in finished]
        axes.step(numbers, best, where="post", color=LIGHT.audio, label="best so far")
    if result.base is not None:
        style = {"color": LIGHT.quiet, "linewidth": 1, "linestyle": DASHED, "label": "the training configuration"}
        axes.axhline(scale * _known(result, result.base), **style)
    axes.set_xlabel("trial")
    axes.set_ylabel(_score_label(result))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=LIGHT.line, linewidth=0.8)
    legend_below(axes, columns=2)
    return figure


def parallel_figure(result: SweepResult) -> Figure:
    """Draw every trial as a line over one vertical axis per searched setting, and one for the score."""
    search, trials, sign = result.plan.search, result.scored, result.plan.objectives[0].sign
    count = len(search)
    figure, axes = new_figure((max(5.6, 1.3 * (count + 1)), 3.8))
    colors = LinearSegmentedColormap.from_list("score", LIGHT.ramp[1:])
    scores = np.array([sign * _known(result, trial) for trial in trials])
    places = (scores - scores.min()) / max(float(np.ptp(scores)), 1e-12)
    points, tried = [result.point(trial) for trial in trials], [result.point(end) for end in result.ends]
    columns = {
        path: _places(axis, [point[path] for point in points], [point[path] for point in tried if path in point])
        for path, axis in search.items()
    }
    lines = zip(*(heights for heights, _ in columns.values()), places.tolist(), strict=True)
    for trial, heights in sorted(zip(trials, lines, strict=True), key=lambda entry: entry[1][-1]):
        width, alpha = (1.8, 1.0) if trial.state == "finished" else (0.9, 0.7)
        style = {"color": colors(heights[-1]), "linewidth": width, "alpha": alpha, "zorder": 2 + heights[-1]}
        axes.plot(range(count + 1), heights, **style)
    ends = {0.0: float(scores.min()), 1.0: float(scores.max())}
    in_percent = is_share(result.plan.objectives[0].metric)
    of_scores = {height: number(sign * score, in_percent) for height, score in ends.items()}
    for position, marks in enumerate((*(marks for _, marks in columns.values()), of_scores)):
        axes.axvline(position, color=LIGHT.quiet, linewidth=0.8)
        for height, text in marks.items():
            axes.text(position + 0.04, height, text, color=LIGHT.text, fontsize=7.5, va="center", zorder=5)
    titles = [*(".\n".join(path.split(".")[-2:]) for path in search), _score_label(result).replace(" ", "\n")]
    axes.set_xticks(range(count + 1), titles, fontsize=7.5)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.1, count + 0.35)
    return figure


def importance_figure(result: SweepResult) -> Figure:
    """Draw the importance of each setting as a bar, the largest at the top."""
    entries = sorted(result.importances.items(), key=lambda entry: entry[1])
    figure, axes = new_figure((5.6, 0.9 + 1.4 * _ROW_HEIGHT * len(entries)))
    axes.barh([name for name, _ in entries], [100 * value for _, value in entries], color=LIGHT.audio_video, height=0.6)
    axes.set_xlabel("share (%)")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=LIGHT.line, linewidth=0.8)
    return figure


def epochs_figure(result: SweepResult) -> Figure:
    """Draw the trained epochs of each trial in front of the epochs that it would have had."""
    trials = [trial for trial in result.ends if trial.epochs_full]
    figure, axes = new_figure((5.6, 0.9 + _ROW_HEIGHT * len(trials)))
    rows = range(len(trials))
    axes.barh(rows, [trial.epochs_full for trial in trials], color=LIGHT.line, height=0.7, label="without a stop")
    for state, color in (("finished", LIGHT.audio_video), ("pruned", LIGHT.audio), ("failed", LIGHT.quiet)):
        own = [(row, trial.epochs_run) for row, trial in zip(rows, trials, strict=True) if trial.state == state]
        if own:
            axes.barh([row for row, _ in own], [epochs for _, epochs in own], color=color, height=0.7, label=state)
    axes.set_yticks(rows, [f"trial {trial.number}" for trial in trials])
    axes.invert_yaxis()
    axes.set_xlabel("epochs")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(axis="y", length=0)
    figure.legend(bbox_to_anchor=(0.5, -0.02), ncols=4, **LEGEND)
    return figure


def front_figure(result: SweepResult) -> Figure:
    """Draw the finished trials over the first two objectives."""
    figure, axes = new_figure((4.6, 4.2))
    for trial in result.scored:
        scores = result.scores(trial)[:2]
        if trial.state != "finished" or None in scores:
            continue
        on_front = trial.number in result.front
        axes.scatter(*scores, **{**_POINTS, "facecolors": LIGHT.audio_video if on_front else LIGHT.surface})
        if on_front:
            place = {"xytext": (5, 4), "textcoords": "offset points"}
            axes.annotate(str(trial.number), scores, **place, color=LIGHT.text, fontsize=8)
    titles = titles_of(result)
    axes.set(xlabel=titles[0], ylabel=titles[1])
    axes.grid(color=LIGHT.line, linewidth=0.8)
    return figure


def _known(result: SweepResult, trial: TrialEnd) -> float:
    score = result.scores(trial)[0]
    assert score is not None
    return score


def _score_label(result: SweepResult) -> str:
    title = titles_of(result)[0]
    return f"{title} (%)" if is_share(result.plan.objectives[0].metric) else title


def _places(axis: Axis, values: Sequence[Any], tried: Sequence[Any]) -> tuple[list[float], dict[float, str]]:
    """Return where values lie on an axis, 0 at the bottom and 1 at the top, and the words next to it.

    A range reaches over the values of all trials, ``tried``.
    """
    if isinstance(axis, ChoiceAxis):
        names = [name_of(value) for value in axis.choices]
        steps = np.linspace(0, 1, len(names)).tolist()
        return [steps[names.index(value)] for value in values], dict(zip(steps, map(str, names), strict=True))
    scale = np.log if axis.log else np.asarray
    low, high = min(tried), max(tried)
    ends = scale([float(low), float(high)])
    heights = (scale([float(value) for value in values]) - ends[0]) / (np.ptp(ends) or 1.0)
    marks = {0.0: f"{low:.3g}", 1.0: f"{high:.3g}"}
    return (heights if high > low else heights + 0.5).tolist(), marks


_TITLES = {
    "history": "History",
    "parallel_coordinates": "Settings and scores",
    "importance": "What decides",
    "epochs_saved": "Epochs saved",
    "front": "Front of the objectives",
}


def write_pages(result: SweepResult) -> list[Path]:
    """Write ``report.html`` and its plots into the directory of the sweep; nothing without a trial.

    Returns:
        The page, and the directory of the plots if there are any.
    """
    if not result.ends:
        return []
    directory, plots = result.plan.output_dir, list(sweep_plots(result))
    write_plots(plots, directory)
    training = result.plans.plan_of(0, {})
    corpus, titles = Manifest.read(local_store(training.data.store)).corpus, titles_of(result)
    sign = result.plan.objectives[0].sign

    def rank(score: float | None) -> float:
        return float("inf") if score is None else -sign * score

    page = write_page(
        directory / "report.html",
        "experiments/sweep.html",
        f"Settings searched on {corpus}",
        f"{', '.join(titles)}; {corpus}",
        result=result,
        training=training,
        titles=titles,
        names=[path.rpartition(".")[2] for path in result.plan.search],
        trials=sorted(result.ends, key=lambda end: rank(result.scores(end)[0])),
        plots={_TITLES[plot.name]: plot for plot in plots},
        facts={"corpus": corpus, **_facts(result)},
        as_text=lambda value: f"{value:.4g}" if isinstance(value, float) else str(value),
        is_share=is_share(result.plan.objectives[0].metric),
    )
    return [page, directory / PLOTS_DIRECTORY] if plots else [page]


def _facts(result: SweepResult) -> dict[str, Any]:
    plan = result.plan
    training = result.plans.plan_of(0, {}).training
    pruner = plan.pruner
    return {
        "training configuration": plan.training,
        "overrides": ", ".join(f"{key}={value}" for key, value in plan.overrides.items()) or "none",
        "sampler": f"{plan.sampler}, seed {plan.seed}",
        "pruner": pruner.kind if pruner.kind == "none" else f"{pruner.kind}, first after {pruner.first_epochs} epochs",
        "longest time of a trial": "any" if plan.seconds_per_trial is None else f"{plan.seconds_per_trial:g} s",
        "workers of a trial": f"{training.least_workers}, {training.engine}, ZeRO {training.zero_stage}",
        "seed of all trials": training.seed,
        "feature store": result.plans.store,
        "study": f"{study_name(plan, result.run_id)} in {storage_address(plan)}",
    }
