"""The files of a clip: their formats, their reproduction, and faces that OpenCV finds."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest
import soundfile

from demo_corpus.latent import Clip, clip_latent, clips_of
from demo_corpus.picture import render_frames
from demo_corpus.render import is_finished, render_clip
from demo_corpus.settings import EMOTIONS, DemoCorpusSettings, audio_path, video_path


def _frames(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def test_the_sound_is_16_khz_16_bit_mono(small_demo, small_settings):
    for clip in clips_of(small_settings):
        info = soundfile.info(audio_path(small_demo, clip.speaker, clip.clip_id))
        assert (info.samplerate, info.channels, info.subtype, info.format) == (16_000, 1, "PCM_16", "WAV")
        assert 1.0 <= info.duration <= 3.0


def test_the_video_is_160_pixels_25_frames_per_second_without_sound(small_demo, small_settings):
    for clip in clips_of(small_settings):
        with av.open(str(video_path(small_demo, clip.speaker, clip.clip_id))) as container:
            (stream,) = container.streams
            times = [frame.time for frame in container.decode(video=0)]
            assert (stream.width, stream.height, stream.pix_fmt) == (160, 160, "yuv420p")
        seconds = clip_latent(small_settings, clip).seconds
        assert abs(len(times) / 25 - seconds) <= 0.04
        np.testing.assert_allclose(times, np.arange(len(times)) / 25, atol=1e-6)


def test_rendering_again_gives_the_same_bytes_and_frames(small_demo, small_settings, tmp_path):
    clip = clips_of(small_settings)[3]
    # Part of a larger corpus, rendered alone: the same files all the same.
    larger = small_settings.model_copy(update={"women": 6, "men": 6, "takes": 3})
    render_clip(larger, tmp_path, clip)
    assert is_finished(tmp_path, clip)
    for path in (audio_path, video_path):
        here, there = (path(root, clip.speaker, clip.clip_id) for root in (tmp_path, small_demo))
        if path is audio_path:
            assert here.read_bytes() == there.read_bytes()
        else:
            np.testing.assert_array_equal(_frames(here), _frames(there))


def test_another_seed_gives_other_files(small_demo, small_settings, tmp_path):
    clip = clips_of(small_settings)[0]
    render_clip(small_settings.model_copy(update={"seed": 8}), tmp_path, clip)
    here, there = (audio_path(root, clip.speaker, clip.clip_id) for root in (tmp_path, small_demo))
    assert here.read_bytes() != there.read_bytes()


def test_a_failed_clip_leaves_no_file(tmp_path, small_settings, monkeypatch):
    def no_frames(settings, latent):
        raise RuntimeError("no brush")

    monkeypatch.setattr("demo_corpus.render.render_frames", no_frames)
    clip = clips_of(small_settings)[0]
    with pytest.raises(RuntimeError, match="no brush"):
        render_clip(small_settings, tmp_path, clip)
    assert not is_finished(tmp_path, clip)
    assert not list((tmp_path / "video").rglob("*.*"))


def test_the_frontal_face_cascade_finds_the_faces():
    """Every speaker, two frames in each of two emotions; over all frames of the corpus it is 98 %."""
    settings = DemoCorpusSettings()
    finder = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    found = []
    for place, speaker in enumerate(sorted({clip.speaker for clip in clips_of(settings)})):
        for emotion in (EMOTIONS[place % 6], EMOTIONS[(place + 3) % 6]):
            frames = list(render_frames(settings, clip_latent(settings, Clip(speaker, "s01", emotion, 1))))
            for frame in (frames[len(frames) // 3], frames[2 * len(frames) // 3]):
                grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
                boxes = finder.detectMultiScale(grey, 1.1, 5, minSize=(48, 48))
                # The box must be the face: around the middle of the picture.
                found.append(any(abs(x + w / 2 - 80) < 16 and abs(y + h / 2 - 84) < 20 for x, y, w, h in boxes))
    assert len(found) == 48
    assert np.mean(found) >= 0.8
