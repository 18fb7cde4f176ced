"""The report of a comparison: what it says, and that every picture has all its lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vavl.experiments.comparison_grid import Group
from vavl.experiments.comparison_report import (
    ComparisonReport,
    comparison_pictures,
    curve_figure,
    differences_figure,
    write_comparison_report,
)
from vavl.experiments.comparison_result import GroupScore
from vavl.metrics.paired import Interval
from vavl.reports.theme import DARK, LIGHT

SETS = ("supervised", "hgr", "all")


def score(name, fraction, share, condition, value, low, high, against="") -> GroupScore:
    group = Group(name, fraction, share)
    return GroupScore(group, condition, "accuracy", Interval(value, low, high), runs=4, against=against)


@pytest.fixture
def report() -> ComparisonReport:
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
    return ComparisonReport(
        title="Objectives compared on demo", corpus="demo", protocol="one fold", label_target="acted",
        speaker_normalisation=False, split="validation", measure="accuracy", is_share=True, reference="supervised",
        sets=SETS, scores=scores, differences=differences, left_out={"pseudo/labels-100": "no <unlabelled> clip"},
    )  # fmt: skip


def test_the_page_states_scores_differences_and_what_is_missing(
    report: ComparisonReport, tmp_path: Path
) -> None:
    text = write_comparison_report(report, tmp_path).read_text()
    assert "Measured on validation" in text
    assert "60.0<small>55.0 to 66.0</small>" in text
    assert "+2.0 *<small>+1.0 to +4.0</small>" in text
    assert "no &lt;unlabelled&gt; clip" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 5
    tested = write_comparison_report(replace(report, split="test", differences=[]), tmp_path).read_text()
    assert "Measured on validation" not in tested
    assert "None." in tested


def test_pictures_follow_what_was_varied(report: ComparisonReport) -> None:
    names = [picture.name for picture in comparison_pictures(report)]
    assert names == [
        "label_efficiency", "label_efficiency_unpaired_50", "unpaired_labels_10", "unpaired_labels_100", "differences",
    ]  # fmt: skip
    one = [point for point in report.scores if point.group[1:] == (1.0, 0.0)]
    assert not list(comparison_pictures(replace(report, scores=one, differences=[])))


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_every_set_has_a_line_and_a_name(report: ComparisonReport, theme) -> None:
    points = [point for point in report.scores if point.group.unpaired_share == 0]
    figure = curve_figure(report, points, "labelled_fraction", theme)
    assert [len(axes.containers) for axes in figure.axes] == [2, 3]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(SETS)
    assert [axes.get_title() for axes in figure.axes] == ["audio + video", "audio alone"]


def test_rows_of_differences_are_grouped_by_place(report: ComparisonReport) -> None:
    figure = differences_figure(report, LIGHT)
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows[:2] == ["all, 10 %, unpaired 0 %", "hgr, 10 %, unpaired 0 %"]
    assert len(rows) == 2 * 4
