"""A registered model behind MLflow's own server: JSON in, JSON out, and which files a request may name."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rendered_media import moving_square, tone, write_mp4, write_wav
from served_models import CLASSES, served, write_media_model

COLUMNS = ["label", *(f"probability_{name}" for name in CLASSES), "condition", "error"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("requests")
    return served(write_media_model(folder / "best"), folder / "served")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("media") / "a.wav", 0.5 * tone(300, 0.4))


@pytest.fixture(scope="module")
def client(model: Any) -> Any:
    """Return a client of MLflow's own server around the model, without a socket."""
    from mlflow.pyfunc import scoring_server
    from starlette.testclient import TestClient

    return TestClient(scoring_server.init(model))


def asked(client: Any, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Post a request and return the rows of the answer, which must be JSON by RFC 8259."""

    def refused(token: str) -> None:
        raise ValueError(f"{token} is no JSON")

    answer = client.post("/invocations", json=body)
    assert answer.status_code == 200, answer.text
    rows = json.loads(answer.text, parse_constant=refused)["predictions"]
    # Another batch changes a prediction by rounding.
    return [{name: round(cell, 5) if isinstance(cell, float) else cell for name, cell in row.items()} for row in rows]


def test_a_bad_row_of_a_request_is_null_and_changes_nothing_of_the_good_ones(client: Any, sound: Path) -> None:
    good = {"audio_path": str(sound)}
    (alone,) = asked(client, {"dataframe_records": [good]})
    rows = asked(client, {"dataframe_records": [good, {"audio_path": "/no/such.wav"}, good]})
    assert rows[0] == rows[2] == alone
    assert "does not exist" in rows[1]["error"]
    assert {rows[1][name] for name in COLUMNS if name != "error"} == {None}


def test_requests_come_in_every_form_of_mlflow(client: Any, sound: Path) -> None:
    path, content = str(sound), base64.encodebytes(sound.read_bytes()).decode()
    (alone,) = asked(client, {"dataframe_records": [{"audio_path": path}]})
    for body in (
        {"dataframe_split": {"columns": ["audio_path"], "data": [[path], [path]]}},
        {"dataframe_split": {"columns": ["audio_bytes"], "data": [[content], [f"data:audio/wav;base64,{content}"]]}},
        {"inputs": {"audio_path": [path, path]}},
        {"inputs": [{"audio_path": path}, {"audio_path": path}]},
        {"instances": [{"audio_path": path}, {"audio_path": path}]},
    ):
        assert asked(client, body) == [alone, alone], body.keys()


def test_a_server_reads_files_below_its_root_only(
    client: Any, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAVL_SERVED_ROOT", str(sound.parent))
    (tmp_path / "link.wav").symlink_to(sound)
    inside, outside = {"audio_path": sound.name}, {"audio_path": str(tmp_path / "link.wav")}
    (sound.parent / "out.wav").symlink_to("/etc/hostname")
    rows = asked(
        client, {"dataframe_records": [inside, outside, {"audio_path": "../x.wav"}, {"audio_path": "out.wav"}]}
    )
    assert [row["error"] is None for row in rows] == [True, True, False, False]
    assert "this server reads no such file" in rows[2]["error"]
    monkeypatch.setenv("VAVL_SERVED_ROOT", "")
    rows = asked(client, {"dataframe_records": [{"audio_path": str(sound)}]})
    assert "audio_bytes" in rows[0]["error"]


def test_a_silent_track_counts_as_no_sound(model: Any, tmp_path: Path) -> None:
    film = write_mp4(tmp_path / "a.mp4", moving_square(12, side=64), sound=np.zeros(8000))
    answer = model.predict(pd.DataFrame([{"media_path": str(film)}, {"audio_path": str(film)}]))
    assert list(answer["condition"]) == ["video", None]
    assert "silence from start to end" in answer["error"][1]
