"""What the readers of sound and pictures share: faults by name, and one time 0."""

from __future__ import annotations

import av
import pytest
from rendered_media import tone
from sounding_media import write_clip

from vavl.errors import ClipError
from vavl.features.decoding import ffmpeg_faults, presentation_start


@pytest.mark.parametrize(("sound_at_s", "pictures_at_s"), [(0, 0), (0.6, 0), (0, 0.6), (0.6, 1.0)])
def test_the_presentation_starts_with_the_stream_that_starts_first(tmp_path, sound_at_s, pictures_at_s):
    path = write_clip(
        tmp_path / "a.mp4", tone(440, 1), sound_at_s=sound_at_s, pictures_at_s=pictures_at_s, seconds=1
    )
    with av.open(str(path)) as container:
        # Priming samples of the codec, and pictures that are shown before those they depend on: below 0.1 s.
        assert presentation_start(container) == pytest.approx(min(sound_at_s, pictures_at_s), abs=0.1)


@pytest.mark.parametrize(("field", "advice"), [("audio", "listen"), ("video", "look")])
def test_a_fault_of_ffmpeg_names_the_file(tmp_path, field, advice):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no container")
    expected = pytest.raises(ClipError, match=rf"(?s)a\.mp4: {field}: cannot be decoded.*{advice}")
    with expected, ffmpeg_faults(path, field):
        av.open(str(path))
