"""From a corpus to a store: complete, resumable, tolerant of few bad files and of nothing else."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rendered_media import write_sound_only_mp4
from small_media_corpus import clip_ids, write_card, write_small_corpus

from vavl.config.files import read_json
from vavl.data.card import read_card
from vavl.data.manifest import Manifest, build_manifest
from vavl.data.store import FeatureStore
from vavl.errors import ConfigError, InputError, StoreError
from vavl.features import part as part_room
from vavl.features.audio import extract_audio
from vavl.features.audio_settings import AudioFeatureSettings
from vavl.features.extract import ExtractionResult, ExtractionRun, extract_features
from vavl.features.plan import ExtractionPlan, plan_extraction
from vavl.features.quarantine import read_quarantine
from vavl.features.settings import FeatureSettings
from vavl.features.summary import extraction_summary, summary_rows
from vavl.features.video import VideoExtractor
from vavl.features.video_settings import VideoFeatureSettings

HERE = ExtractionRun(processes=0, max_quarantined_share=0.2)
TAKES = 3


@pytest.fixture(scope="module")
def made_corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_small_corpus(folder, takes=TAKES)
    return folder


@pytest.fixture
def corpus(made_corpus, tmp_path) -> Path:
    """Return a copy of the corpus that a test may damage."""
    return Path(shutil.copytree(made_corpus, tmp_path / "corpus"))


def plan_of(corpus: Path, store: Path, settings: FeatureSettings | None = None) -> ExtractionPlan:
    card = read_card(corpus / "tiny.yaml")
    root = corpus / "media"
    return plan_extraction(card, build_manifest(card, root), root, settings or FeatureSettings(), store)


def extract(corpus: Path, store: Path, run: ExtractionRun = HERE) -> ExtractionResult:
    return extract_features(plan_of(corpus, store), run)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a store by name, but for the (empty) lock."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert "store.json" in files
    return {name: path.read_bytes() for name, path in files.items() if name != "parts/lock"}


def test_every_clip_is_in_the_store_with_the_features_of_its_file(made_corpus, tmp_path):
    result = extract(made_corpus, tmp_path)
    store, ids = FeatureStore.open(tmp_path), Manifest.read(tmp_path).table["clip_id"]
    assert ids.to_pylist() == sorted(clip_ids(TAKES))
    assert (result.extracted, result.continued, result.quarantined) == (72, 0, ())
    audio = extract_audio(made_corpus / "media/audio/m01_glad_02.wav", AudioFeatureSettings())
    video = VideoExtractor(VideoFeatureSettings()).extract(made_corpus / "media/video/m01_glad_02.mp4")
    row = ids.to_pylist().index("m01_glad_02")
    for modality, expected in (("audio", audio), ("video", video)):
        at = store.rows(modality, ids)
        assert (at == np.arange(36)).all()
        np.testing.assert_allclose(
            store.features(modality, int(at[row])), expected.values, rtol=1e-5, atol=1e-4
        )
        np.testing.assert_array_equal(store.frame_times(modality, row), expected.frame_times)
    store.verify()


def test_the_summary_counts(made_corpus, tmp_path):
    result = extract(made_corpus, tmp_path)
    summary = extraction_summary(plan_of(made_corpus, tmp_path), result)
    assert {key: summary[key] for key in ("clips", "paired_clips", "audio_clips", "video_frames", "quarantined")} == {
        "clips": 36, "paired_clips": 36, "audio_clips": 36, "video_frames": 144, "quarantined": 0,
    }  # fmt: skip
    assert (summary["face_share"], summary["fixed_crops"]) == (0, 36)
    assert summary["store_hash"] == FeatureStore.open(tmp_path).hash
    assert "36 clips, 144 frames" in dict(summary_rows(summary, tmp_path))["video"]
    notes = [json.loads(line) for line in (tmp_path / "notes.jsonl").read_text().splitlines()]
    assert len(notes) == 36
    assert notes[0]["note"].startswith("no face found")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch use one thread here, as the processes of an extraction do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_processes_give_the_same_bytes_as_none_and_a_finished_store_is_left_as_it_is(made_corpus, tmp_path):
    run = ExtractionRun(processes=2)
    extract(made_corpus, tmp_path / "two", run)
    extract(made_corpus, tmp_path / "one")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    again = extract(made_corpus, tmp_path / "two", run)
    assert (again.extracted, again.continued) == (0, 72)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_bad_files_go_to_quarantine_and_the_other_side_of_their_clips_stays(corpus, tmp_path):
    media = corpus / "media"
    wav = media / "audio/f01_calm_00.wav"
    wav.write_bytes(wav.read_bytes()[:500])
    (media / "audio/f02_calm_00.wav").write_bytes(b"")
    (media / "video/f03_calm_00.mp4").write_bytes(b"no video")
    write_sound_only_mp4(media / "video/m01_calm_00.mp4", np.zeros(3200))
    result = extract(corpus, tmp_path / "store")
    assert read_quarantine(tmp_path / "store") == list(result.quarantined)
    reasons = {(entry.clip_id, entry.modality): entry.reason for entry in result.quarantined}
    assert set(reasons) == {
        ("f01_calm_00", "audio"), ("f02_calm_00", "audio"), ("f03_calm_00", "video"), ("m01_calm_00", "video"),
    }  # fmt: skip
    assert reasons[("f01_calm_00", "audio")].startswith("cut off: 500 of")
    assert reasons[("m01_calm_00", "video")] == "the file has no video stream"
    store, ids = result.store, Manifest.read(tmp_path / "store").table["clip_id"]
    assert (store.info["audio"].clips, store.info["video"].clips) == (34, 34)
    place = ids.to_pylist().index("f01_calm_00")
    assert store.rows("audio", ids)[place] == -1
    assert store.rows("video", ids)[place] >= 0


def test_repaired_files_leave_quarantine_at_the_next_call(corpus, made_corpus, tmp_path):
    path = corpus / "media/audio/f01_calm_00.wav"
    path.write_bytes(b"")
    assert len(extract(corpus, tmp_path / "store").quarantined) == 1
    shutil.copy(made_corpus / "media/audio/f01_calm_00.wav", path)
    assert extract(corpus, tmp_path / "store").quarantined == ()
    extract(made_corpus, tmp_path / "other")
    assert contents(tmp_path / "store") == contents(tmp_path / "other")


def test_too_many_bad_files_end_the_job_and_leave_their_list(corpus, tmp_path):
    for clip_id in clip_ids(TAKES)[:3]:
        (corpus / "media/audio" / f"{clip_id}.wav").write_bytes(b"")
    with pytest.raises(InputError, match=r"(?s)more than 2 of 72 files.*max_quarantined_share"):
        extract(corpus, tmp_path / "store", ExtractionRun(0, max_quarantined_share=0.03))
    assert len(read_quarantine(tmp_path / "store")) == 3
    with pytest.raises(StoreError, match="incomplete"):
        FeatureStore.open(tmp_path / "store")


def test_a_failure_in_the_middle_is_continued_and_finished_parts_are_not_done_again(
    made_corpus, tmp_path, monkeypatch
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    extract(made_corpus, whole)
    calls = []
    real = part_room.require_finite

    def stop_at_40(path, modality, extracted):
        calls.append(path)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return real(path, modality, extracted)

    monkeypatch.setattr(part_room, "require_finite", stop_at_40)
    with pytest.raises(KeyboardInterrupt):
        extract(made_corpus, broken)
    kept = {path.name: path.stat().st_mtime_ns for path in (broken / "parts").glob("*.parquet")}
    assert len(kept) == 3
    monkeypatch.setattr(part_room, "require_finite", real)
    result = extract(made_corpus, broken)
    assert (result.extracted, result.continued) == (36, 36)
    assert {name: (broken / "parts" / name).stat().st_mtime_ns for name in kept} == kept
    assert contents(broken) == contents(whole)


def test_a_damaged_part_is_done_again(made_corpus, tmp_path):
    extract(made_corpus, tmp_path)
    before = contents(tmp_path)
    (tmp_path / "parts/audio-00001.parquet").write_bytes(b"cut off")
    assert extract(made_corpus, tmp_path).extracted == 16
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            FeatureSettings(audio=AudioFeatureSettings(hop_ms=10)),
            r"other audio features \(hop_ms 20.0 -> 10.0\)",
        ),
        (FeatureSettings(video=VideoFeatureSettings(crop_scale=1.2)), r"crop_scale 1\.0 -> 1\.2"),
    ],
)
def test_other_settings_are_refused_or_start_anew_when_told(made_corpus, tmp_path, settings, problem):
    extract(made_corpus, tmp_path)
    plan = plan_of(made_corpus, tmp_path, settings)
    with pytest.raises(StoreError, match=rf"(?s){problem}.*resume=false"):
        extract_features(plan, HERE)
    FeatureStore.open(tmp_path)
    anew = extract_features(plan, ExtractionRun(0, resume=False))
    assert anew.continued == 0
    assert set(contents(tmp_path)) == set(contents(tmp_path))
    assert read_json(tmp_path / "parts/extraction.json") == plan.identity()


def test_another_card_or_other_clips_are_refused(corpus, tmp_path):
    extract(corpus, tmp_path / "store")
    for modality, suffix in (("audio", ".wav"), ("video", ".mp4")):
        (corpus / "media" / modality / f"f01_calm_00{suffix}").unlink()
    with pytest.raises(StoreError, match="clips in the corpus folder are not those"):
        extract(corpus, tmp_path / "store")
    write_card(corpus / "tiny.yaml", classes=["glad", "calm"], expected={"clips": 36, "speakers": 6})
    with pytest.raises(StoreError, match="another card"):
        extract(corpus, tmp_path / "store")


def test_two_jobs_do_not_write_one_store(made_corpus, tmp_path):
    (tmp_path / "parts").mkdir()
    with (tmp_path / "parts/lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another job is writing"):
            extract(made_corpus, tmp_path)


def test_settings_that_cannot_work_are_refused_before_any_file_is_read(made_corpus, tmp_path):
    settings = FeatureSettings(audio=AudioFeatureSettings(mel_bands=512))
    with pytest.raises(ConfigError, match="narrower than the frequency resolution"):
        plan_of(made_corpus, tmp_path, settings)


def test_a_table_stands_for_the_video(corpus, tmp_path):
    lines = ["clip,one,two"] + [
        f"{clip_id},{number},{-number}" for number, clip_id in enumerate(clip_ids(TAKES))
    ]
    lines[-1] = lines[-1].rsplit(",", 1)[0] + ","
    (corpus / "media/units.csv").write_text("\n".join(lines) + "\n")
    table = {
        "source": "table", "file": "units.csv", "key_column": "clip", "feature_columns": "one|two", "width": 2,
        "pattern": r"(?P<clip>(?P<speaker>(?P<sex>[fm])\d\d)_(?P<label>[a-z]+)_(?P<take>\d\d))",
    }  # fmt: skip
    write_card(corpus / "tiny.yaml", video=table, expected={"clips": 36, "speakers": 6})
    result = extract(corpus, tmp_path / "store")
    info = result.store.info["video"]
    assert (info.width, info.channels, info.clips, info.frames) == (2, ("one", "two"), 35, 35)
    assert info.extractor.startswith("table:")
    row = int(result.store.rows("video", result.store.clip_ids("video").slice(1, 1))[0])
    np.testing.assert_array_equal(result.store.features("video", row), [[1, -1]])
    np.testing.assert_allclose(result.store.frame_times("video", row), [0.1])
    (missing,) = result.quarantined
    assert missing.reason == "1 features are NaN or infinite: two"


def test_a_folder_that_cannot_be_written_is_an_input_error(made_corpus, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="cannot be written"):
        extract(made_corpus, tmp_path / "file/store")
