"""The report of an evaluation: what it says, and that its plots show everything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from evaluation_content import attribute_content, evaluation_content, write_content

from vavl.evaluation.evaluation import Evaluation
from vavl.evaluation.report import evaluation_plots
from vavl.reports.plots import PLOTS_DIRECTORY


@pytest.fixture(scope="module")
def evaluation():
    return evaluation_content()


@pytest.fixture(scope="module")
def page(evaluation, tmp_path_factory):
    """The page, written once."""
    return write_content(evaluation, tmp_path_factory.mktemp("report"))


def test_the_page_states_scores_intervals_warnings_and_what_is_missing(page):
    text = page.read_text()
    assert "75.0<small>60.0 to 90.0</small>" in text
    assert "0.750<small>0.600 to 0.900</small>" in text
    assert "The epoch that is kept was chosen on all 2 measured speakers." in text
    assert "Noise_5db is not measured: only features are at hand." in text
    assert "over 15 equal bins of confidence" in text
    assert "all clips, voice alone" in text
    assert "&lt;anger&gt;" in text
    assert "<anger>" not in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert "nan" not in text.split("</style>")[1].replace("financ", "").split("base64")[0]


def test_scores_stand_by_the_length_of_the_clips(page):
    lengths = page.read_text().split("Length of the clips: accuracy in %")[1]
    shortest, longest = lengths.split("<tr><td>")[1:3]
    assert shortest.startswith("0.50 to 1.25</td><td>9</td><td>-</td><td>50.0<small>40.0 to 60.0</small></td></tr>")
    assert longest.startswith("1.25 to 4.00</td><td>11</td><td>95.0<small>90.0 to 100.0</small></td>")


def test_changes_stand_beside_degraded_scores_bold_where_their_interval_excludes_zero(page):
    text = page.read_text()
    assert "<td><b>-25.0</b><small>-30.0 to -20.0</small></td>" in text
    assert "<td>-5.0<small>-10.0 to 2.0</small></td>" in text
    # A shift cannot change what is heard.
    shift = text.split('colspan="5">shift</td>')[1]
    assert "<td>-</td><td></td></tr>" in shift


def test_every_part_has_its_plot(evaluation, page):
    names = [plot.name for plot in evaluation_plots(evaluation)]
    parts = ["confusion_audio_video", "confusion_audio", "reliability", "speakers"]
    assert names == ["degraded_0", "degraded_1", *parts]
    assert {path.stem for path in (page.parent / PLOTS_DIRECTORY).glob("*.png")} == set(names)
    assert [plot.name for plot in evaluation_plots(replace(evaluation, degraded=()))] == parts


def _axes(evaluation: Evaluation, name: str) -> Any:
    return {plot.name: plot.figure for plot in evaluation_plots(evaluation)}[name].axes[0]


def test_degraded_curves_start_with_whole_inputs_on_a_common_axis(evaluation):
    noise, shift = (_axes(evaluation, f"degraded_{number}") for number in range(2))
    assert [len(axes.containers) for axes in (noise, shift)] == [2, 1]
    assert [label.get_text() for label in noise.get_xticklabels()] == ["whole", "20 dB", "0 dB"]
    np.testing.assert_allclose(noise.containers[0].lines[0].get_ydata(), [75, 70, 50])
    assert noise.get_ylim() == shift.get_ylim()
    assert {text.get_text() for text in noise.get_legend().get_texts()} == {"audio + video", "audio alone"}


def test_speakers_are_sorted_and_those_without_a_side_lack_its_point(evaluation):
    axes = _axes(evaluation, "speakers")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["s2 (8)", "s1 (12)"]
    points = {line.get_label(): line.get_xdata() for line in axes.lines if line.get_linestyle() == "None"}
    np.testing.assert_allclose(points["audio alone"], [75])
    many = {f"s{number}": {"accuracy": 0.5, "clips": 3.0} for number in range(60)}
    scores = {name: replace(found, by_speaker=many) for name, found in evaluation.whole.scores.items()}
    crowded = replace(evaluation, whole=replace(evaluation.whole, scores=scores))
    assert _axes(crowded, "speakers").get_ylabel() == "60 speakers"


def test_attributes_have_their_scores_and_a_plot_of_values(tmp_path):
    text = write_content(attribute_content(), tmp_path).read_text()
    assert "<th>valence RMSE</th>" in text
    assert "reference scores" not in text
    assert "Confusions" not in text
    assert (tmp_path / PLOTS_DIRECTORY / "values_audio.png").exists()
