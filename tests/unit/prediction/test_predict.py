"""From media to rows: the right numbers, faults that stay with their clip, and work that is kept."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from media_model import CLASSES, MEDIA, write_media_model
from odd_media import AUDIO, VIDEO
from rendered_media import moving_square, write_mp4, write_sound_only_mp4, write_wav

from vavl.errors import ConfigError, CorpusError, InputError, PredictionError, StoreError
from vavl.extractors.extractor import extractor_of
from vavl.features import ModalityInfo
from vavl.models.clips import TrainingProfile
from vavl.models.saved_model import ClipFeatures, load_model
from vavl.models.settings import AttributeTask
from vavl.prediction import worker
from vavl.prediction.results import failures_by_reason, prediction_summary, refuse_nothing, result_table, write_results

GOOD = {"pair": "audio_video", "été 雨/Ünï_ё 🙂": "audio_video", "only_heard": "audio", "only_seen": "video"}
COLUMNS = [f"probability_{name}" for name in CLASSES]


def features(media: Path, model: Path, **files: str) -> ClipFeatures:
    description = load_model(model).description
    sides = {
        side: extractor_of(getattr(description, side).extractor, side)(media / file).values
        for side, file in files.items()
    }
    return ClipFeatures(**sides)


def test_every_clip_has_the_row_of_its_own_prediction(made_media, media_model, predict, rows_of_result):
    result = predict(made_media)
    rows = rows_of_result(result)
    model = load_model(media_model)
    files = {
        "pair": {"audio": "pair.wav", "video": "pair.mp4"},
        "été 雨/Ünï_ё 🙂": {"audio": "été 雨/Ünï_ё 🙂.wav", "video": "été 雨/Ünï_ё 🙂.mp4"},
        "only_heard": {"audio": "only_heard.flac"},
        "only_seen": {"video": "only_seen.mp4"},
        "film": {"audio": "film.mp4", "video": "film.mp4"},
        "half": {"audio": "half.wav"},
    }
    for clip_id, named in files.items():
        (alone,) = model.predict([features(made_media, media_model, **named)])
        row = rows[clip_id, alone.condition]
        np.testing.assert_allclose([row[name] for name in COLUMNS], alone.probabilities, atol=1e-6)
        assert row["label"] == alone.label
        assert (row["error"] is None) == (clip_id != "half")
    assert rows["pair", "audio_video"]["audio_seconds"] == pytest.approx(0.3)
    assert rows["pair", "audio_video"]["video_seconds"] == pytest.approx(0.28)
    assert rows["only_heard", "audio"]["video_seconds"] is None


def test_a_fault_stays_with_its_clip_and_its_side(made_media, predict, rows_of_result, tmp_path):
    result = predict(made_media)
    rows = rows_of_result(result)
    assert rows["half", "audio"]["error"].startswith("video: cannot be decoded")
    assert rows["broken", None]["error"].startswith("audio: not a readable audio file")
    assert rows["empty", None]["error"] == "video: the file is empty"
    assert all(rows["broken", None][name] is None for name in ["label", *COLUMNS])
    table = result_table(result)
    files = write_results(result, table)
    assert pq.read_table(files["parquet"]).equals(table)
    header, *lines = Path(files["csv"]).read_text(encoding="utf-8").splitlines()
    assert header.replace('"', "").startswith("clip_id,corpus,speaker,split,condition,label,probability_calm")
    assert len(lines) == len(table) == 8
    failures = Path(files["failures"]).read_text(encoding="utf-8")
    assert '"half","video","half.mp4","cannot be decoded' in failures
    summary = prediction_summary(result, table, {"name": "m"}, files)
    told = {key: summary[key] for key in ("input", "clips", "predicted", "failed", "one_side", "conditions")}
    assert told == {
        "input": "folder", "clips": 8, "predicted": 6, "failed": 2, "one_side": 1,
        "conditions": {"audio_video": 3, "audio": 2, "video": 1},
    }  # fmt: skip
    assert sum(sum(counts.values()) for counts in summary["labels"].values()) == 6
    assert summary["failed_by_reason"]["video: the file is empty"] == 1
    json.dumps(summary, allow_nan=False)
    refuse_nothing(result, summary)


def test_each_condition_that_a_clip_allows_gets_a_row(made_media, media_model, predict, rows_of_result):
    rows = rows_of_result(predict(made_media, conditions=("audio", "audio_video")))
    assert {key for key in rows if key[0] in GOOD} == {
        ("pair", "audio_video"), ("pair", "audio"), ("été 雨/Ünï_ё 🙂", "audio_video"), ("été 雨/Ünï_ё 🙂", "audio"),
        ("only_heard", "audio"), ("only_seen", None),
    }  # fmt: skip
    assert rows["only_seen", None]["error"] == "has video alone, which none of the conditions asked for takes"
    (alone,) = load_model(media_model).predict([features(made_media, media_model, audio="pair.wav")])
    found = [rows["pair", "audio"][name] for name in COLUMNS]
    np.testing.assert_allclose(found, alone.probabilities, atol=1e-6)


def test_only_what_is_new_changed_or_failed_is_worked_on_again(media, predict, rows_of_result):
    first = predict(media)
    assert (first.kept, first.worked_on) == (0, 8)
    write_wav(media / "new.wav", np.sin(np.arange(4800) / 9) * 0.3)
    write_wav(media / "broken.wav", np.sin(np.arange(4800) / 5) * 0.3)
    (media / "only_seen.mp4").unlink()
    again = predict(media, retry_failed=False)
    assert (again.kept, again.worked_on) == (6, 2)
    rows = rows_of_result(again)
    assert rows["new", "audio"]["error"] is None
    assert rows["broken", "audio"]["error"] is None
    assert ("only_seen", "video") not in rows
    before = rows_of_result(first)
    assert all(rows[key] == before[key] for key in before if key[0] not in ("broken", "only_seen"))
    # What failed is tried again; settings that decide the rows make all of them anew.
    assert predict(media).worked_on == 2
    assert predict(media, sound_of_video=False).worked_on == 8
    assert predict(media, sound_of_video=False, resume=False).kept == 0


def test_what_a_killed_job_had_finished_is_kept(media, predict, rows_of_result, monkeypatch):
    monkeypatch.setattr("vavl.prediction.predict._CLIPS_OF_MEDIA", 2)
    whole = rows_of_result(predict(media))
    parts = media.parent / "out/parts"
    (parts / "all.parquet").unlink()
    real = worker.PredictionWork.__call__

    def killed_in_the_third(self, part):
        if len(list(parts.glob("*.parquet"))) == 2:
            part.marker.write_text("{}")
            raise KeyboardInterrupt
        return real(self, part)

    monkeypatch.setattr(worker.PredictionWork, "__call__", killed_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        predict(media)
    assert len(list(parts.glob("*.parquet"))) == 2
    (parts / "torn.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(worker.PredictionWork, "__call__", real)
    result = predict(media, retry_failed=False)
    assert (result.kept, result.worked_on) == (4, 4)
    assert rows_of_result(result) == whole
    assert sorted(path.name for path in parts.glob("*")) == ["all.parquet", "input.json", "lock"]


def test_a_clip_that_takes_too_long_is_told_and_the_next_one_is_predicted(media, predict, rows_of_result, monkeypatch):
    real = worker.PredictionWork._read_side

    def slow(self, found, modality, file):
        if found.clip.clip_id == "pair":
            time.sleep(600)
        real(self, found, modality, file)

    monkeypatch.setattr(worker.PredictionWork, "_read_side", slow)
    rows = rows_of_result(predict(media, seconds_per_clip=2))
    assert rows["pair", None]["error"] == "takes longer than seconds_per_clip allows: 2 s"
    assert rows["only_seen", "video"]["error"] is None


def test_predictions_of_another_input_are_not_replaced_by_an_oversight(media, predict, tmp_path):
    predict(media)
    moved = media.rename(tmp_path / "moved")
    assert predict(moved).kept == 5  # the same clips, wherever they are
    (tmp_path / "other").mkdir()
    write_wav(tmp_path / "other/a.wav", np.sin(np.arange(4800) / 9) * 0.3)
    with pytest.raises(StoreError, match=r"holds the predictions of .*moved, not of .*other"):
        predict(tmp_path / "other")
    assert predict(tmp_path / "other", resume=False).worked_on == 1


@pytest.mark.parametrize("side", ["audio", "video"])
def test_odd_files_are_predicted_or_told_and_touch_no_other_clip(side, made_media, predict, rows_of_result, tmp_path):
    """The kinds that are quick to make and that end no process; the others go through workers, see test_odd_files."""
    slow = {"ten_thousand_frames", "a_week_of_nothing", "too_long", "fifo", "socket", "huge_declared_size"}
    kinds = [kind for kind in {"audio": AUDIO, "video": VIDEO}[side] if kind.name not in slow]
    media = tmp_path / "odd"
    for kind in kinds:
        path = media / kind.name / f"clip{kind.suffix}"
        path.parent.mkdir(parents=True)
        kind.make(path)
    manifest = {
        "clip_id": [kind.name for kind in kinds],
        f"{side}_path": [f"{kind.name}/clip{kind.suffix}" for kind in kinds],
    }
    pq.write_table(pa.table(manifest), media / "clips.parquet")
    rows = rows_of_result(predict(media / "clips.parquet", sound_of_video=False))
    assert len(rows) == len(kinds) > 14
    for kind in kinds:
        if kind.reason is None:
            assert rows[kind.name, side]["error"] is None
        else:
            assert re.search(kind.reason, rows[kind.name, None]["error"])
    good = media / "good"
    (alone,) = rows_of_result(predict(good, output_dir=tmp_path / "alone", sound_of_video=False)).values()
    found = rows["good", side]
    np.testing.assert_allclose([found[name] for name in COLUMNS], [alone[name] for name in COLUMNS], atol=1e-6)


def test_odd_video_files_give_the_sides_that_they_hold(tmp_path, predict, rows_of_result):
    media = tmp_path / "odd"
    write_sound_only_mp4(media / "sound_alone.mp4", np.sin(np.arange(8000) / 9) * 0.3)
    write_mp4(media / "silent.mp4", moving_square(5, side=64))
    os.mkfifo(media / "pipe.wav")
    (media / "twice.wav").write_bytes(b"x")
    (media / "twice.mp3").write_bytes(b"x")
    result = predict(media)
    rows = rows_of_result(result)
    assert rows["sound_alone", "audio"]["error"] is None
    assert rows["silent", "video"]["error"] is None
    assert rows["twice", None]["error"] == "2 audio files have this name: twice.mp3, twice.wav"
    assert rows["pipe", None]["error"] == "audio: not a regular file"
    assert failures_by_reason(result) == {"N audio files have this name": 1, "audio: not a regular file": 1}
    without = rows_of_result(predict(media, sound_of_video=False))
    assert "no video stream" in without["sound_alone", None]["error"]


def test_attributes_have_their_names(made_media, predict, rows_of_result, tmp_path):
    model = write_media_model(tmp_path / "m", task=AttributeTask(attributes=("arousal", "valence", "dominance")))
    result = predict(made_media, model)
    row = rows_of_result(result)["pair", "audio_video"]
    (alone,) = load_model(model).predict([features(made_media, model, audio="pair.wav", video="pair.mp4")])
    for name, value in alone.attributes.items():
        assert row[name] == pytest.approx(value, abs=1e-6)
    assert row["label"] is None
    summary = prediction_summary(result, result_table(result), {}, {})
    assert set(summary["attributes"]["audio_video"]) == set(alone.attributes)


def test_a_side_that_the_model_does_not_know_is_not_read(made_media, predict, rows_of_result, tmp_path):
    rows = rows_of_result(predict(made_media, write_media_model(tmp_path / "m", without=("video",))))
    assert rows["pair", "audio"]["error"] is None
    assert rows["half", "audio"]["error"] is None
    assert rows["only_seen", None]["error"] == "has neither audio nor video that the model can use"


def test_a_side_whose_features_cannot_be_made_here_is_told(made_media, predict, rows_of_result, tmp_path, caplog):
    table = ModalityInfo("table:abc", "1", {}, None, 4)
    half = write_media_model(tmp_path / "half", infos={**MEDIA, "video": table})
    result = predict(made_media, half)
    assert result.plan.unavailable == {
        "video": "come from a table of ready features, which cannot be computed from a media file"
    }
    assert "video is left out of every clip" in caplog.text
    assert rows_of_result(result)["pair", "audio"]["error"] is None
    none = write_media_model(tmp_path / "none", infos={"audio": table, "video": table})
    with pytest.raises(StoreError, match="reads no media: audio features come from a table"):
        predict(made_media, none)


def test_nothing_but_failures_is_a_failed_job(tmp_path, predict):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.wav").write_bytes(b"")
    result = predict(tmp_path / "bad")
    summary = prediction_summary(result, result_table(result), {}, {})
    with pytest.raises(PredictionError, match=r"none of 1 clips could be predicted, e\.g\. audio: the file is empty"):
        refuse_nothing(result, summary)


@pytest.mark.parametrize(
    ("name", "problem"), [("missing", "no such directory or file"), ("notes.txt", "`.txt` is neither a media file")]
)
def test_an_input_that_is_none_is_refused(made_media, predict, name, problem):
    with pytest.raises(CorpusError, match=problem):
        predict(made_media / name)


def test_a_model_that_needs_a_speaker_is_refused_before_any_work(made_media, predict, tmp_path):
    with pytest.raises(InputError, match="normalized per speaker"):
        predict(made_media, write_media_model(tmp_path / "m", speaker_normalisation=True))


def test_a_gpu_that_is_not_there_is_named(made_media, predict, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="a GPU is asked for, and there is none here"):
        predict(made_media, gpus_per_worker=1)


def profile_of(far: float | None) -> TrainingProfile:
    return TrainingProfile(frame_rate_hz=100.0, shortest_frames=1000, longest_frames=2000, far=far)


def test_labels_are_chosen_anew_without_predicting_anew(made_media, media_model, predict, rows_of_result):
    plain = predict(made_media)
    rows = rows_of_result(plain)
    chosen = predict(made_media, classes=("mad", "calm"), abstain_below=0.99)
    assert chosen.kept == 5  # but for clips with an error
    decided = rows_of_result(chosen)
    assert decided.keys() == rows.keys()
    for key in [key for key in rows if key[1] is not None]:
        calm, _, mad = (rows[key][name] for name in COLUMNS)
        np.testing.assert_allclose(
            [decided[key][name] for name in COLUMNS], [calm / (calm + mad), 0, mad / (calm + mad)]
        )
        assert decided[key]["label"] is None
        assert decided[key]["warning"].startswith("below confidence (0.")
        assert decided[key]["error"] == rows[key]["error"]
    summary = prediction_summary(chosen, result_table(chosen), {}, {})
    assert summary["warned"] == {"below confidence": 6}
    assert set(summary["labels"]["audio_video"]) == set()
    table = result_table(predict(made_media))
    assert table["label"].equals(result_table(plain)["label"])
    assert table["warning"].null_count == table["out_of_distribution"].null_count == len(table)  # an older model
    with pytest.raises(ConfigError, match="did you mean 'glad'"):
        predict(made_media, classes=("calm", "gald"))
    with pytest.raises(ConfigError, match="training_shares"):
        predict(made_media, class_shares={"calm": 1, "glad": 1, "mad": 1})


def test_clips_unlike_those_of_training_are_marked(made_media, predict, rows_of_result, tmp_path):
    model = write_media_model(tmp_path / "m", profiles={"audio": profile_of(1e-6), "video": profile_of(1e6)})
    result = predict(made_media, model)
    rows = rows_of_result(result)
    heard, seen = rows["only_heard", "audio"], rows["only_seen", "video"]
    assert (heard["out_of_distribution"], seen["out_of_distribution"]) == (True, False)
    assert heard["distance"] > 1 > seen["distance"]
    assert re.fullmatch(
        r"audio: shorter than every training clip \(0\.\d\d s, in training 10\.00 s to 20\.00 s\); "
        r"audio: features far from those of the training clips \([\d.]+ x\)",
        heard["warning"],
    )
    assert rows["broken", None]["out_of_distribution"] is None
    warned = prediction_summary(result, result_table(result), {}, {})["warned"]
    assert warned["audio: features far from those of the training clips"] == 5
