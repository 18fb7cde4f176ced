"""The media formats of the shipped cards, rendered small, from the corpus directory to a store."""

from __future__ import annotations

from pathlib import Path

import pytest
from film import write_film

from vavl.corpora.card import read_card
from vavl.corpora.manifest import build_manifest
from vavl.extraction.extract import extract_features
from vavl.extraction.plan import plan_extraction
from vavl.extraction.settings import ExtractionRun, FeatureSettings
from vavl.extractors.extractor import audio_extractor, video_extractor
from vavl.extractors.settings import AudioFeatureSettings, VideoFeatureSettings

FOLDER = Path(__file__).parents[3] / "datasets"


def test_a_corpus_of_films_gives_both_sides_of_every_clip(tmp_path):
    root = tmp_path / "enterface database"
    for number, subject in enumerate((1, 2, 3, 4, 5, 7, 8, 9, 10, 11)):
        write_film(root / f"subject {subject}/anger/sentence 1/s{subject}_an_1.avi", seed=number)
    card = read_card(FOLDER / "enterface05.yaml")
    plan = plan_extraction(card, build_manifest(card, root), root, FeatureSettings(), tmp_path / "store")
    done = extract_features(plan, ExtractionRun(workers=0))
    assert (done.extracted, done.quarantined) == (20, ())
    for modality in ("audio", "video"):
        assert done.store.clip_ids(modality).to_pylist()[0] == "subject 1/anger/sentence 1"


@pytest.mark.parametrize("suffix", [".flv", ".avi", ".mp4"])
def test_sound_and_pictures_of_a_film_cover_the_same_time(tmp_path, suffix):
    path = write_film(tmp_path / f"film{suffix}")
    pictures, sound = (video_extractor(VideoFeatureSettings())(path), audio_extractor(AudioFeatureSettings())(path))
    assert len(pictures.values) == 15
    # A codec fills its last block: sound may be some hundredths longer.
    assert sound.frame_times[-1] == pytest.approx(pictures.frame_times[-1], abs=0.08)
    assert abs(sound.frame_times[0] - pictures.frame_times[0]) < 0.05
