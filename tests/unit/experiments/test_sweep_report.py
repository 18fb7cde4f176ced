"""The report of a sweep: what it says, and that every plot has all its trials."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vavl.experiments.sweep import plans_of
from vavl.experiments.sweep_report import (
    epochs_figure,
    front_figure,
    history_figure,
    parallel_figure,
    sweep_plots,
    write_pages,
)
from vavl.experiments.sweep_result import SweepResult
from vavl.experiments.trials import TrialEnd
from vavl.reports.plots import PLOTS_DIRECTORY

FIRST, SECOND = "validation/audio_video/accuracy", "validation/audio/accuracy"


def end(number: int, state: str, scores: tuple[float, ...], epochs: tuple[int, int], reason: str = "") -> TrialEnd:
    metrics = dict(zip((FIRST, SECOND), scores, strict=False))
    return TrialEnd(number, state, reason, metrics, *epochs, seconds=12.0)  # type: ignore[arg-type]


@pytest.fixture
def result(sweep_plan):
    plan = sweep_plan(
        search={"optimizer.rate": {"low": 1e-4, "high": 1e-2, "log": True}, "model.width": {"choices": [64, 32, None]}},
        objectives=[{"metric": FIRST}, {"metric": SECOND}],
    )
    points = [(1e-3, 64), (1e-2, 32), (1e-4, 64), (1e-3, None)]
    return SweepResult(
        plan=plan, plans=plans_of(sweep_plan()), run_id="sweep-1", gave_up=False, front=[0, 1],
        ends=[
            end(0, "finished", (0.5, 0.4), (10, 10)), end(1, "finished", (0.6, 0.35), (10, 10)),
            end(2, "pruned", (0.3, 0.2), (4, 10)), end(3, "failed", (), (0, 0), "<out of memory>"),
        ],
        points={number: dict(zip(plan.search, point, strict=True)) for number, point in enumerate(points)},
        importances={"optimizer.rate": 0.7, "model.width": 0.3},
    )  # fmt: skip


def with_first(result: SweepResult, metric: str, mode: str) -> SweepResult:
    """Return the result with another name and direction of its first objective, and that alone."""
    goal = result.plan.objectives[0].model_copy(update={"metric": metric, "mode": mode})
    ends = [replace(end, metrics={metric: end.metrics[FIRST]} if end.metrics else {}) for end in result.ends]
    return replace(result, plan=result.plan.model_copy(update={"objectives": (goal,)}), ends=ends)


def test_the_page_states_the_best_the_base_the_epochs_and_the_failures(result):
    page, plots = write_pages(result)
    text = page.read_text()
    assert "Chosen on validation" in text
    assert "<b>60.0</b><span>best: trial 1</span>" in text
    assert "<b>50.0</b><span>the training configuration</span>" in text
    assert "<b>20 %</b><span>of 30 epochs saved</span>" in text
    assert "&lt;out of memory&gt;" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert plots.name == PLOTS_DIRECTORY
    assert len(list(plots.glob("*.png"))) == 5
    # The best trial leads the table, the failed one ends it.
    table = text[text.index("<h2>Trials") :]
    assert table.index("<small>finished") < table.index("<small>pruned") < table.index("<small>failed")


def test_plots_follow_what_there_is(result):
    names = [plot.name for plot in sweep_plots(result)]
    assert names == ["history", "parallel_coordinates", "importance", "epochs_saved", "front"]
    failed = replace(result, ends=result.ends[3:], front=[], importances={})
    assert not list(sweep_plots(failed))
    [page] = write_pages(failed)
    assert "0</b><span>trials finished" in page.read_text()
    single = replace(with_first(result, "validation/audio/loss", "min"), importances={})
    assert [plot.name for plot in sweep_plots(single)] == ["history", "parallel_coordinates", "epochs_saved"]


def test_the_history_climbs_and_falls_with_the_direction(result):
    [axes] = history_figure(result).axes
    assert list(axes.lines[0].get_ydata()) == [50.0, 60.0]
    down = replace(result, plan=result.plan.model_copy(update={"objectives": (
        result.plan.objectives[0].model_copy(update={"mode": "min"}),)}))  # fmt: skip
    [axes] = history_figure(down).axes
    assert list(axes.lines[0].get_ydata()) == [50.0, 50.0]
    assert sum(len(points.get_offsets()) for points in axes.collections) == 3  # the failed trial has no score


def test_every_trial_is_a_line_over_all_settings(result):
    [axes] = parallel_figure(result).axes
    trials = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert len(trials) == 3
    heights = {tuple(round(float(y), 3) for y in line.get_ydata()) for line in trials}
    # 1e-4, 1e-3 and 1e-2 are evenly spread; the best score is at the top.
    assert heights == {(0.5, 0.0, 0.667), (1.0, 0.5, 1.0), (0.0, 0.0, 0.0)}


def test_epochs_and_front_show_their_trials(result):
    [axes] = epochs_figure(result).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["trial 0", "trial 1", "trial 2"]
    [axes] = front_figure(result).axes
    assert len(axes.collections) == 2
