"""OpenFace tables: columns by name, frame times, the face that is seen best, missed frames."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from openface_tables import FEATURES, NAMES, WIDTH, openface_rows, write_openface
from small_media_corpus import CARD, clip_ids, write_card, write_small_corpus

from vavl.corpora.card import read_card
from vavl.corpora.card_sources import OpenFaceSource
from vavl.corpora.manifest import build_manifest
from vavl.errors import ClipError, CorpusError
from vavl.extraction.plan import plan_extraction
from vavl.extraction.settings import FeatureSettings
from vavl.extraction.sources import openface_settings
from vavl.extractors.extractor import extractor_of, video_extractor, video_info
from vavl.extractors.settings import OpenFaceSettings

SOURCE = {
    "source": "openface",
    "pattern": r"openface/(?P<clip>\w+)",
    "feature_columns": FEATURES,
    "width": WIDTH,
    "frame_rate_hz": 25,
}


def read(path, **change):
    settings = OpenFaceSettings(columns=NAMES[5:], frame_rate_hz=25).model_copy(update=change)
    return video_extractor(settings)(path)


def test_frames_are_read_with_the_times_of_their_middles(tmp_path):
    rows = openface_rows(5)
    found = read(write_openface(tmp_path / "a.csv", rows))
    np.testing.assert_allclose(found.values, rows[:, 5:])
    np.testing.assert_allclose(found.frame_times, (np.arange(5) + 0.5) / 25, rtol=1e-5)
    assert found.tally == {"video_frames": 5, "face_frames": 5, "masked_frames": 0}
    assert found.facts == {"seconds": pytest.approx(0.2), "frame_rate_hz": 25, "face_share": 1}
    assert found.note is None


def test_columns_are_taken_by_name_in_any_order(tmp_path):
    rows = openface_rows(3)
    order = np.random.default_rng(0).permutation(len(NAMES))
    shuffled = write_openface(tmp_path / "a.csv", rows[:, order], tuple(np.array(NAMES)[order]))
    np.testing.assert_array_equal(read(shuffled).values, rows[:, 5:].astype(np.float32))


@pytest.mark.parametrize("missed", ["success", "confidence", "value"])
def test_missed_frames_are_interpolated_or_left_out(tmp_path, missed):
    rows = openface_rows(8)
    bad = rows.copy()
    column, value = {"success": (4, 0), "confidence": (3, 0.5), "value": (7, np.nan)}[missed]
    bad[3:5, column] = value
    bad[3:5, 9:] = 999
    path = write_openface(tmp_path / "a.csv", bad)
    filled = read(path)
    np.testing.assert_allclose(filled.values, rows[:, 5:], rtol=1e-6)
    assert filled.facts["face_share"] == 0.75
    for change in ({"missed": "mask"}, {"longest_gap_s": 0.05}):
        masked = read(path, **change)
        np.testing.assert_allclose(masked.values, np.delete(rows[:, 5:], [3, 4], axis=0), rtol=1e-6)
        assert masked.frame_times[3] == pytest.approx(5.5 / 25)
        assert masked.tally == {"video_frames": 8, "face_frames": 6, "masked_frames": 2}
        assert masked.note == "2 of 8 frames left out: no face in them (75% have one)"


def test_of_several_faces_the_one_that_is_seen_best_is_taken(tmp_path):
    passing, speaker = openface_rows(4, face=0), openface_rows(8, face=1, seed=3)
    rows = np.concatenate([passing, speaker])
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    np.testing.assert_allclose(read(write_openface(tmp_path / "a.csv", rows)).values, speaker[:, 5:])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: rows[:, 4].fill(0), r"no face in any of 6 frames"),
        (lambda rows: rows[:, 2].__setitem__(3, 0), r"does not increase at row 4"),
        (lambda rows: rows[:, 2].__imul__(2), r"12\.5 frames per second, the card says 25"),
    ],
)
def test_tables_that_tell_nothing_or_the_wrong_time_are_refused(tmp_path, change, problem):
    rows = openface_rows(6)
    change(rows)
    with pytest.raises(ClipError, match=problem):
        read(write_openface(tmp_path / "a.csv", rows))


def test_a_table_without_a_column_is_named(tmp_path):
    path = write_openface(tmp_path / "a.csv", openface_rows(3)[:, :-1], NAMES[:-1])
    with pytest.raises(CorpusError, match="AU12_c: no such column"):
        read(path)


def test_the_card_finds_its_columns_in_the_first_table(tmp_path):
    write_openface(tmp_path / "openface/b.csv", openface_rows(3))
    (tmp_path / "openface/readme.txt").write_text("no table")
    settings = openface_settings(OpenFaceSource(**SOURCE, longest_gap_s=0.5), tmp_path)
    assert settings.columns == NAMES[5:]
    assert settings.longest_gap_s == 0.5
    with pytest.raises(CorpusError, match=f"{WIDTH} columns match .* the card says width 3"):
        openface_settings(OpenFaceSource(**{**SOURCE, "width": 3}), tmp_path)
    with pytest.raises(CorpusError, match="no table matches"):
        openface_settings(OpenFaceSource(**{**SOURCE, "pattern": r"faces/(?P<clip>\w+)"}), tmp_path)


def test_a_card_may_pool_its_tables_over_the_frames_with_a_face(tmp_path):
    assert "pooling" not in OpenFaceSource(**SOURCE).model_dump()  # hashes of earlier cards stay
    rows = openface_rows(6)
    rows[2:4, NAMES.index("confidence")] = 0.1
    path = write_openface(tmp_path / "openface/b.csv", rows)
    settings = openface_settings(OpenFaceSource(**SOURCE, pooling="statistics"), tmp_path)
    found = video_extractor(settings)(path).values[0]
    seen = rows[[0, 1, 4, 5], 5:]
    np.testing.assert_allclose(found, np.concatenate([seen.mean(axis=0), seen.std(axis=0)]), rtol=1e-5, atol=1e-6)
    assert video_info(settings).width == 2 * WIDTH


def test_a_model_reads_tables_with_the_settings_of_its_store(tmp_path):
    settings = OpenFaceSettings(columns=NAMES[9:], frame_rate_hz=25, missed="mask")
    assert video_info(settings).channels == NAMES[9:]
    path = write_openface(tmp_path / "a.csv", openface_rows(3))
    extract = extractor_of(asdict(video_info(settings)), "video")
    np.testing.assert_array_equal(extract(path).values, video_extractor(settings)(path).values)


@pytest.mark.parametrize("change", [{"columns": NAMES[6:]}, {"least_confidence": 0.5}, {"missed": "mask"},
                                    {"longest_gap_s": 0.01}, {"frame_rate_hz": 25.5}])  # fmt: skip
def test_every_setting_changes_the_features(tmp_path, change):
    rows = openface_rows(8)
    rows[2:4, 3], rows[2:4, 9:] = 0.6, 50
    path = write_openface(tmp_path / "a.csv", rows)
    usual, other = read(path), read(path, **change)
    is_same = usual.values.shape == other.values.shape and np.allclose(usual.values, other.values)
    assert not is_same or not np.allclose(usual.frame_times, other.frame_times)


def test_openface_tables_are_planned_as_clips_with_the_columns_of_the_first(tmp_path):
    path = write_small_corpus(tmp_path)
    for clip_id in clip_ids(1):
        write_openface(tmp_path / "media/openface" / f"{clip_id}.csv", openface_rows(4))
    video = {
        "source": "openface", "pattern": CARD["video"]["pattern"].replace("video/", "openface/"),
        "feature_columns": r"AU\d\d_r", "width": 4, "frame_rate_hz": 25,
    }  # fmt: skip
    card = read_card(write_card(path, video=video))
    manifest = build_manifest(card, tmp_path / "media")
    plan = plan_extraction(card, manifest, tmp_path / "media", FeatureSettings(), tmp_path / "store")
    assert manifest.table["video_path"][0].as_py() == "openface/f01_calm_00.csv"
    assert (plan.infos["video"].extractor, plan.infos["video"].width) == ("openface", 4)
    assert plan.infos["video"].channels == ("AU01_r", "AU02_r", "AU04_r", "AU12_r")
