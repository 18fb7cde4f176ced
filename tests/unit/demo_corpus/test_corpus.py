"""The whole corpus: resumption, refusals, tables; its files: formats, reproduction, faces that OpenCV finds."""

from __future__ import annotations

import csv
import shutil

import av
import cv2
import numpy as np
import pytest
import soundfile

from demo_corpus.corpus import check_directory, is_finished, render_clip, render_corpus
from demo_corpus.latent import Clip, clip_latent, clips_of
from demo_corpus.picture import render_frames
from demo_corpus.settings import EMOTIONS, DemoCorpusSettings, audio_path, settings_hash, video_path
from vavl.config.files import read_json
from vavl.errors import CorpusError, InputError


@pytest.fixture
def copy(small_demo, tmp_path):
    """Return a copy of the small corpus that a test may change."""
    return shutil.copytree(small_demo, tmp_path / "corpus")


def _times(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*.*") if path.suffix in (".wav", ".mp4")}


def test_the_folder_says_what_it_is(small_demo, small_settings):
    content = read_json(small_demo / "corpus.json")
    assert content["settings_hash"] == settings_hash(small_settings)
    assert DemoCorpusSettings.model_validate(content["settings"]) == small_settings
    assert len(_times(small_demo)) == 12


def test_the_latents_are_a_row_per_clip(small_demo, small_settings):
    with (small_demo / "latents.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["clip_id"] for row in rows] == [clip.clip_id for clip in clips_of(small_settings)]
    assert {"shared_happy", "voice_sad", "face_angry", "tempo", "seconds"} <= rows[0].keys()


def test_the_contact_sheet_shows_every_emotion(small_demo):
    sheet = cv2.imread(str(small_demo / "contact_sheet.png"))
    assert sheet.shape[1] >= 6 * 160
    assert sheet.shape[0] >= 160


def test_only_missing_clips_are_rendered(copy, small_settings):
    first, second = clips_of(small_settings)[:2]
    audio_path(copy, first.speaker, first.clip_id).unlink()
    video_path(copy, second.speaker, second.clip_id).unlink()
    leftover = copy / "video" / "f01" / ".f01_s01_sad_t1.mp4.abc.partial"
    leftover.write_bytes(b"half")
    before = _times(copy)
    report = render_corpus(copy, small_settings, workers=1)
    after = _times(copy)
    assert (report.clips, report.rendered) == (6, 2)
    assert not leftover.exists()
    assert len(after) == 12
    assert sum(after[path] == before[path] for path in before if path in after) == 8


def test_two_processes_render_the_same_files(copy, small_demo, small_settings):
    several = small_settings.model_copy(update={"takes": 2})
    render_corpus(copy, several, workers=2, overwrite=True)
    assert len(_times(copy)) == 24
    for clip in clips_of(small_settings):
        for path in (audio_path, video_path):
            here, there = (path(root, clip.speaker, clip.clip_id).read_bytes() for root in (copy, small_demo))
            assert here == there


def test_other_settings_are_refused(copy, small_settings):
    before = _times(copy)
    other = small_settings.model_copy(update={"seed": 8})
    with pytest.raises(CorpusError, match=r"a demo corpus of other settings is here.*\n.*overwrite=true"):
        render_corpus(copy, other, workers=1)
    assert _times(copy) == before
    check_directory(copy, other, overwrite=True)


def test_media_of_unknown_origin_are_never_touched(tmp_path, small_settings):
    recording = tmp_path / "audio" / "mine.wav"
    recording.parent.mkdir()
    recording.write_bytes(b"mine")
    with pytest.raises(CorpusError, match="media that this job did not render"):
        render_corpus(tmp_path, small_settings, workers=1, overwrite=True)
    assert recording.read_bytes() == b"mine"


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path, small_settings):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        render_corpus(tmp_path / "file" / "corpus", small_settings, workers=1)


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

    monkeypatch.setattr("demo_corpus.corpus.render_frames", no_frames)
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
