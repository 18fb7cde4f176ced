"""The report of a comparison: what it says, and that every plot has all its lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vavl.experiments.comparison_grid import Cell, Grid, Group, LeftOut
from vavl.experiments.comparison_report import comparison_plots, curve_figure, differences_figure, write_pages
from vavl.experiments.comparison_result import Comparison, FinishedRun, GroupScore
from vavl.experiments.comparison_settings import ComparisonPlan
from vavl.metrics.paired import Interval
from vavl.reports.plots import PLOTS_DIRECTORY

SETS = ("supervised", "hgr", "all")


def score(name, fraction, share, condition, value, low, high, against="") -> GroupScore:
    group = Group(name, fraction, share)
    return GroupScore(group, condition, "accuracy", Interval(value, low, high), runs=4, against=against)


@pytest.fixture
def report(tmp_path):
    places = [
        (name, fraction, share, condition)
        for condition in ("audio_video", "audio")
        for fraction in (0.1, 1.0)
        for share in (0.0, 0.5)
        for name in SETS
        if (name, condition) != ("hgr", "audio_video")  # a set may lack a condition
    ]
    scores = [score(*place, 0.6, 0.55, 0.66) for place in places]
    differences = [
        score(*place, 0.02, 0.01 if place[0] == "all" else -0.01, 0.04, against="supervised")
        for place in places
        if place[0] != "supervised"
    ]
    plan = ComparisonPlan(output_dir=tmp_path, training=Path("train.yaml"), objective_sets={name: {} for name in SETS})
    left_out = LeftOut(Cell("pseudo", 1.0, 0.0, 0, 0), "no <unlabeled> clip")
    summary = {
        "corpus": "demo", "protocol": "one fold", "label_target": "acted", "label_set": None, "seconds": 2.0,
        "speaker_normalisation": False, "store_hash": "0" * 16,
    }  # fmt: skip
    run: Any = None  # of which the page needs nothing
    finished = [FinishedRun(run, summary, {})]
    return Comparison(plan, Grid([], [left_out], plan), ("accuracy",), finished, scores, differences)


def test_the_page_states_scores_differences_and_what_is_missing(report, tmp_path):
    text = write_pages(report)[0].read_text()
    assert "Measured on validation" in text
    assert "60.0<small>55.0 to 66.0</small>" in text
    assert "+2.0 *<small>+1.0 to +4.0</small>" in text
    assert "no &lt;unlabeled&gt; clip" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert len(list((tmp_path / PLOTS_DIRECTORY).glob("*.png"))) == 5
    plan = report.plan.model_copy(update={"test": True})
    tested = write_pages(replace(report, plan=plan, differences=[]))[0].read_text()
    assert "Measured on validation" not in tested
    assert "None." in tested


def test_plots_follow_what_was_varied(report):
    names = [plot.name for plot in comparison_plots(report)]
    assert names == [
        "label_efficiency", "label_efficiency_unpaired_50", "unpaired_labels_10", "unpaired_labels_100", "differences",
    ]  # fmt: skip
    one = [point for point in report.scores if point.group[1:] == (1.0, 0.0)]
    assert not list(comparison_plots(replace(report, scores=one, differences=[])))


def test_every_set_has_a_line_and_a_name(report):
    points = [point for point in report.scores if point.group.unpaired_share == 0]
    figure = curve_figure(report, points, "labelled_fraction")
    assert [len(axes.containers) for axes in figure.axes] == [2, 3]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(SETS)
    assert [axes.get_title() for axes in figure.axes] == ["audio + video", "audio alone"]


def test_rows_of_differences_are_grouped_by_place(report):
    figure = differences_figure(report)
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows[:2] == ["all, 10 %, unpaired 0 %", "hgr, 10 %, unpaired 0 %"]
    assert len(rows) == 2 * 4
