"""The registered model, loaded through MLflow: forms of the input, of the output, and errors by row."""

from __future__ import annotations

import base64
import io
import logging
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from rendered_media import moving_square, tone, write_mp4, write_sound_only_mp4, write_wav
from served_models import (
    AUDIO,
    AUDIO_WIDTH,
    CLASSES,
    VIDEO,
    VIDEO_WIDTH,
    served,
    values_of,
    write_media_model,
    write_model,
)

from vavl.extractors.descriptor import VideoExtractor
from vavl.extractors.extractor import audio_extractor, audio_info, extract_audio, video_info
from vavl.extractors.settings import FunctionalSettings
from vavl.models.clips import CenteredClip
from vavl.models.saved_model import ClipFeatures, load_model
from vavl.models.settings import AttributeTask
from vavl.serving.served_rows import INPUT_COLUMNS

COLUMNS = ["label", *(f"probability_{name}" for name in CLASSES), "condition", "error"]


@dataclass(frozen=True)
class Media:
    """Files of one clip, and the features that training would have made of them."""

    sound: Path
    film: Path
    both: Path
    audio: Any
    video: Any


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media_model(tmp_path_factory.mktemp("model") / "best")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served") / "model"


@pytest.fixture(scope="module")
def model(folder: Path, target: Path) -> Any:
    return served(folder, target)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    folder = tmp_path_factory.mktemp("media")
    voice, pictures = 0.5 * tone(300, 0.4), moving_square(8, side=64)
    sound, film = write_wav(folder / "голос.wav", voice), write_mp4(folder / "лицо 🎭.mp4", pictures)
    both = write_mp4(folder / "ensemble été.mp4", pictures, sound=voice)
    return Media(sound, film, both, extract_audio(sound, AUDIO).values, VideoExtractor(VIDEO).extract(film).values)


@pytest.fixture
def audio() -> Any:
    return np.random.default_rng(1).normal(size=(7, AUDIO_WIDTH)).astype(np.float32)


@pytest.fixture
def video() -> Any:
    return np.random.default_rng(2).normal(size=(6, VIDEO_WIDTH)).astype(np.float32)


def test_rows_may_lack_a_modality(model: Any, folder: Path, audio: Any, video: Any) -> None:
    table = pd.DataFrame(
        {"audio_features": [audio, audio.tolist(), None], "video_features": [video, None, video.tolist()]}
    )
    answer = model.predict(table)
    assert list(answer["condition"]) == ["audio_video", "audio", "video"]
    assert list(answer.columns) == COLUMNS
    np.testing.assert_allclose(values_of(answer).sum(axis=1), 1, rtol=1e-9)
    assert [CLASSES[place] for place in values_of(answer).argmax(axis=1)] == list(answer["label"])
    assert answer["error"].isna().all()
    clips = [ClipFeatures(audio, video), ClipFeatures(audio=audio), ClipFeatures(video=video)]
    expected = [one.probabilities for one in load_model(folder).predict(clips)]
    np.testing.assert_allclose(values_of(answer), expected, atol=1e-7)
    assert len({tuple(row) for row in values_of(answer).round(4)}) == 3


@pytest.mark.parametrize("absent", [None, float("nan"), np.float32("nan"), pd.NA, ""])
@pytest.mark.parametrize("column", [name for name in INPUT_COLUMNS if name != "audio_features"])
def test_empty_cells_mean_absent(model: Any, audio: Any, absent: Any, column: str) -> None:
    # A column of NaN alone is what a CSV file without any entry in it gives.
    answer = model.predict(pd.DataFrame({"audio_features": [audio], column: [absent]}))
    assert list(answer["condition"]) == ["audio"]
    assert answer["error"].isna().all()


@pytest.mark.parametrize("form", ["array", "lists", "arrays in an array", "float64", "fortran"])
def test_features_come_in_any_form(model: Any, audio: Any, form: str) -> None:
    rows = np.empty(len(audio), dtype=object)
    rows[:] = list(audio)  # as a Parquet reader gives nested lists
    cell = {
        "array": audio, "lists": audio.tolist(), "arrays in an array": rows, "float64": audio.astype(float),
        "fortran": np.asfortranarray(audio),
    }[form]  # fmt: skip
    answers = [model.predict(pd.DataFrame({"audio_features": [one]})) for one in (audio, cell)]
    assert answers[1]["error"][0] is None
    np.testing.assert_array_equal(values_of(answers[0]), values_of(answers[1]))


def test_media_give_what_their_features_give(model: Any, media: Media) -> None:
    sound, film = media.sound.read_bytes(), media.film.read_bytes()
    rows = [
        {"audio_features": media.audio, "video_features": media.video},
        {"audio_path": str(media.sound), "video_path": str(media.film)},
        {"audio_path": media.sound, "video_path": os.fsencode(media.film)},
        {"audio_bytes": sound, "video_bytes": film},
        {"audio_bytes": bytearray(sound), "video_bytes": memoryview(film)},
        {"audio_bytes": base64.b64encode(sound).decode(), "video_bytes": base64.b64encode(film).decode()},
        {"audio_features": media.audio, "video_bytes": film},
        {"media_path": str(media.film), "audio_bytes": sound},
        {"media_bytes": film, "audio_features": media.audio, "audio_path": "/nowhere.wav"},
    ]
    answer = model.predict(pd.DataFrame(rows))
    assert list(answer["error"]) == [None] * len(rows)
    assert set(answer["condition"]) == {"audio_video"}
    np.testing.assert_allclose(values_of(answer), np.repeat(values_of(answer)[:1], len(rows), 0), atol=1e-6)


def test_one_file_serves_the_sides_that_it_has(model: Any, media: Media, tmp_path: Path) -> None:
    both, alone = str(media.both), str(write_sound_only_mp4(tmp_path / "song.mp4", tone(300, 0.4)))
    rows = [
        {"audio_path": both, "video_path": both},
        {"media_path": both},
        {"media_bytes": media.both.read_bytes()},
        {"media_path": alone},
        {"audio_path": alone},
        {"media_path": str(media.film)},
        {"video_path": str(media.film)},
    ]
    answer = model.predict(pd.DataFrame(rows))
    assert list(answer["condition"]) == ["audio_video"] * 3 + ["audio"] * 2 + ["video"] * 2
    for first, second in ((0, 1), (0, 2), (3, 4), (5, 6)):
        np.testing.assert_allclose(values_of(answer)[first], values_of(answer)[second], atol=1e-6)
    assert np.abs(values_of(answer)[0] - values_of(answer)[5]).max() > 1e-3


def test_temporary_files_are_gone(model: Any, media: Media, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = [{"audio_bytes": media.sound.read_bytes()}, {"media_bytes": b"nothing that is a film"}]
    answer = model.predict(pd.DataFrame(rows))
    assert answer["condition"][0] == "audio"
    # The error speaks of the column, not of a file that is gone.
    assert answer["error"][1].startswith("media_bytes: media: cannot be decoded")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio_path": None}, "has neither audio nor video; fix: fill one of audio_features"),
        ({"audio_features": [[1.0, 2.0]]}, r"audio: has shape \(1, 2\), expected \(frames, 5\)"),
        ({"audio_features": [["x"]]}, r"audio_features: is not a table \(frame, channel\) of numbers"),
        ({"audio_features": [[1.0], [1.0, 2.0]]}, "is not a table"),
        ({"audio_features": []}, r"has shape \(0,\)"),
        ({"audio_features": [[1e300] * 5]}, "holds NaN or infinite"),
        ({"audio_features": [[3e38] * 5]}, "its prediction is not finite"),
        ({"audio_path": "/nowhere.wav"}, "/nowhere.wav: audio: the file does not exist"),
        ({"audio_path": Path("/nowhere/\udcff.wav")}, r"\\udcff.wav: audio: the file does not exist"),
        ({"audio_path": 5}, "TypeError"),
        ({"audio_path": "/"}, "not a regular file"),
        ({"audio_bytes": b""}, "audio_bytes: audio: the file is empty"),
        ({"audio_bytes": "no base64!"}, "audio_bytes: is a text that is not base64"),
        ({"video_bytes": [7]}, "video_bytes: is list, not bytes"),
        ({"media_path": __file__}, "media: cannot be decoded"),
    ],
)
def test_a_bad_row_says_why_and_spares_the_others(model: Any, audio: Any, row: Any, message: str) -> None:
    names = sorted({*row, "audio_features"})
    table = pd.DataFrame({name: pd.Series([None, row.get(name), None], dtype=object) for name in names})
    table["audio_features"] = pd.Series([audio, row.get("audio_features"), audio], dtype=object)
    answer = model.predict(table)
    assert list(answer["error"].isna()) == [True, False, True]
    assert re.search(message, answer["error"][1]), answer["error"][1]
    assert "\n" not in answer["error"][1]
    assert answer["label"][1] is None
    assert np.isnan(values_of(answer)[1]).all()
    alone = model.predict(pd.DataFrame({"audio_features": [audio]}))
    np.testing.assert_allclose(values_of(answer)[[0, 2]], values_of(alone)[[0, 0]], atol=1e-7)


def test_a_cut_off_sound_is_refused_as_bytes_too(model: Any, media: Media) -> None:
    half = media.sound.read_bytes()[:-2000]
    answer = model.predict(pd.DataFrame({"audio_bytes": [half, media.sound.read_bytes()]}))
    assert "cut off" in answer["error"][0]
    assert answer["error"][1] is None


def test_more_bytes_than_a_file_may_have_are_refused(model: Any, media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vavl.media.media_bytes.MOST_BYTES", 1000)
    answer = model.predict(pd.DataFrame({"audio_bytes": [media.sound.read_bytes()]}))
    assert "at most 1000 are taken" in answer["error"][0]
    assert "give the path of the file" in answer["error"][0]


@pytest.mark.parametrize(
    "table", [pd.DataFrame(), pd.DataFrame(columns=["audio_path"]), pd.DataFrame({"video_features": []})]
)
def test_no_rows_give_no_rows(model: Any, table: Any) -> None:
    answer = model.predict(table)
    assert (len(answer), list(answer.columns)) == (0, COLUMNS)


@pytest.mark.parametrize("package", ["tracking", "serving"])
def test_a_model_that_was_registered_earlier_is_read_by_this_code(
    target: Path, model: Any, audio: Any, tmp_path: Path, package: str
) -> None:
    """Its program imports names from where they were, and Python keeps one ``vavl`` per process."""
    former = tmp_path / "former"
    shutil.copytree(target, former)
    program = former / "served_model.py"
    text = program.read_text()
    now, before = (
        (
            "        from vavl.serving.served_code import CODE_FILES_KEY, CODE_HASH_KEY, check_files, code_hash\n"
            "        from vavl.serving.served_rows import INPUT_COLUMNS, RowPredictor, value_columns\n"
        ),
        (
            f"        from vavl.{package}.registry import CODE_HASH_KEY, code_hash, value_columns\n"
            f"        from vavl.{package}.served_rows import INPUT_COLUMNS, RowPredictor\n"
        ),
    )
    assert now in text
    check = "        check_files(root, str(root), model_id=Model.load(str(root)).model_id)\n"
    assert check in text
    text = (
        text.replace(now, before)
        .replace(check, "")
        .replace("config.get(CODE_FILES_KEY)", "None")
        .replace(", names):", "):")
    )
    program.write_text(text)
    table = pd.DataFrame({"audio_features": [audio]})
    answers = [pd.DataFrame(one.predict(table)) for one in (mlflow.pyfunc.load_model(str(former)), model)]
    pd.testing.assert_frame_equal(*answers)


def test_a_table_without_a_known_column_is_told(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(model.predict(pd.DataFrame({"sound": ["clip.wav"]}))) == 0
    assert "nothing to predict: the table has none of audio_features" in caplog.text


def test_the_index_is_kept(model: Any, audio: Any) -> None:
    for index in (["a", "b"], [7, 7], pd.MultiIndex.from_tuples([("x", 1), ("x", 2)])):
        table = pd.DataFrame({"audio_features": [audio, audio], "audio_path": [None, None]}, index=index)
        answer = model.predict(table)
        assert list(answer.index) == list(table.index)
        assert answer["error"].isna().all(), list(answer["error"])


def test_columns_have_one_type_whatever_they_hold(model: Any, audio: Any) -> None:
    good, bad, none = ([audio], ["x"], [])
    for cells in (good, bad, none, good + bad):
        types = model.predict(pd.DataFrame({"audio_features": cells})).dtypes
        assert list(types[["label", "condition", "error"]]) == [object] * 3
        assert set(types[COLUMNS[1:-2]]) == {np.dtype(float)}


def test_an_answer_goes_through_parquet_and_json(model: Any, audio: Any) -> None:
    answer = model.predict(pd.DataFrame({"audio_features": [audio, None], "audio_path": [None, "\u2028.wav"]}))
    stream = io.BytesIO()
    answer.to_parquet(stream)
    again = pd.read_parquet(stream)
    assert list(again["error"].isna()) == [True, False]
    assert answer.to_dict(orient="records")[0]["label"] in CLASSES


def test_attributes_become_columns(tmp_path: Path, audio: Any) -> None:
    folder = write_media_model(tmp_path / "best", AttributeTask())
    answer = served(folder, tmp_path / "served").predict(pd.DataFrame({"audio_features": [audio, None]}))
    names = ("arousal", "valence", "dominance")
    assert list(answer.columns) == ["label", *names, "condition", "error"]
    (expected,) = load_model(folder).predict([ClipFeatures(audio=audio)])
    np.testing.assert_allclose(values_of(answer, names)[0], list(expected.attributes.values()))
    assert len(set(values_of(answer, names)[0])) == 3
    assert list(answer["label"]) == [None, None]
    assert np.isnan(values_of(answer, names)[1]).all()


def test_a_side_that_is_not_used_is_not_read(tmp_path: Path, media: Media) -> None:
    folder = write_media_model(tmp_path / "best", fusion_trained=False)
    model = served(folder, tmp_path / "served")
    answer = model.predict(pd.DataFrame({"audio_path": [str(media.sound)], "video_path": ["/nowhere.mp4"]}))
    assert (answer["condition"][0], answer["error"][0]) == ("audio", None)


def test_features_of_a_table_cannot_be_made_from_media(tmp_path: Path, media: Media) -> None:
    model = served(write_model(tmp_path / "best"), tmp_path / "served")
    answer = model.predict(pd.DataFrame({"audio_path": [str(media.sound)]}))
    assert "cannot be computed from a media file" in answer["error"][0]
    assert "give ready features (audio_features)" in answer["error"][0]


def test_a_model_of_speaker_statistics_says_so_in_every_row(tmp_path: Path, audio: Any) -> None:
    folder = write_media_model(tmp_path / "best", speaker_normalisation=True)
    model = served(folder, tmp_path / "served")
    answer = model.predict(pd.DataFrame({"audio_features": [audio, audio]}))
    assert all("normalized per speaker" in text for text in answer["error"])


def test_a_model_of_several_extractors_reads_media_with_all_of_them(tmp_path: Path, media: Media) -> None:
    pooled = AUDIO.model_copy(update={"pooling": "statistics"})
    settings = (FunctionalSettings(), pooled)
    folder = write_model(tmp_path / "best", audio=audio_info(settings), video=video_info(VIDEO))
    assert load_model(folder).description.audio.width == 417 + 2 * AUDIO_WIDTH
    answer = served(folder, tmp_path / "served").predict(pd.DataFrame({"audio_path": [str(media.sound)]}))
    (expected,) = load_model(folder).predict([ClipFeatures(audio=audio_extractor(settings)(media.sound).values)])
    assert (answer["condition"][0], answer["error"][0]) == ("audio", None)
    np.testing.assert_allclose(values_of(answer)[0], expected.probabilities, atol=1e-6)
    assert (tmp_path / "served/code/vavl/extractors/combined.py").is_file()


def test_a_model_of_causal_means_remembers_the_clips_of_each_speaker(tmp_path: Path, audio: Any) -> None:
    folder = write_media_model(tmp_path / "best", speaker_normalisation="causal_mean")
    model = served(folder, tmp_path / "served")
    assert "speaker" in model.metadata.get_input_schema().input_names()
    means, other = load_model(folder).speaker_means(), audio + 5
    order = [(audio, "anna"), (other, "bert"), (other, "anna"), (audio, "anna")]
    clips = [CenteredClip(**means.centered({"audio": values}, name)) for values, name in order]
    expected = [one.probabilities for one in load_model(folder).predict(clips)]
    table = pd.DataFrame({"audio_features": [values for values, _ in order], "speaker": [name for _, name in order]})
    # Over two calls, as over one.
    found = np.concatenate([values_of(model.predict(table[:1])), values_of(model.predict(table[1:]))])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    answer = model.predict(pd.DataFrame({"audio_features": [audio, audio], "speaker": [None, "new"]}))
    assert "speaker: is missing" in answer["error"][0]
    np.testing.assert_allclose(values_of(answer)[1], expected[0], atol=1e-6)
    assert model.predict(pd.DataFrame({"speaker": ["anna"]}))["error"][0].startswith("row: has neither audio nor video")


def test_threads_do_not_disturb_each_other(model: Any, media: Media) -> None:
    table = pd.DataFrame({"media_path": [str(media.both)]})
    expected = values_of(model.predict(table))
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda _: model.predict(table), range(8)):
            np.testing.assert_allclose(values_of(answer), expected, atol=1e-6)


def test_other_code_in_the_process_is_told(
    target: Path, model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow.pyfunc

    monkeypatch.setattr("vavl.serving.served_code.code_hash", lambda package, files: "other")
    with caplog.at_level(logging.WARNING):
        mlflow.pyfunc.load_model(str(target))
    assert "made with other code" in caplog.text
