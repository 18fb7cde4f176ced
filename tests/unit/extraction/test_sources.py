"""Sources of features: frames of .csd containers with their times, rows of tables in the middle of a clip."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from corpus_fixtures import CorpusFolder
from csd_files import frames, write_csd, write_mosei
from rendered_media import write_wav

from vavl.corpora.card import read_card
from vavl.corpora.manifest import build_manifest
from vavl.data.collection import open_collection
from vavl.data.settings import DataSettings
from vavl.errors import ClipError, CorpusError
from vavl.extraction.extract import extract_features
from vavl.extraction.plan import plan_extraction
from vavl.extraction.settings import ExtractionRun, FeatureSettings
from vavl.extraction.sources import ClipPlace, CsdClips, FeatureTable, csd_info, read_feature_table
from vavl.store.clip_facts import read_facts

CARD = read_card(Path(__file__).parents[3] / "datasets/cmu_mosei.yaml")


def place(key: str) -> ClipPlace:
    return ClipPlace(key, "s1", key, None)


@pytest.fixture
def mosei(tmp_path):
    return write_mosei(tmp_path)


def test_a_clip_has_the_frames_of_its_interval_and_counts_time_from_its_start(mosei):
    clip = CsdClips.open(mosei, CARD.audio).extract(place("v2[0]"))
    assert clip.values.shape == (200, 74)
    assert clip.values.dtype == clip.frame_times.dtype == np.float32
    # The first feature is the frame's middle in the video; the clip starts there at 0.5 s.
    np.testing.assert_allclose(clip.values[:, 0] - 0.5, clip.frame_times, atol=1e-5)
    np.testing.assert_allclose(clip.frame_times[[0, -1]], [0.005, 1.995], atol=1e-5)
    assert clip.facts == {"seconds": 2.0}


def test_neighbouring_clips_share_no_frame_and_lose_none(mosei):
    extractor = CsdClips.open(mosei, CARD.video)
    first, second = (extractor.extract(place(f"v2[{number}]")).values[:, 0] for number in (0, 1))
    together = np.concatenate([first, second])
    assert len(np.unique(together)) == len(together) == 3.5 * 30


def test_values_that_are_not_finite_become_zero_and_are_counted(mosei):
    clip = CsdClips.open(mosei, CARD.audio).extract(place("-a_b[0]"))
    assert clip.tally == {"non_finite_values": 1}
    assert clip.note == "1 of 14800 values were NaN or infinite and are 0"
    assert clip.values[10, 5] == 0
    strict = CsdClips.open(mosei, CARD.audio.model_copy(update={"non_finite": "refuse"}))
    with pytest.raises(ClipError, match=r"-a_b\[0\]: 1 of 14800 values are NaN or infinite"):
        strict.extract(place("-a_b[0]"))


def test_frames_out_of_order_are_put_in_order(mosei):
    intervals, features = frames(4, 100, 74)
    order = np.random.default_rng(1).permutation(len(intervals))
    write_csd(mosei / CARD.audio.file, "COVAREP", {"v2": (intervals[order], features[order])})
    clip = CsdClips.open(mosei, CARD.audio).extract(place("v2[1]"))
    assert (np.diff(clip.frame_times) > 0).all()
    np.testing.assert_allclose(clip.values[:, 0] - 2.5, clip.frame_times, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "message"), [("v9[0]", "there is no such segment"), ("v4[0]", r"no frame lies between 0\.5 and 2\.5 s")]
)
def test_a_clip_without_frames_is_refused(mosei, key, message):
    with pytest.raises(ClipError, match=message):
        CsdClips.open(mosei, CARD.video).extract(place(key))


def test_another_width_is_refused(mosei):
    narrow = CARD.audio.model_copy(update={"width": 73})
    with pytest.raises(ClipError, match="74 features per frame, the card says 73"):
        CsdClips.open(mosei, narrow).extract(place("v2[0]"))


def test_the_provenance_changes_with_either_file(mosei):
    before = csd_info(mosei, CARD.audio)
    assert before.extractor.startswith("csd:")
    assert (before.width, before.frame_rate_hz, before.channels[:2]) == (74, None, ("0", "1"))
    write_mosei(mosei, ("v1", "v2", "v3", "v4"))
    after = csd_info(mosei, CARD.audio)
    assert after.extractor != before.extractor
    assert after.settings["segments"] != before.settings["segments"]


def test_the_containers_become_a_store_that_a_run_can_read(mosei, tmp_path):
    store = tmp_path / "store"
    plan = plan_extraction(CARD, build_manifest(CARD, mosei), mosei, FeatureSettings(), store)
    done = extract_features(plan, ExtractionRun(workers=0))
    assert (done.extracted, done.quarantined, dict(done.tally)) == (14, (), {"non_finite_values": 1})
    assert "-a_b[0]" in (store / "notes.jsonl").read_text(encoding="utf-8")
    facts = read_facts(store).to_pylist()
    assert {fact["file"] for fact in facts} == {"CMU_MOSEI_COVAREP.csd", "CMU_MOSEI_VisualFacet42.csd"}
    assert {fact["seconds"] for fact in facts} == {1.5, 2.0}
    collection = open_collection(DataSettings(store=store, target="soft_label"))
    assert [int(collection.has(side).sum()) for side in ("audio", "video")] == [8, 6]
    row = collection.manifest.table["clip_id"].to_pylist().index("v2[1]")
    np.testing.assert_allclose(collection.target[row], [0, 0, 0.75, 0, 0, 0.25])
    assert collection.lengths(np.array([row])) == [150]
    again = extract_features(plan, ExtractionRun(workers=0))
    assert (again.extracted, again.kept) == (0, 14)


def row(key: str, sound: str | None = None) -> ClipPlace:
    return ClipPlace(key, "s1", key, sound)


@pytest.fixture
def rows(tmp_path) -> FeatureTable:
    values = np.array([[1, 2, 3], [4, np.nan, 6]], dtype=np.float32)
    return FeatureTable(tmp_path, "units.csv", ("a", "b"), ("AU01", "AU02", "AU04"), values, "f" * 64)


def test_a_row_is_one_frame_in_the_middle_of_the_sound(rows, tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros(32_000))
    extracted = rows.extract(row("a", "a.wav"))
    np.testing.assert_array_equal(extracted.values, [[1, 2, 3]])
    np.testing.assert_array_equal(extracted.frame_times, [1.0])


def test_without_sound_the_frame_is_at_0(rows, tmp_path):
    assert rows.extract(row("a")).frame_times.tolist() == [0]
    assert rows.extract(row("a", "missing.wav")).frame_times.tolist() == [0]


def test_missing_rows_and_values_are_refused_by_name(rows):
    with pytest.raises(ClipError, match="no such row"):
        rows.extract(row("c"))
    with pytest.raises(ClipError, match=r"1 features are NaN or infinite: AU02"):
        rows.extract(row("b"))


def test_the_provenance_is_the_file(rows):
    info = rows.info
    assert info.extractor == "table:" + "f" * 16
    assert (info.width, info.channels, info.frame_rate_hz) == (3, ("AU01", "AU02", "AU04"), None)


@pytest.fixture
def corpus(tmp_path) -> CorpusFolder:
    return CorpusFolder(tmp_path / "corpus")


def test_the_feature_table_holds_the_selected_columns(corpus):
    path = corpus.write("units.csv", "frames,AU02,clip,AU01\n9,1.5,m01_s1_ca,\n8,2.5,f01_s1_an,0.25\n")
    table = read_feature_table(corpus.card().video, corpus.root)
    assert table.keys == ("m01_s1_ca", "f01_s1_an")
    assert table.columns == ("AU02", "AU01")
    assert table.values.dtype == np.float32
    np.testing.assert_array_equal(table.values, np.array([[1.5, np.nan], [2.5, 0.25]], np.float32))
    assert table.file_hash == hashlib.sha256(path.read_bytes()).hexdigest()


def test_another_number_of_feature_columns_is_refused(corpus):
    corpus.content["video"]["width"] = 35
    with pytest.raises(CorpusError, match=r"2 columns match AU.*the card says width 35"):
        read_feature_table(corpus.card().video, corpus.root)


def test_a_repeated_key_is_refused(corpus):
    corpus.write("units.csv", "clip,AU01,AU02\nf01_s1_ca,1,2\nf01_s1_ca,1,2\n")
    with pytest.raises(CorpusError, match="clip: key 'f01_s1_ca' occurs twice"):
        read_feature_table(corpus.card().video, corpus.root)
