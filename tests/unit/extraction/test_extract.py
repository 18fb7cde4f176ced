"""From a corpus to a store: complete, resumable, tolerant of few bad files and of nothing else."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from rendered_media import tone, write_mp4, write_sound_only_mp4, write_wav
from small_extraction import HERE, TAKES, contents, extract, plan_of
from small_media_corpus import clip_ids, write_card

from vavl.config.files import sha256_of_file
from vavl.corpora.manifest import Manifest
from vavl.errors import ConfigError, InputError, StoreError, TrainingError
from vavl.extraction import parts
from vavl.extraction.extract import extract_features
from vavl.extraction.parts import PartExtractor
from vavl.extraction.report import Quarantined, extraction_summary, summary_rows
from vavl.extraction.settings import ExtractionRun, FeatureSettings
from vavl.extractors.descriptor import VideoExtractor
from vavl.extractors.extractor import extract_audio
from vavl.extractors.settings import AudioFeatureSettings, VideoFeatureSettings
from vavl.store.clip_facts import read_facts
from vavl.store.store import FeatureStore
from vavl.workers import ray_pool
from vavl.workers.local import uses_ray


def read_quarantine(store: Path) -> list[Quarantined]:
    lines = (store / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    return [Quarantined(**json.loads(line)) for line in lines]


def test_every_clip_is_in_the_store_with_the_features_of_its_file(made_corpus, tmp_path):
    result = extract(made_corpus, tmp_path)
    store, ids = FeatureStore.open(tmp_path), Manifest.read(tmp_path).table["clip_id"]
    assert ids.to_pylist() == sorted(clip_ids(TAKES))
    assert (result.extracted, result.kept, result.added, result.quarantined) == (72, 0, 72, ())
    audio = extract_audio(made_corpus / "media/audio/m01_glad_02.wav", AudioFeatureSettings())
    video = VideoExtractor(VideoFeatureSettings()).extract(made_corpus / "media/video/m01_glad_02.mp4")
    row = ids.to_pylist().index("m01_glad_02")
    for modality, expected in (("audio", audio), ("video", video)):
        at = store.rows(modality, ids)
        assert (at == np.arange(36)).all()
        np.testing.assert_allclose(store.features(modality, int(at[row])), expected.values, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(store.frame_times(modality, row), expected.frame_times)
    store.verify()


def test_a_modality_that_carries_nothing_counts_as_missing(corpus, tmp_path):
    silent, still = clip_ids(TAKES)[2:4]
    write_wav(corpus / f"media/audio/{silent}.wav", np.zeros(3200))
    write_mp4(corpus / f"media/video/{still}.mp4", np.zeros((12, 64, 64, 3), np.uint8))
    result = extract(corpus, tmp_path / "store")
    store = FeatureStore.open(tmp_path / "store")
    assert silent not in store.clip_ids("audio").to_pylist()
    assert silent in store.clip_ids("video").to_pylist()
    assert still not in store.clip_ids("video").to_pylist()
    assert result.quarantined == ()
    summary = extraction_summary(result)
    assert summary["without_signal"] == {"audio": 1, "video": 1}
    assert any("without signal" in name for name, _ in summary_rows(summary, tmp_path))
    notes = [json.loads(line) for line in (tmp_path / "store/notes.jsonl").read_text().splitlines()]
    assert {note["clip_id"]: note["modality"] for note in notes if "counts as one without" in note["note"]} == {
        silent: "audio", still: "video",
    }  # fmt: skip
    assert extract(corpus, tmp_path / "store").extracted == 0


def test_the_summary_counts(made_corpus, tmp_path):
    result = extract(made_corpus, tmp_path)
    summary = extraction_summary(result)
    assert {key: summary[key] for key in ("clips", "paired_clips", "audio_clips", "video_frames", "quarantined")} == {
        "clips": 36, "paired_clips": 36, "audio_clips": 36, "video_frames": 144, "quarantined": 0,
    }  # fmt: skip
    assert (summary["face_share"], summary["fixed_crops"]) == (0, 36)
    assert summary["store_hash"] == FeatureStore.open(tmp_path).hash
    assert "36 clips, 144 frames" in dict(summary_rows(summary, tmp_path))["video"]
    notes = [json.loads(line) for line in (tmp_path / "notes.jsonl").read_text().splitlines()]
    assert len(notes) == 36
    assert notes[0]["note"].startswith("no face found")


def test_a_finished_store_is_left_as_it_is(made_corpus, made_store, store):
    again = extract(made_corpus, store)
    assert (again.extracted, again.kept, again.added, again.removed) == (0, 72, 0, 0)
    assert contents(store) == contents(made_store)


def test_facts_name_the_file_behind_every_row(corpus, store):
    (corpus / "media/video/f01_calm_00.mp4").write_bytes(b"no video")
    result = extract(corpus, store)
    facts = read_facts(store).to_pylist()
    keys = [(row["clip_id"], row["modality"]) for row in facts]
    assert keys == sorted(keys)
    assert len(keys) == 71
    assert ("f01_calm_00", "video") not in keys
    row = facts[keys.index(("f01_calm_01", "audio"))]
    assert row["file"] == "audio/f01_calm_01.wav"
    assert row["sha256"] == sha256_of_file(corpus / "media" / row["file"])
    assert row["seconds"] == pytest.approx(0.2)
    (store / "facts.arrow").write_bytes(b"another")
    with pytest.raises(StoreError, match=r"facts\.arrow: sha256: the file was changed"):
        result.store.verify()


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


def test_repaired_files_leave_quarantine_at_the_next_call(corpus, made_corpus, made_store, store):
    path = corpus / "media/audio/f01_calm_00.wav"
    path.write_bytes(b"")
    result = extract(corpus, store)
    assert (result.removed, result.added, len(result.quarantined)) == (0, 0, 1)
    assert len(extract(corpus, store).quarantined) == 1
    shutil.copy2(made_corpus / "media/audio/f01_calm_00.wav", path)
    assert extract(corpus, store).quarantined == ()
    assert contents(store) == contents(made_store)


def test_too_many_bad_files_end_the_job_and_leave_their_list(corpus, tmp_path):
    for clip_id in clip_ids(TAKES)[:3]:
        (corpus / "media/audio" / f"{clip_id}.wav").write_bytes(b"")
    with pytest.raises(InputError, match=r"(?s)more than 2 of 72 files.*max_quarantined_share"):
        extract(corpus, tmp_path / "store", ExtractionRun(workers=0, max_quarantined_share=0.03))
    assert len(read_quarantine(tmp_path / "store")) == 3
    with pytest.raises(StoreError, match="incomplete"):
        FeatureStore.open(tmp_path / "store")


def test_a_failure_in_the_middle_is_continued_and_finished_parts_are_not_done_again(
    made_corpus, made_store, tmp_path, monkeypatch
):
    whole, broken = made_store, tmp_path / "broken"
    calls = []
    real = parts.read_modality

    def stop_at_60(*arguments):
        calls.append(arguments)
        if len(calls) == 60:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(parts, "read_modality", stop_at_60)
    with pytest.raises(KeyboardInterrupt):
        extract(made_corpus, broken)
    kept = {path.name: path.stat().st_mtime_ns for path in (broken / "parts").glob("*-*.json")}
    assert 1 < len(kept) < len(list((whole / "parts").glob("*-*.json")))
    monkeypatch.setattr(parts, "read_modality", real)
    result = extract(made_corpus, broken)
    assert 13 <= result.extracted < 72
    assert (result.extracted + result.kept, result.added) == (72, result.extracted)
    assert {name: (broken / "parts" / name).stat().st_mtime_ns for name in kept} == kept
    assert contents(broken) == contents(whole)


def test_new_replaced_touched_and_removed_files_change_the_store_as_if_it_were_made_from_nothing(
    corpus, store, tmp_path
):
    for kind, suffix in (("audio", ".wav"), ("video", ".mp4")):
        folder = corpus / "media" / kind
        for name in ("f02_calm_07", "m02_glad_07"):
            shutil.copy(folder / f"f01_glad_00{suffix}", folder / f"{name}{suffix}")
        (folder / f"m03_calm_02{suffix}").unlink()
        (folder / f"m01_calm_00{suffix}").touch()
    write_wav(corpus / "media/audio/f03_calm_00.wav", 0.3 * tone(700, 0.2))
    result = extract(corpus, store)
    assert (result.added, result.extracted_again, result.removed, result.extracted) == (4, 1, 2, 5)
    assert result.kept == 69
    extract(corpus, tmp_path / "anew")
    assert contents(store) == contents(tmp_path / "anew")
    result.store.verify()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            FeatureSettings(audio=AudioFeatureSettings(hop_ms=10)),
            r"other audio features are wanted \(hop_ms 20.0 -> 10.0\)",
        ),
        (FeatureSettings(video=VideoFeatureSettings(crop_scale=1.2)), r"crop_scale 1\.0 -> 1\.2"),
    ],
)
def test_one_feature_is_extracted_again_and_the_other_kept(
    made_corpus, made_store, store, tmp_path, caplog, settings, problem
):
    old = FeatureStore.open(made_store).content["modalities"]
    with caplog.at_level("INFO"):
        result = extract_features(plan_of(made_corpus, store, settings), HERE)
    assert re.search(problem, caplog.text)
    assert (result.extracted_again, result.kept, result.added, result.removed) == (36, 36, 0, 0)
    new = result.store.content["modalities"]
    assert [new[name]["sha256"] == old[name]["sha256"] for name in ("audio", "video")].count(True) == 1
    extract_features(plan_of(made_corpus, tmp_path / "anew", settings), HERE)
    assert contents(store) == contents(tmp_path / "anew")


def test_settings_that_are_taken_back_after_an_interruption_cost_nothing(made_corpus, made_store, store, monkeypatch):
    def stop(part, *rest):
        raise KeyboardInterrupt

    other = plan_of(made_corpus, store, FeatureSettings(audio=AudioFeatureSettings(hop_ms=10)))
    with monkeypatch.context() as patch:
        patch.setattr(PartExtractor, "__call__", stop)
        with pytest.raises(KeyboardInterrupt):
            extract_features(other, HERE)
    # The store is readable until another one is written.
    assert FeatureStore.open(store).info["audio"].settings["hop_ms"] == 20
    assert extract(made_corpus, store).extracted == 0
    assert contents(store) == contents(made_store)


def test_another_card_of_the_corpus_takes_the_features_over_and_another_corpus_is_refused(corpus, store):
    first, counts = FeatureStore.open(store).hash, {"clips": 36, "speakers": 6}
    write_card(corpus / "tiny.yaml", sex=None, expected=counts)
    result = extract(corpus, store)
    assert (result.extracted, result.store.hash == first) == (0, False)
    write_card(corpus / "tiny.yaml", name="other", expected=counts)
    with pytest.raises(StoreError, match=r"(?s)holds the corpus tiny, not other.*resume=false"):
        extract(corpus, store)
    anew = extract(corpus, store, ExtractionRun(workers=0, resume=False))
    assert (anew.kept, anew.added, anew.removed) == (0, 72, 0)


def test_a_few_files_are_extracted_here_unless_an_earlier_job_was_killed():
    assert not uses_ray(ExtractionRun(), 10, was_killed=False)
    assert uses_ray(ExtractionRun(), 10, was_killed=True)
    assert uses_ray(ExtractionRun(), 1000, was_killed=False)
    assert not uses_ray(ExtractionRun(workers=0), 1000, was_killed=True)


def test_a_ray_that_does_not_start_is_an_error_with_its_way_out(corpus, store, monkeypatch):
    def time_out(*_):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray_pool, "join_ray", time_out)
    write_wav(corpus / "media/audio/f01_calm_00.wav", tone(700, 0.2))
    with pytest.raises(TrainingError, match=r"(?s)Ray did not start.*timed out.*workers=0"):
        extract(corpus, store, ExtractionRun(workers=1))
    assert FeatureStore.open(store).info["audio"].clips == 36


def test_a_clip_that_hangs_in_this_process_is_set_aside(corpus, store, monkeypatch):
    write_wav(corpus / "media/audio/f01_calm_00.wav", tone(700, 0.2))
    monkeypatch.setattr(parts, "read_modality", lambda *_: time.sleep(600))
    (quarantined,) = extract(corpus, store, HERE.model_copy(update={"seconds_per_clip": 0.5})).quarantined
    assert quarantined.reason == "takes longer than seconds_per_clip allows: 0.5 s"


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
    lines = ["clip,one,two"] + [f"{clip_id},{number},{-number}" for number, clip_id in enumerate(clip_ids(TAKES))]
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
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(InputError, match="cannot be written"):
        extract(made_corpus, tmp_path / "file/store")
