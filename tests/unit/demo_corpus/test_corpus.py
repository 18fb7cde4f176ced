"""The whole corpus: resumption, refusal of other settings and foreign media, and its tables."""

from __future__ import annotations

import csv
import shutil

import cv2
import pytest

from demo_corpus.corpus import check_directory, render_corpus
from demo_corpus.latent import clips_of
from demo_corpus.settings import EMOTIONS, DemoCorpusSettings, audio_path, settings_hash, video_path
from vavl.config.files import read_json
from vavl.corpora.card import read_card
from vavl.corpora.manifest import TEST, build_manifest
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


def test_the_shipped_card_fits_the_layout_and_the_number_of_clips(tmp_path, pytestconfig, caplog):
    clips = clips_of(DemoCorpusSettings())
    for clip in clips:
        for path in (audio_path, video_path):
            place = path(tmp_path, clip.speaker, clip.clip_id)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
    manifest = build_manifest(read_card(pytestconfig.rootpath / "datasets" / "demo.yaml"), tmp_path)
    assert manifest.table["clip_id"].to_pylist() == sorted(clip.clip_id for clip in clips)
    assert manifest.classes == EMOTIONS
    assert manifest.table["audio_path"].null_count == manifest.table["video_path"].null_count == 0
    assert (manifest.split(0) == TEST).sum() >= 120
    assert not caplog.records


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
