"""From a video file to features: faces, times, reasons, and every setting counts."""

from __future__ import annotations

import numpy as np
import pytest
from rendered_media import moving_square, write_mp4
from talking_face import talking_face

from vavl.errors import ClipError, ConfigError
from vavl.extractors.descriptor import VideoExtractor
from vavl.extractors.extractor import check_video, video_info
from vavl.extractors.settings import OpenFaceSettings, VideoFeatureSettings


@pytest.fixture(scope="module")
def face_file(tmp_path_factory):
    return write_mp4(tmp_path_factory.mktemp("video") / "a.mp4", talking_face(8))


def test_a_face_is_described_frame_by_frame(face_file):
    extracted = VideoExtractor(VideoFeatureSettings()).extract(face_file)
    assert extracted.values.shape == (8, video_info(VideoFeatureSettings()).width)
    np.testing.assert_allclose(extracted.frame_times, (np.arange(8) + 0.5) / 25, rtol=1e-5)
    assert extracted.tally == {"video_frames": 8, "face_frames": 8, "masked_frames": 0, "fixed_crops": 0}
    assert extracted.note is None
    assert extracted.facts == {
        "seconds": pytest.approx(0.32), "frame_rate_hz": 25, "width_px": 160, "height_px": 160, "face_share": 1
    }  # fmt: skip


def test_a_video_without_face_says_why_its_crop_is_fixed(tmp_path):
    extracted = VideoExtractor(VideoFeatureSettings()).extract(
        write_mp4(tmp_path / "a.mp4", moving_square(6))
    )
    assert extracted.note is not None
    assert extracted.note.startswith("no face found")
    assert extracted.tally == {"video_frames": 6, "face_frames": 0, "masked_frames": 0, "fixed_crops": 1}
    assert extracted.facts["face_share"] == 0
    assert np.isfinite(extracted.values).all()


def test_nothing_of_a_clip_stays_in_the_extractor(face_file, tmp_path):
    extractor = VideoExtractor(VideoFeatureSettings())
    first = extractor.extract(face_file)
    extractor.extract(write_mp4(tmp_path / "a.mp4", moving_square(6)))
    np.testing.assert_array_equal(extractor.extract(face_file).values, first.values)


def half_hidden(tmp_path):
    """Write a face that is gone in the frames 3 to 5 of 8."""
    pictures = talking_face(8)
    pictures[3:6] = 128
    return write_mp4(tmp_path / "gone.mp4", pictures)


def test_missed_frames_are_filled_or_left_out_and_counted(tmp_path):
    path = half_hidden(tmp_path)
    filled = VideoExtractor(VideoFeatureSettings()).extract(path)
    assert filled.values.shape[0] == 8
    for faces in ({"missed": "mask"}, {"longest_gap_s": 0.1}):
        masked = VideoExtractor(VideoFeatureSettings(faces=faces)).extract(path)
        assert masked.tally == {"video_frames": 8, "face_frames": 5, "masked_frames": 3, "fixed_crops": 0}
        np.testing.assert_array_equal(masked.values, np.delete(filled.values, [3, 4, 5], axis=0))
        np.testing.assert_array_equal(masked.frame_times, np.delete(filled.frame_times, [3, 4, 5]))
        assert masked.note == "3 of 8 frames left out: no face in them (62% have one)"
        assert masked.facts["face_share"] == 0.625


def test_a_clip_without_any_face_has_nothing_to_give_where_missed_frames_are_left_out(tmp_path):
    path = write_mp4(tmp_path / "a.mp4", moving_square(6))
    with pytest.raises(ClipError, match=r"no face found in any of 6 frames, and faces\.missed is mask"):
        VideoExtractor(VideoFeatureSettings(faces={"missed": "mask"})).extract(path)


def test_settings_of_tables_are_refused_for_video_files():
    with pytest.raises(ConfigError, match="openface reads tables"):
        check_video(OpenFaceSettings(columns=("AU01_r",), frame_rate_hz=25))


@pytest.mark.parametrize(
    "change",
    [
        {"frame_rate_hz": 12.5}, {"faces": {"longest_side_px": 100}}, {"faces": {"smallest_face": 1.0}},
        {"crop_scale": 1.3}, {"faces": {"smoothing_ms": 0}},
    ],
)  # fmt: skip
def test_every_setting_changes_the_features(face_file, change):
    usual = VideoExtractor(VideoFeatureSettings()).extract(face_file).values
    other = VideoExtractor(VideoFeatureSettings(**change)).extract(face_file).values
    assert usual.shape != other.shape or not np.allclose(usual, other)
    assert (
        video_info(VideoFeatureSettings(**change)).provenance != video_info(VideoFeatureSettings()).provenance
    )
