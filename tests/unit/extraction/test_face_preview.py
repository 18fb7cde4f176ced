"""The sheet of found faces: clips from all of the corpus, frames that say what was found, reasons for the others."""

from __future__ import annotations

import cv2
import numpy as np
from rendered_media import write_mp4
from small_media_corpus import write_card, write_small_corpus
from talking_face import talking_face

from vavl.corpora.card import read_card
from vavl.corpora.manifest import build_manifest
from vavl.extraction.face_preview import clip_row, write_face_preview
from vavl.extraction.plan import plan_extraction
from vavl.extraction.settings import FeatureSettings
from vavl.extractors.faces import FaceFinder
from vavl.extractors.settings import VideoFeatureSettings

FOUND, FILLED, LEFT_OUT = (60, 160, 60), (240, 160, 0), (210, 40, 40)


def colours_of(row: np.ndarray) -> list[tuple[int, ...]]:
    """Return the color of the frame around each of the eight crops."""
    return [tuple(int(value) for value in row[52, 260 + 104 * number + 2]) for number in range(8)]


def row_of(path, **faces):
    settings = VideoFeatureSettings(faces=faces)
    return clip_row("a", path, settings, FaceFinder(settings.faces, settings.frame_rate_hz))


def test_frames_say_what_was_found_filled_and_left_out(tmp_path):
    pictures = talking_face(8)
    pictures[3:6] = 128
    path = write_mp4(tmp_path / "a.mp4", pictures)
    found = [FOUND] * 3, [FOUND] * 2
    assert colours_of(row_of(path)) == [*found[0], *[FILLED] * 3, *found[1]]
    assert colours_of(row_of(path, missed="mask")) == [*found[0], *[LEFT_OUT] * 3, *found[1]]
    crop = row_of(path)[4:-4, 264:360]
    assert crop.std() > 20


def test_a_clip_that_cannot_be_read_is_named_with_its_reason(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    row = row_of(tmp_path / "a.mp4")
    assert colours_of(row) == [(255, 255, 255)] * 8
    assert (row[:, :260] < 128).any()


def test_the_sheet_holds_clips_from_all_of_the_corpus(tmp_path, caplog):
    card = read_card(write_small_corpus(tmp_path))
    manifest, media = build_manifest(card, tmp_path / "media"), tmp_path / "media"
    plan = plan_extraction(card, manifest, media, FeatureSettings(), tmp_path / "store")
    path = write_face_preview(plan, 3)
    assert path == tmp_path / "store/faces.png"
    assert cv2.imread(str(path)).shape == (40 + 3 * 104, 260 + 8 * 104, 3)
    write_face_preview(plan, 50)
    assert cv2.imread(str(path)).shape[0] == 40 + 12 * 104

    sound_only = read_card(write_card(tmp_path / "tiny.yaml", video=None))
    plan = plan_extraction(sound_only, build_manifest(sound_only, media), media, FeatureSettings(), tmp_path / "b")
    assert write_face_preview(plan, 3) is None
    assert "no faces are looked for" in caplog.text
