"""Plots hold what they claim, in the colors of the theme."""

from __future__ import annotations

import numpy as np
import pytest

from vavl.reports.plots import (
    PLOTS_DIRECTORY,
    Curve,
    Plot,
    ReliabilityBins,
    confusion_figure,
    curves_figure,
    ink_on,
    reliability_bins,
    reliability_figure,
    svg_of,
    write_plots,
)
from vavl.reports.theme import LIGHT, THEMES

COUNTS = np.array([[8, 2], [0, 0]])


def _texts(figure: object) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]  # type: ignore[attr-defined]


def test_confusions_are_percent_of_the_true_class_with_counts():
    figure = confusion_figure(COUNTS, ["joy", "anger"])
    assert _texts(figure) == ["80", "8", "20", "2", "0", "0", "0", "0"]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["joy", "anger"]
    assert axes.get_xlabel() == "predicted"


def test_many_classes_leave_out_the_counts():
    assert len(_texts(confusion_figure(np.eye(8, dtype=int), [str(name) for name in range(8)]))) == 64


@pytest.mark.parametrize("theme", THEMES)
def test_words_stand_out_from_what_is_behind_them(theme):
    for color in (theme.text, theme.quiet, theme.audio, theme.video, theme.audio_video):
        assert _contrast(color, theme.surface) >= 4.5, color
    for color in theme.ramp:
        assert _contrast(ink_on(_rgb(color)), color) >= 4.5, color


def _rgb(color: str) -> list[float]:
    return [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]


def _contrast(one: str, other: str) -> float:
    def luminance(color: str) -> float:
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in _rgb(color)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_curves_show_missing_values_as_gaps_and_mark_the_best_epoch():
    curves = [Curve("audio alone", [1, 2, 3], [0.2, float("nan"), 0.4], "audio")]
    figure = curves_figure(curves, "accuracy", best_epoch=3, percent=True)
    line = figure.axes[0].lines[1]
    np.testing.assert_allclose(line.get_ydata(), [20, np.nan, 40])
    assert line.get_color() == LIGHT.audio
    assert _texts(figure) == ["best epoch 3"]
    assert figure.axes[0].get_ylabel() == "accuracy (%)"


def test_reliability_compares_confidence_with_what_was_right():
    probabilities = np.array([[0.95, 0.05], [0.92, 0.08], [0.4, 0.6]])
    bins = reliability_bins(probabilities, np.array([0, 1, 1]))
    assert bins.clips.tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 2]
    assert bins.accuracy[9] == 0.5
    np.testing.assert_allclose(bins.confidence[[6, 9]], [0.6, 0.935])
    assert np.isnan(bins.accuracy[0])
    figure = reliability_figure({"audio": bins})
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["exact", "audio alone"]


def test_one_empty_set_of_bins_is_drawn_without_points():
    empty = ReliabilityBins(np.full(2, np.nan), np.full(2, np.nan), np.zeros(2, dtype=np.int64))
    figure = reliability_figure({"audio": empty})
    assert len(figure.axes[0].lines[1].get_xdata()) == 0


def test_equal_plots_give_equal_files(tmp_path):
    first, second = (Plot("table", "caption", "description", confusion_figure(COUNTS, ["a", "b"])) for _ in range(2))
    (file,) = write_plots([first], tmp_path)
    assert file == tmp_path / PLOTS_DIRECTORY / "table.png"
    assert file.read_bytes().startswith(b"\x89PNG")
    # Writing a file changes nothing of the figure.
    assert svg_of(first.figure) == svg_of(second.figure)
    assert first.address.startswith("data:image/svg+xml;base64,")
