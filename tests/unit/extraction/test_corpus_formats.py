"""The media formats of the shipped cards, rendered small, from the corpus directory to a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value, Video
from rendered_media import moving_square, tone, write_media

from demo_corpus.corpus import render_corpus
from demo_corpus.latent import clips_of
from demo_corpus.settings import EMOTIONS, DemoCorpusSettings, audio_path, video_path
from vavl.config.load import validate
from vavl.corpora.card import CorpusCard, read_card
from vavl.corpora.manifest import build_manifest
from vavl.extraction.extract import extract_features
from vavl.extraction.plan import plan_extraction
from vavl.extraction.settings import ExtractionRun, FeatureSettings
from vavl.extractors.extractor import audio_extractor, video_extractor
from vavl.extractors.settings import AudioFeatureSettings, VideoFeatureSettings

FOLDER = Path(__file__).parents[3] / "datasets"
CODECS = {".avi": ("mpeg4", "pcm_s16le"), ".flv": ("flv", "libmp3lame"), ".mp4": ("libx264", "aac")}
RATE_HZ = 22_050


def write_film(path: Path, frames: int = 15, seed: int = 0) -> Path:
    """Write pictures at 25 per second with a tone of the same length; the suffix names the format."""
    (video, audio), sound = CODECS[path.suffix], tone(200 + seed, frames / 25, RATE_HZ, 0.5)
    return write_media(path, moving_square(frames, seed=seed), sound, video=video, audio=audio, sound_rate_hz=RATE_HZ)


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


def test_hugging_face_datasets_go_from_a_card_to_a_store(tmp_path):
    """Audio of the demo as an audiofolder with metadata.csv, its video as bytes in a parquet."""
    demo = DemoCorpusSettings(women=1, men=0, sentences=1, takes=1)
    render_corpus(tmp_path, demo, workers=1)
    clips = clips_of(demo)
    sounds, videos = (
        [place(tmp_path, clip.speaker, clip.clip_id) for clip in clips] for place in (audio_path, video_path)
    )
    facts = [(clip.clip_id, f"speaker {number % 3}", clip.emotion) for number, clip in enumerate(clips)]
    lines = [
        ",".join((str(sound.relative_to(tmp_path / "audio")), *row)) for sound, row in zip(sounds, facts, strict=True)
    ]
    (tmp_path / "audio/metadata.csv").write_text("\n".join(["file_name,id,person,emotion", *lines, ""]))
    text = Value("string")
    kinds = {"picture": Video(decode=False), "id": text, "person": text, "emotion": ClassLabel(names=list(EMOTIONS))}
    pairs = [{"bytes": video.read_bytes(), "path": None} for video in videos]
    rows = [dict(zip(kinds, (pair, *row), strict=True)) for pair, row in zip(pairs, facts, strict=True)]
    Dataset.from_list(rows, features=Features(kinds)).to_parquet(tmp_path / "video.parquet")

    content = read_card(FOLDER / "demo.yaml").model_dump(
        mode="json", exclude={"classes", "sex", "groups", "yardsticks"}
    )
    content["audio"] = {"source": "hf", "load": "audiofolder", "data_dir": "audio", "clip": "id"}
    content["video"] = {
        "source": "hf",
        "load": "parquet",
        "data_files": "video.parquet",
        "column": "picture",
        "clip": "id",
    }
    content["speaker"] = {"group": "person"}
    content["splits"] |= {"folds": {"source": "list", "test_speakers": {0: ["speaker 0"]}}, "validation_speakers": 1}
    content["expected"] = {"clips": 6, "speakers": 3}
    card = validate(CorpusCard, content, source="demo.yaml")
    manifest = build_manifest(card, tmp_path)
    assert manifest.classes == EMOTIONS
    assert manifest.table["label"].to_pylist() == [emotion for _, _, emotion in sorted(facts)]

    plan = plan_extraction(card, manifest, tmp_path, FeatureSettings(), tmp_path / "store")
    store = extract_features(plan, ExtractionRun(workers=0)).store
    extractors = (audio_extractor(AudioFeatureSettings()), video_extractor(VideoFeatureSettings()))
    for modality, extract, files in zip(("audio", "video"), extractors, (sounds, videos), strict=True):
        ids = store.clip_ids(modality).to_pylist()
        assert ids == sorted(clip.clip_id for clip in clips)
        row = ids.index(clips[0].clip_id)
        np.testing.assert_allclose(store.features(modality, row), extract(files[0]).values, rtol=1e-5, atol=1e-4)
