"""The report of a promotion: the decision, the table and a forest plot of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from matplotlib.colors import to_hex
from promotion_content import ROWS, promotion_content

from vavl.promotion.report import promotion_plots, write_pages
from vavl.reports.theme import LIGHT


@pytest.fixture
def decision():
    return promotion_content()


def test_the_page_states_decision_table_and_reasons(decision, tmp_path):
    page, plots = write_pages(decision, ["vavl version 2"], tmp_path)
    text = page.read_text()
    for words in (
        "Refused", "version 3 against version 2", "Trained on another corpus: vavl version 2",
        "They have decided 2 times before", "abcd", "demo version 3 for champion", "no clip has &lt;video&gt;",
        "80.0<small>70.0 to 90.0</small>", "+10.0<small>+4.0 to +16.0</small>",
        "0.100<small>0.000 to 0.200, one constant answer</small>", "+0.200<small>+0.100 to +0.300</small>",
        "above 0", "above +0.050", "above -5.0 points", "holds", "fails",
    ):  # fmt: skip
        assert words in text, words
    assert "<video>" not in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert [path.name for path in plots.iterdir()] == ["difference.png"]


def test_a_report_without_any_measurement_has_no_plot(decision, tmp_path):
    assert decision.verdict is not None
    bare = replace(decision, verdict=replace(decision.verdict, conditions=ROWS[2:], differences=()))
    (page,) = write_pages(bare, [], tmp_path)
    assert "Differences" not in page.read_text().partition("<h2>The rule")[0]


def test_the_forest_plot_has_a_line_a_point_and_a_bracket_per_row():
    rows = [*ROWS[:1], replace(ROWS[1], holds=None, threshold=None)]
    (plot,) = promotion_plots(rows, "version 3 minus version 2")
    (axes,) = plot.figure.axes
    zero, interval, point, bracket, second, open_point = axes.lines
    assert list(zero.get_xdata()) == [0, 0]
    assert list(interval.get_xdata()) == pytest.approx([4, 16])
    assert list(point.get_xdata()) == pytest.approx([10])
    assert to_hex(point.get_markerfacecolor()) == LIGHT.audio_video
    assert list(bracket.get_xdata()) == [0]
    assert list(second.get_xdata()) == pytest.approx([0.1, 0.3])  # a CCC is no share
    assert to_hex(open_point.get_markerfacecolor()) == LIGHT.surface
    assert [label.get_text() for label in axes.get_yticklabels()] == ["audio + video\nuar", "audio alone\nccc_mean"]
