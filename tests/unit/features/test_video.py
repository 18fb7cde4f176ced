"""From a video file to features: faces, times, reasons, and every setting counts."""

from __future__ import annotations

import numpy as np
import pytest
from rendered_media import moving_square, write_mp4
from talking_face import talking_face

from vavl.features.video import VideoExtractor, video_info
from vavl.features.video_settings import VideoFeatureSettings


@pytest.fixture(scope="module")
def face_file(tmp_path_factory):
    return write_mp4(tmp_path_factory.mktemp("video") / "a.mp4", talking_face(8))


def test_a_face_is_described_frame_by_frame(face_file):
    extracted = VideoExtractor(VideoFeatureSettings()).extract(face_file)
    assert extracted.values.shape == (8, video_info(VideoFeatureSettings()).width)
    np.testing.assert_allclose(extracted.frame_times, (np.arange(8) + 0.5) / 25, rtol=1e-5)
    assert extracted.tally == {"video_frames": 8, "face_frames": 8, "fixed_crops": 0}
    assert extracted.note is None


def test_a_video_without_face_says_why_its_crop_is_fixed(tmp_path):
    extracted = VideoExtractor(VideoFeatureSettings()).extract(
        write_mp4(tmp_path / "a.mp4", moving_square(6))
    )
    assert extracted.note is not None
    assert extracted.note.startswith("no face found")
    assert extracted.tally == {"video_frames": 6, "face_frames": 0, "fixed_crops": 1}
    assert np.isfinite(extracted.values).all()


def test_nothing_of_a_clip_stays_in_the_extractor(face_file, tmp_path):
    extractor = VideoExtractor(VideoFeatureSettings())
    first = extractor.extract(face_file)
    extractor.extract(write_mp4(tmp_path / "a.mp4", moving_square(6)))
    np.testing.assert_array_equal(extractor.extract(face_file).values, first.values)


@pytest.mark.parametrize(
    "change",
    [
        {"frame_rate_hz": 12.5}, {"longest_side_px": 100}, {"smallest_face": 1.0}, {"crop_scale": 1.3},
        {"smoothing_ms": 0},
    ],
)  # fmt: skip
def test_every_setting_changes_the_features(face_file, change):
    usual = VideoExtractor(VideoFeatureSettings()).extract(face_file).values
    other = VideoExtractor(VideoFeatureSettings(**change)).extract(face_file).values
    assert usual.shape != other.shape or not np.allclose(usual, other)
    assert (
        video_info(VideoFeatureSettings(**change)).provenance != video_info(VideoFeatureSettings()).provenance
    )
