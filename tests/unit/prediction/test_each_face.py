"""Every face of a film is followed where that is asked for, and rows say which one they are about."""

from __future__ import annotations

import numpy as np
import pytest
from rendered_media import tone, write_mp4
from talking_face import talking_face

from vavl.errors import ConfigError
from vavl.prediction.results import result_table


def test_each_face_of_a_film_has_rows_that_say_which_one_it_is(tmp_path, predict):
    left, right = talking_face(50), talking_face(50, "sad", "m02")
    right[:30] = 128  # comes after 1.2 s
    write_mp4(tmp_path / "two.mp4", np.concatenate([left, right], axis=2), sound=tone(220, 2, amplitude=0.4))
    conditions = ["audio_video", "video", "audio"]
    rows = result_table(predict(tmp_path / "two.mp4", faces="each", conditions=conditions)).to_pylist()
    assert [(row["face_track"], row["condition"]) for row in rows] == [
        (None, "audio"), (1, "audio_video"), (1, "video"), (2, "audio_video"), (2, "video"),
    ]  # fmt: skip
    boxes = {row["face_track"]: [float(share) for share in row["face_box"].split()] for row in rows[1:]}
    assert boxes[1][2] < 0.6
    assert boxes[2][0] > 0.4
    starts = {row["face_track"]: row["face_start_s"] for row in rows[1:]}
    assert starts[1] < 0.1
    assert starts[2] == pytest.approx(1.22, abs=0.05)
    assert rows[1]["probability_glad"] != rows[3]["probability_glad"]
    again = predict(tmp_path / "two.mp4", faces="each", conditions=conditions)
    assert (again.worked_on, again.kept) == (0, 1)
    (row,) = result_table(predict(tmp_path / "two.mp4", conditions=["video"])).to_pylist()
    assert row["face_track"] is None


def test_faces_are_not_asked_of_a_store(predict, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/store.json").write_text("{}")
    with pytest.raises(ConfigError, match="faces: a store holds the features of one face per clip"):
        predict(tmp_path / "store", faces="each")
