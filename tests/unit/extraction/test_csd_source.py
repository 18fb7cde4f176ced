"""Features from containers of the CMU Multimodal SDK: the right frames, with their times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from csd_files import frames, write_csd, write_mosei

from vavl.corpora.card import read_card
from vavl.corpora.manifest import build_manifest
from vavl.data.collection import open_collection
from vavl.data.settings import DataSettings
from vavl.errors import ClipError
from vavl.extraction.extract import extract_features
from vavl.extraction.plan import plan_extraction
from vavl.extraction.settings import ExtractionRun, FeatureSettings
from vavl.extraction.sources import ClipPlace, CsdClips, csd_info
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
    ("key", "message"),
    [("v9[0]", "there is no such segment"), ("v4[0]", r"no frame lies between 0\.5 and 2\.5 s")],
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
    assert collection.lengths()[row] == 150
    again = extract_features(plan, ExtractionRun(workers=0))
    assert (again.extracted, again.kept) == (0, 14)
