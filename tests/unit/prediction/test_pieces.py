"""Pieces of recordings: a row of a table is predicted as a file of its own would be."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from media_model import CLASSES
from rendered_media import moving_square, tone, write_mp4, write_wav

from vavl.errors import ClipError, ConfigError, CorpusError
from vavl.extractors.settings import AudioFeatureSettings, VideoFeatureSettings
from vavl.media.media import Pictures
from vavl.media.sound import read_audio
from vavl.prediction import pieces
from vavl.prediction.inputs import manifest_clips
from vavl.prediction.pieces import Piece, PieceCutter
from vavl.prediction.plan import plan_prediction
from vavl.prediction.results import result_table
from vavl.prediction.settings import PredictionSettings
from vavl.prediction.timeline_plot import check_timeline

RATE = 16_000
COLUMNS = [f"probability_{name}" for name in CLASSES]


def voice(seconds: float) -> np.ndarray:
    noise = 0.05 * np.random.default_rng(0).normal(size=round(seconds * RATE))
    return np.concatenate([tone(pitch, seconds / 4, amplitude=0.3) for pitch in (150, 300, 600, 1200)]) + noise


@pytest.fixture
def recording(tmp_path):
    """Two seconds of sound, and a film of two seconds with the same sound."""
    write_wav(tmp_path / "talk.wav", voice(2))
    write_mp4(tmp_path / "film.mp4", moving_square(50, side=64), sound=voice(2))
    return tmp_path


def write_table(folder: Path, rows: list[tuple], header: tuple = ("path", "start", "end")) -> Path:
    with (folder / "turns.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return folder / "turns.csv"


def test_a_piece_of_sound_is_predicted_as_a_file_of_it(recording, predict, tmp_path):
    whole = read_audio(recording / "talk.wav", RATE)
    write_wav(tmp_path / "alone/piece.wav", whole[8000:20000])
    (alone,) = result_table(predict(tmp_path / "alone", output_dir=tmp_path / "a")).to_pylist()
    found = result_table(predict(write_table(recording, [("talk.wav", "0.5", 1.25), ("talk.wav", "", "")]))).to_pylist()
    assert [(row["clip_id"], row["start_s"], row["end_s"]) for row in found] == [
        ("talk_0.50-1.25", 0.5, 1.25), ("talk_row2", None, None),
    ]  # fmt: skip
    assert found[0]["audio_seconds"] == pytest.approx(0.75)
    assert found[1]["audio_seconds"] == pytest.approx(2)
    np.testing.assert_allclose([found[0][name] for name in COLUMNS], [alone[name] for name in COLUMNS], atol=1e-4)


def test_pictures_of_a_piece_are_those_of_the_recording(recording):
    rate = 25.0
    cutter = PieceCutter({"video": VideoFeatureSettings(frame_rate_hz=rate), "audio": AudioFeatureSettings()})
    wanted = [Piece(0.4, 1.2), Piece(0.0, 2.0), Piece(1.0, 1.4)]
    cutter.expect([("film.mp4", piece) for piece in wanted])
    shown = list(Pictures(recording / "film.mp4", rate))
    for piece in wanted:
        path = cutter.file(recording / "film.mp4", "film.mp4", "video", piece)
        cut = list(Pictures(path, rate))
        expected = [(time - piece.start_s, one) for time, one in shown if piece.start_s <= time < piece.end_s]
        assert len(cut) == len(expected) == round((piece.end_s - piece.start_s) * rate)
        np.testing.assert_allclose([time for time, _ in cut], [time for time, _ in expected], atol=1e-3)
        for (_, one), (_, other) in zip(cut, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_recording_is_read_once_and_its_pieces_go_with_the_next_ones(recording, monkeypatch):
    reads = []
    real = pieces.read_sound
    monkeypatch.setattr(pieces, "read_sound", lambda path, rate: reads.append(path) or real(path, rate))
    cutter = PieceCutter({"audio": AudioFeatureSettings()})
    wanted = [Piece(number / 10, number / 10 + 0.2) for number in range(10)]
    cutter.expect([("talk.wav", piece) for piece in wanted])
    files = [cutter.file(recording / "talk.wav", "talk.wav", "audio", piece) for piece in wanted]
    assert len(reads) == 1
    assert len({*files}) == 10
    assert all(path.exists() for path in files)
    cutter.expect([])
    assert not any(path.exists() for path in files)


def test_bad_rows_have_their_reason_and_the_others_a_prediction(recording, predict):
    rows = [
        ("talk.wav", 0.2, 0.8), ("talk.wav", 1, 0.5), ("talk.wav", -1, 1), ("talk.wav", "x", 1), ("talk.wav", 1, ""),
        ("talk.wav", 1.5, 2.5), ("talk.wav", 3, 4), ("gone.wav", 0, 1), ("talk.wav", 0, 2.05),
        ("talk.wav", "nan", 1),
    ]  # fmt: skip
    found = result_table(predict(write_table(recording, rows))).to_pylist()
    assert [row["error"] for row in found] == [
        None,
        "ends at 0.5 s, not after its start at 1 s",
        "start -1 and end 1 are no times in a file",
        "start 'x' and end '1' are not both a number of seconds",
        "start '1' and end '' are not both a number of seconds",
        "audio: the piece ends at 2.5 s, beyond the end of the file: 2.00 s",
        "audio: the piece ends at 4 s, beyond the end of the file: 2.00 s",
        "audio: the file does not exist",
        None,
        "start nan and end 1 are no times in a file",
    ]
    assert [row["condition"] for row in found if row["error"] is None] == ["audio", "audio"]


def test_a_piece_of_a_film_has_both_modalities(recording, predict):
    rows = [("film.mp4", 0.4, 1.2), ("film.mp4", 1.5, 2.5)]
    row, beyond = result_table(predict(write_table(recording, rows))).to_pylist()
    assert "video: the piece ends at 2.5 s, beyond the end of the file: 2.00 s" in beyond["error"]
    assert (row["condition"], row["error"]) == ("audio_video", None)
    assert row["audio_seconds"] == pytest.approx(0.8)
    assert row["video_seconds"] == pytest.approx(0.8, abs=0.01)


def test_names_are_those_of_the_table_or_of_file_and_times(tmp_path):
    rows = [("a", "x.wav", 0, 1), ("", "d/y.mp4", 1, 2), ("", "d/y.mp4", 1, 2)]
    found = manifest_clips(write_table(tmp_path, rows, ("id", "path", "start", "end")), tmp_path).clips
    assert [(one.clip_id, one.audio, one.video) for one in found] == [
        ("a", "x.wav", None), ("d/y_1.00-2.00", None, "d/y.mp4"), ("d/y_1.00-2.00_row3", None, "d/y.mp4"),
    ]  # fmt: skip
    with pytest.raises(CorpusError, match="clip_id, end: no such column"):
        manifest_clips(write_table(tmp_path, [("x.wav", 0)], ("path", "start")), tmp_path)


def test_turns_of_a_diarization_are_pieces_with_their_speaker(recording):
    lines = [
        "SPEAKER talk 1 0.250 0.500 <NA> <NA> anna <NA> <NA>", "LEXEME talk 1 0 1 word", "",
        "SPEAKER talk 1 1.000 0.750 <NA> <NA> ben <NA> <NA>", "SPEAKER film 1 0 1 <NA> <NA> ben <NA> <NA>",
        "SPEAKER gone 1 0 1 <NA> <NA> ben <NA> <NA>",
    ]  # fmt: skip
    (recording / "talk.rttm").write_text("\n".join(lines))
    found = manifest_clips(recording / "talk.rttm", recording).clips
    assert [(one.audio, one.video, one.speaker, one.piece) for one in found] == [
        ("talk.wav", None, "anna", Piece(0.25, 0.75)), ("talk.wav", None, "ben", Piece(1.0, 1.75)),
        (None, "film.mp4", "ben", Piece(0.0, 1.0)), ("gone", None, "ben", Piece(0.0, 1.0)),
    ]  # fmt: skip
    (recording / "bad.rttm").write_text("SPEAKER talk 1 zero 0.500")
    with pytest.raises(CorpusError, match="not a readable RTTM file"):
        manifest_clips(recording / "bad.rttm", recording)


def test_a_recording_that_cannot_be_read_says_so_for_every_piece(tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    cutter = PieceCutter({"audio": AudioFeatureSettings()})
    cutter.expect([("bad.wav", Piece(0, 1)), ("bad.wav", Piece(1, 2))])
    for piece in (Piece(0, 1), Piece(1, 2)):
        with pytest.raises(ClipError, match="not a readable"):
            cutter.file(tmp_path / "bad.wav", "bad.wav", "audio", piece)


def test_pieces_have_no_timeline(recording, media_model, tmp_path):
    table = write_table(recording, [("talk.wav", 0, 1)])
    settings = PredictionSettings(input=table, model=str(media_model), output_dir=tmp_path / "out", timeline=True)
    with pytest.raises(ConfigError, match="shows whole files"):
        check_timeline(plan_prediction(settings, media_model), settings)
