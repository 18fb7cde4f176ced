"""The report of an evaluation: what it says, and that its pictures show everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_content import evaluation_content

from vavl.evaluation.evaluation_content import EvaluationReport
from vavl.evaluation.evaluation_pictures import degraded_figure, evaluation_pictures, speakers_figure
from vavl.evaluation.evaluation_report import write_evaluation_report
from vavl.metrics.paired import Interval
from vavl.reports.theme import DARK, LIGHT

NOTHING = float("nan")


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    return evaluation_content()


@pytest.fixture(scope="module")
def page(report: EvaluationReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, written once."""
    return write_evaluation_report(report, tmp_path_factory.mktemp("report"))


def test_the_page_states_scores_intervals_warnings_and_what_is_missing(page: Path) -> None:
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


def test_changes_stand_beside_degraded_scores_bold_where_their_interval_excludes_zero(page: Path) -> None:
    text = page.read_text()
    assert "<td><b>-25.0</b><small>-30.0 to -20.0</small></td>" in text
    assert "<td>-5.0<small>-10.0 to 2.0</small></td>" in text
    # A shift cannot change what is heard.
    shift = text.split('colspan="5">shift</td>')[1]
    assert "<td>-</td><td></td></tr>" in shift


def test_every_part_has_its_picture(report: EvaluationReport, page: Path) -> None:
    names = [picture.name for picture in evaluation_pictures(report)]
    parts = ["confusion_audio_video", "confusion_audio", "reliability", "speakers"]
    assert names == ["degraded_0", "degraded_1", *parts]
    assert {path.stem for path in (page.parent / "pictures").glob("*.png")} == set(names)
    bare = replace(report, degraded=(), confusion={}, reliability={})
    assert [picture.name for picture in evaluation_pictures(bare)] == ["speakers"]


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_degraded_curves_start_with_whole_inputs_on_a_common_axis(report: EvaluationReport, theme) -> None:
    noise, shift = (degraded_figure(report, kind, theme).axes[0] for kind in ("noise", "shift"))
    assert [len(axes.containers) for axes in (noise, shift)] == [2, 1]
    assert [label.get_text() for label in noise.get_xticklabels()] == ["whole", "20 dB", "0 dB"]
    np.testing.assert_allclose(noise.containers[0].lines[0].get_ydata(), [75, 70, 50])
    assert noise.get_ylim() == shift.get_ylim()
    assert {text.get_text() for text in noise.get_legend().get_texts()} == {"audio + video", "audio alone"}


def test_speakers_are_sorted_and_those_without_a_side_lack_its_point(report: EvaluationReport) -> None:
    (axes,) = speakers_figure(report, LIGHT).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["s2 (8)", "s1 (12)"]
    points = {line.get_label(): line.get_xdata() for line in axes.lines if line.get_linestyle() == "None"}
    np.testing.assert_allclose(points["audio alone"], [75])
    many = {f"s{number}": 0.5 for number in range(60)}
    crowded = replace(
        report, speakers={"audio": many, "audio_video": many}, speaker_clips=dict.fromkeys(many, 3)
    )
    assert speakers_figure(crowded, LIGHT).axes[0].get_ylabel() == "60 speakers"


def test_attributes_have_their_scores_and_a_picture_of_values(
    report: EvaluationReport, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).random((20, 2))
    names = ("arousal", "valence")
    scores = {f"{kind}_{name}": Interval(0.4, 0.3, 0.5) for kind in ("ccc", "rmse", "mae") for name in names}
    scores |= {"ccc_mean": Interval(0.4, 0.3, 0.5), "clips": Interval(20, NOTHING, NOTHING)}
    scores |= {"speakers": Interval(2, NOTHING, NOTHING)}
    attributes = replace(
        report, measure="ccc_mean", is_share=False, outputs=names, scores={"audio": scores}, confusion={},
        reliability={}, classes={}, degraded=(), values={"audio": (values, values)}, yardsticks=(),
    )  # fmt: skip
    text = write_evaluation_report(attributes, tmp_path).read_text()
    assert "<th>valence RMSE</th>" in text
    assert "yard-sticks" not in text
    assert (tmp_path / "pictures" / "values_audio.png").exists()
