"""The face descriptor: each group of channels sees what it is named after; from a video file to its features."""

from __future__ import annotations

import numpy as np
import pytest
from rendered_media import moving_square, write_mp4
from talking_face import talking_face

from vavl.errors import ClipError, ConfigError
from vavl.extractors.descriptor import VideoExtractor, channel_names, describe_face
from vavl.extractors.extractor import check_features, video_info
from vavl.extractors.faces import CROP_PX, FaceTrack
from vavl.extractors.settings import OpenFaceSettings, VideoFeatureSettings

NAMES = channel_names()


def track_of(boxes: list[list[float]]) -> FaceTrack:
    return FaceTrack(np.array(boxes, dtype=np.float32), np.ones(len(boxes), dtype=bool), None)


def still(frames: int) -> FaceTrack:
    return track_of([[80, 80, 100]] * frames)


def texture(seed: int = 0) -> np.ndarray:
    """Return a smooth random picture (128, 128), uint8."""
    rough = np.random.default_rng(seed).normal(size=(16, 16))
    fine = np.kron(rough, np.ones((8, 8)))
    for axis in (0, 1):
        fine = sum(np.roll(fine, shift, axis) for shift in range(-4, 5)) / 9
    return np.clip(128 + 90 * fine, 0, 255).astype(np.uint8)


def channels(values: np.ndarray, start: str) -> np.ndarray:
    chosen = [place for place, name in enumerate(NAMES) if name.startswith(start)]
    assert chosen
    return values[:, chosen]


def test_every_channel_has_a_name_of_its_own():
    values = describe_face(np.stack([texture()[:64, :64]] * 3), still(3), 25)
    assert values.shape == (3, len(NAMES))
    assert len(set(NAMES)) == len(NAMES) == 186
    assert values.dtype == np.float32


def test_a_still_face_has_appearance_and_no_motion():
    values = describe_face(np.stack([texture()[:64, :64]] * 4), still(4), 25)
    # Farneback's estimate between two equal pictures is small, not zero.
    np.testing.assert_allclose(values, np.tile(values[:1], (4, 1)), atol=0.02)
    for start in ("change", "head_speed"):
        np.testing.assert_array_equal(channels(values, start), 0)
    assert np.abs(channels(values, "edge")).sum() > 0


@pytest.mark.parametrize(("step", "axis"), [((0, 1), "x"), ((1, 0), "y")])
def test_flow_has_direction_and_speed(step, axis):
    ground = texture()
    crops = np.stack([ground[32 - n * step[0] :, 32 - n * step[1] :][:64, :64] for n in range(4)])
    values = describe_face(crops, still(4), 25)
    along = [name for name in NAMES if name.startswith("flow") and name.endswith(axis)]
    across = [name for name in NAMES if name.startswith("flow") and not name.endswith(axis)]
    moving = values[1:, [NAMES.index(name) for name in along]]
    assert np.median(moving) == pytest.approx(25 / CROP_PX, rel=0.25)
    assert np.abs(np.median(values[1:, [NAMES.index(name) for name in across]])) < 0.05
    assert (channels(values, "change")[1:] > 0).all()
    np.testing.assert_array_equal(values[0, [NAMES.index(name) for name in along]], 0)


def test_a_moving_mouth_changes_the_lower_cells_most():
    closed = texture()[:64, :64].copy()
    opened = closed.copy()
    opened[50:60, 20:44] = 10
    change = channels(describe_face(np.stack([closed, opened]), still(2), 25), "change")[1].reshape(4, 4)
    assert change[3, 1:3].min() > 2 * change[:2].max()


def test_orientations_are_told_apart():
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::8] = stripes[:, 1::8] = stripes[:, 2::8] = stripes[:, 3::8] = 200
    values = describe_face(np.stack([stripes, stripes.T]), still(2), 25)
    upright = channels(values, "edge").reshape(2, 16, 6).sum(axis=1)
    assert upright[0].argmax() == 0  # the gradient of upright stripes points to the right
    assert upright[1].argmax() == 3


def test_lighting_hardly_counts():
    bright = texture()[:64, :64]
    dark = (bright.astype(float) * 0.6 + 10).astype(np.uint8)
    one, other = (
        describe_face(np.stack([bright] * 2), still(2), 25),
        describe_face(np.stack([dark] * 2), still(2), 25),
    )
    np.testing.assert_allclose(one, other, atol=0.03)


def test_head_movement_is_in_face_sizes_and_per_second():
    track = track_of([[80, 80, 100], [90, 80, 100], [100, 80, 100], [110, 60, 110], [120, 60, 110]])
    values = describe_face(np.stack([texture()[:64, :64]] * 5), track, 25)
    place = {name: values[:, NAMES.index(name)] for name in NAMES if name.startswith("head")}
    np.testing.assert_allclose(place["head_x"], [-0.2, -0.1, 0, 0.1, 0.2], atol=1e-6)
    np.testing.assert_allclose(place["head_speed_x"], [0, 2.5, 2.5, 2.5, 2.5], atol=1e-5)
    np.testing.assert_allclose(place["head_log_size"][3], np.log(1.1), atol=1e-6)
    np.testing.assert_allclose(values[:, NAMES.index("face_found")], 1)


def test_a_crop_of_one_colour_gives_finite_values():
    crops = np.full((3, CROP_PX, CROP_PX), 9, dtype=np.uint8)
    assert np.isfinite(describe_face(crops, still(3), 25)).all()


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
    extracted = VideoExtractor(VideoFeatureSettings()).extract(write_mp4(tmp_path / "a.mp4", moving_square(6)))
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
        check_features(OpenFaceSettings(columns=("AU01_r",), frame_rate_hz=25), "video")


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
    assert video_info(VideoFeatureSettings(**change)).provenance != video_info(VideoFeatureSettings()).provenance
