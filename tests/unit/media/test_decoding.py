"""What the readers of audio and video share: faults by name, and one time 0."""

from __future__ import annotations

import av
import numpy as np
import pytest
from rendered_media import tone, write_clip

from vavl.errors import ClipError
from vavl.media.decoding import ffmpeg_errors, presentation_start
from vavl.media.media import read_frames
from vavl.media.sound import read_audio


@pytest.mark.parametrize(("sound_at_s", "pictures_at_s"), [(0, 0), (0.6, 0), (0, 0.6), (0.6, 1.0)])
def test_the_presentation_starts_with_the_stream_that_starts_first(tmp_path, sound_at_s, pictures_at_s):
    path = write_clip(tmp_path / "a.mp4", tone(440, 1), sound_at_s=sound_at_s, pictures_at_s=pictures_at_s, seconds=1)
    with av.open(str(path)) as container:
        # Priming samples of the codec, and pictures that are shown before those they depend on: below 0.1 s.
        assert presentation_start(container) == pytest.approx(min(sound_at_s, pictures_at_s), abs=0.1)


@pytest.mark.parametrize(("sound_at_s", "pictures_at_s"), [(0, 0), (0.4, 0), (0, 0.4), (0.4, 0.4)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_beep_and_a_flash_at_once_are_at_one_time_on_both_sides(tmp_path, suffix, sound_at_s, pictures_at_s):
    samples = np.zeros(32_000)
    samples[round((1.2 - sound_at_s) * 16_000) :] = 0.3 * np.random.default_rng(0).normal(
        size=32_000 - round((1.2 - sound_at_s) * 16_000)
    )
    pictures = np.zeros((50, 64, 64, 3), np.uint8)
    pictures[round((1.2 - pictures_at_s) * 25) :] = 200
    path = write_clip(
        tmp_path / f"a{suffix}", samples, sound_at_s=sound_at_s, pictures_at_s=pictures_at_s, pictures=pictures
    )
    beep_s = np.flatnonzero(np.abs(read_audio(path, 16_000)) > 0.1)[0] / 16_000
    flash_s = next(middle for middle, picture in read_frames(path, 25) if picture.mean() > 100) - 0.5 / 25
    # What starts first is at 0; the codec's priming samples and its order of pictures move that by less than 0.1 s.
    assert beep_s == pytest.approx(1.2 - min(sound_at_s, pictures_at_s), abs=0.1)
    assert flash_s == pytest.approx(beep_s, abs=1 / 25)


@pytest.mark.parametrize(("field", "advice"), [("audio", "listen"), ("video", "look")])
def test_a_fault_of_ffmpeg_names_the_file(tmp_path, field, advice):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no container")
    expected = pytest.raises(ClipError, match=rf"(?s)a\.mp4: {field}: cannot be decoded.*{advice}")
    with expected, ffmpeg_errors(path, field):
        av.open(str(path))
