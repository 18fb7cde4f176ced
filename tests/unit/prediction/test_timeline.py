"""The course of a prediction: each point is the model on that piece, and the picture shows all there is."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace

import matplotlib as mpl
import numpy as np
import pytest
from media_model import CLASSES, MEDIA, write_media_model

from vavl.errors import ConfigError, InputError
from vavl.models.saved_model import ClipFeatures, load_model
from vavl.models.settings import AttributeTask
from vavl.prediction.plan import plan_prediction
from vavl.prediction.settings import PredictionSettings, TimelineSettings
from vavl.prediction.sources import Side
from vavl.prediction.timeline import clip_course, clip_media
from vavl.prediction.timeline_plot import TimelineText, check_timeline, class_colours, timeline_figure, write_timelines
from vavl.reports.theme import DARK, LIGHT

WINDOWS = TimelineSettings(window_s=0.5, hop_s=0.25)
VIDEO = asdict(MEDIA["video"])
TEXT = TimelineText("clip", "model", "windows")


def side(width: int, rate_hz: float, seconds: float, seed: int = 0) -> Side:
    frames = round(seconds * rate_hz)
    values = np.random.default_rng(seed).normal(size=(frames, width)).astype(np.float32)
    return Side(values, ((np.arange(frames) + 0.5) / rate_hz).astype(np.float32), seconds)


@pytest.fixture(scope="module")
def sides():
    return {"audio": side(64, 50, 2.0), "video": side(186, 25, 1.2, seed=1)}


@pytest.fixture
def course(media_model, sides):
    return clip_course(load_model(media_model), sides, WINDOWS, batch_size=4)


def test_a_point_is_the_model_on_the_frames_of_its_window(media_model, sides, course):
    assert course.seconds == 2.0
    np.testing.assert_allclose(course.times_s, np.arange(9) * 0.25)
    model = load_model(media_model)
    audio, video = sides["audio"].values, sides["video"].values
    cut = ClipFeatures(audio[25:50], video[12:25])  # 0.5 to 1.0 s
    np.testing.assert_allclose(course.values["audio_video"][3], model.predict([cut])[0].probabilities, atol=1e-6)
    # At both ends the window stays inside and whole.
    first, last = (model.predict([ClipFeatures(part)])[0].probabilities for part in (audio[:25], audio[75:]))
    np.testing.assert_allclose(course.values["audio"][[0, 8]], [first, last], atol=1e-6)
    np.testing.assert_allclose(course.values["audio"].sum(axis=1), 1, atol=1e-5)
    assert course.whole["video"] == model.predict([ClipFeatures(video=video)])[0]


def test_where_a_side_has_ended_there_is_no_prediction_from_it(course):
    assert np.isnan(course.values["video"][-1]).all()
    assert np.isnan(course.values["audio_video"][-1]).all()
    assert np.isfinite(course.values["audio"]).all()
    assert course.main == "audio_video"


def test_a_window_longer_than_the_clip_sees_all_of_it(media_model, sides):
    course = clip_course(load_model(media_model), {"audio": sides["audio"]}, TimelineSettings(window_s=60), 8)
    assert list(course.values) == ["audio"]
    np.testing.assert_allclose(course.values["audio"][0], course.whole["audio"].probabilities, atol=1e-6)


def test_features_of_a_whole_clip_have_no_course(media_model, sides):
    still = Side(sides["audio"].values[:1], np.array([1.0], np.float32), 2.0)
    with pytest.raises(InputError, match="one frame for a whole clip"):
        clip_course(load_model(media_model), {"audio": still}, WINDOWS, 8)
    course = clip_course(load_model(media_model), {**sides, "audio": still}, WINDOWS, 8)
    assert course.note == "audio: one frame for the whole clip, left out"
    assert list(course.values) == ["video"]


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_picture_shows_every_class_and_condition(course, made_media, theme):
    media = clip_media({"audio": made_media / "pair.wav", "video": made_media / "pair.mp4"}, VIDEO, 3)
    assert len(media.thumbnails) == 3
    before = dict(mpl.rcParams)
    figure = timeline_figure(course, media, TEXT, theme)
    assert dict(mpl.rcParams) == before
    words = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert words >= {*CLASSES, "audio + video", "audio alone", "video alone", "sound", "whole clip, audio + video"}
    assert any("model" in text.get_text() for text in figure.texts)
    assert len(figure.axes) == 7


def test_a_clip_with_sound_alone_and_attributes_has_lines_and_no_faces(tmp_path, sides, made_media):
    task = AttributeTask(attributes=("arousal", "valence", "dominance"))
    model = load_model(write_media_model(tmp_path, task=task))
    course = clip_course(model, {"audio": sides["audio"]}, WINDOWS, 8)
    assert not course.are_classes
    figure = timeline_figure(course, clip_media({"audio": made_media / "pair.wav"}, VIDEO, 3), TEXT, LIGHT)
    assert [len(axes.lines) for axes in figure.axes] == [1, 3, 0]
    assert {text.get_text() for text in figure.axes[2].texts} >= {"arousal", "valence", "dominance"}


def test_more_classes_than_colours_of_the_theme_stay_apart():
    assert len(set(class_colours(16, LIGHT))) == 16


def test_pictures_of_some_clips_and_a_reason_for_the_others(made_media, media_model, tmp_path, caplog):
    settings = PredictionSettings.model_validate(
        {
            "input": made_media, "model": "m", "output_dir": tmp_path / "out", "timeline": True,
            "windows": {"window_s": 0.2, "most_clips": 4, "thumbnails": 2, "theme": "dark"},
        }
    )  # fmt: skip
    plan = plan_prediction(settings, media_model)
    drawn = [path.name for path in write_timelines(plan, settings, "model")]
    assert drawn == ["film.png", "half.png"]
    assert all((tmp_path / "out/timelines" / name).read_bytes()[:4] == b"\x89PNG" for name in drawn)
    assert "of 8 clips the first 4 get a timeline" in caplog.text
    assert "broken has no timeline" in caplog.text
    assert "half leaves out its video: cannot be decoded" in caplog.text
    assert write_timelines(plan, settings.model_copy(update={"timeline": False}), "model") == []


def test_names_are_drawn_as_they_are(made_media, media_model, tmp_path):
    odd = tmp_path / "média"
    odd.mkdir()
    for name in ("$x^{ 雨 🙂 $ %", "a b", "a_b"):
        shutil.copy(made_media / "only_heard.flac", odd / f"{name}.flac")
    settings = PredictionSettings.model_validate(
        {"input": odd, "model": "m", "output_dir": tmp_path / "out", "timeline": True}
    )
    drawn = write_timelines(plan_prediction(settings, media_model), settings, "a_$b")
    assert len(set(drawn)) == 3
    assert all(path.stat().st_size > 5000 for path in drawn)


def test_a_store_has_nothing_to_draw(made_media, media_model):
    settings = PredictionSettings.model_validate({"input": made_media, "model": "m", "timeline": True})
    plan = plan_prediction(settings, media_model)
    check_timeline(plan, settings)
    with pytest.raises(ConfigError, match="a store holds no audio and no video"):
        check_timeline(replace(plan, source=None), settings)  # type: ignore[arg-type]
