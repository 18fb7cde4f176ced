"""The report of a sweep: what it says, and that every plot has all its trials."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vavl.experiments.sweep_plots import (
    SweepAxis,
    SweepReport,
    SweepTrial,
    epochs_figure,
    front_figure,
    history_figure,
    parallel_figure,
    sweep_plots,
)
from vavl.experiments.sweep_report import write_report_page
from vavl.reports.plots import PLOTS_DIRECTORY


@pytest.fixture
def report() -> SweepReport:
    points = [(1e-3, "64"), (1e-2, "32"), (1e-4, "64"), (1e-3, None)]
    states = ["finished", "finished", "pruned", "failed"]
    scores: list[list[float | None]] = [[0.5, 0.4], [0.6, 0.3], [0.3, 0.2], [None, None]]
    trials = [
        SweepTrial(
            number, states[number], {"optimizer.rate": rate, "model.width": width}, scores[number],
            epochs_run=(10, 10, 4, 0)[number], epochs_full=(10, 10, 10, 0)[number], seconds=12.0,
            reason="<out of memory>" if number == 3 else "",
        )
        for number, (rate, width) in enumerate(points)
    ]  # fmt: skip
    return SweepReport(
        title="Settings searched on demo", corpus="demo", objectives=["validation accuracy", "audio accuracy"],
        signs=[1, 1], is_share=True, trials=trials, best=1, base=0, front=[0, 1],
        axes=[SweepAxis("optimizer.rate", is_log=True), SweepAxis("model.width", ["64", "32", None])],
        importances={"optimizer.rate": 0.7, "model.width": 0.3}, facts={"sampler": "tpe"},
    )  # fmt: skip


def test_the_page_states_the_best_the_base_the_epochs_and_the_failures(
    report: SweepReport, tmp_path: Path
) -> None:
    text = write_report_page(report, tmp_path).read_text()
    assert "Chosen on validation" in text
    assert "<b>60.0</b><span>best: trial 1</span>" in text
    assert "<b>50.0</b><span>the training configuration</span>" in text
    assert "<b>20 %</b><span>of 30 epochs saved</span>" in text
    assert "&lt;out of memory&gt;" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert len(list((tmp_path / PLOTS_DIRECTORY).glob("*.png"))) == 5
    # The best trial leads the table, the failed one ends it.
    table = text[text.index("<h2>Trials") :]
    assert table.index("<small>finished") < table.index("<small>pruned") < table.index("<small>failed")


def test_plots_follow_what_there_is(report: SweepReport, tmp_path: Path) -> None:
    names = [plot.name for plot in sweep_plots(report)]
    assert names == ["history", "parallel_coordinates", "importance", "epochs_saved", "front"]
    failed = replace(report, trials=report.trials[3:], best=None, base=None, front=[], importances={})
    assert not list(sweep_plots(failed))
    assert "0</b><span>trials finished" in write_report_page(failed, tmp_path).read_text()
    single = replace(report, objectives=["validation loss"], signs=[-1], is_share=False, importances={})
    assert [plot.name for plot in sweep_plots(single)] == [
        "history",
        "parallel_coordinates",
        "epochs_saved",
    ]


def test_the_history_climbs_and_falls_with_the_direction(report: SweepReport) -> None:
    [axes] = history_figure(report).axes
    assert list(axes.lines[0].get_ydata()) == [50.0, 60.0]
    down = replace(report, signs=[-1, 1], base=None)
    [axes] = history_figure(down).axes
    assert list(axes.lines[0].get_ydata()) == [50.0, 50.0]
    assert sum(len(points.get_offsets()) for points in axes.collections) == 3  # the failed trial has no score


def test_every_trial_is_a_line_over_all_settings(report: SweepReport) -> None:
    [axes] = parallel_figure(report).axes
    trials = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert len(trials) == 3
    heights = {tuple(round(float(y), 3) for y in line.get_ydata()) for line in trials}
    # 1e-4, 1e-3 and 1e-2 are evenly spread; the best score is at the top.
    assert heights == {(0.5, 0.0, 0.667), (1.0, 0.5, 1.0), (0.0, 0.0, 0.0)}


def test_epochs_and_front_show_their_trials(report: SweepReport) -> None:
    [axes] = epochs_figure(report).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["trial 0", "trial 1", "trial 2"]
    [axes] = front_figure(report).axes
    assert len(axes.collections) == 2
