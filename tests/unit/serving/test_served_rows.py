"""Whatever stands next to a row of a registered model's input, in whatever order: its answer is its own."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rendered_media import moving_square, tone, write_mp4, write_wav
from served_models import AUDIO_WIDTH, CLASSES, VIDEO_WIDTH, served, values_of, write_media_model

from vavl.serving.served_rows import INPUT_COLUMNS

TOLERANCE = 1e-6
"""Of a probability: other padding and other batch-mates change the order of float32 sums, nothing else."""

ODD_NAMES = ("голос", "顔 🎭", "a'b\"c %d {x}", "é" * 60, "-x", "con\u202etrast\u2028line", "tab\tnew\nline")
WIDTHS = {"audio": AUDIO_WIDTH, "video": VIDEO_WIDTH}
# Cells by a name: what a row gives is drawn from these and from features.
BAD = {
    "missing file": {"audio_path": "/nowhere/✗.wav"},
    "folder": {"video_path": "/"},
    "number as path": {"audio_path": [3]},
    "cut off": {"audio_bytes": b"RIFF\xff\x00\x00\x00WAVEfmt "},
    "no media": {"media_bytes": b"\x00" * 64},
    "empty bytes": {"video_bytes": b""},
    "no base64": {"media_bytes": "###"},
    "wrong width": {"audio_features": np.ones((3, AUDIO_WIDTH + 1))},
    "no frames": {"audio_features": np.ones((0, AUDIO_WIDTH))},
    "flat": {"video_features": [1.0] * VIDEO_WIDTH},
    "ragged": {"audio_features": [[1.0] * AUDIO_WIDTH, [1.0]]},
    "words": {"audio_features": "many words"},
    "not a number": {"audio_features": np.full((2, AUDIO_WIDTH), np.nan)},
    "infinite": {"video_features": np.full((2, VIDEO_WIDTH), np.inf)},
    "too far": {"audio_features": np.full((2, AUDIO_WIDTH), 3e38)},
    "nothing": {},
}


class Answer(NamedTuple):
    """A row of the output."""

    label: str | None
    condition: str | None
    error: str | None
    probabilities: Any


def answers_of(table: Any) -> list[Answer]:
    """Return the rows of an output."""
    texts = (table[name].tolist() for name in ("label", "condition", "error"))
    return [Answer(*cells) for cells in zip(*texts, values_of(table), strict=True)]


class Bench:
    """The model, media by a name, and the answers of rows that were predicted alone."""

    def __init__(self, model: Any, media: dict[str, dict[str, Any]]) -> None:
        self.model, self.media = model, media
        self.alone: dict[Any, Any] = {}

    def cells(self, row: tuple[Any, ...]) -> dict[str, Any]:
        """Return the cells of a drawn row."""
        given: dict[str, Any] = {}
        for kind, *rest in row:
            if kind == "features":
                modality, seed, frames = rest
                values = np.random.default_rng([seed, frames]).normal(size=(frames, WIDTHS[modality]))
                given[f"{modality}_features"] = values.tolist() if seed % 2 else values.astype(np.float32)
            else:
                given |= (BAD if kind == "bad" else self.media)[rest[0]]
        return given

    def predict(self, rows: list[tuple[Any, ...]], absent: Any = None, index: Any = None) -> Any:
        """Predict a table that has the columns which a row gives; ``absent`` fills the other cells."""
        cells = [self.cells(row) for row in rows]
        names = [name for name in INPUT_COLUMNS if any(name in one for one in cells)] or ["audio_path"]
        columns = {
            name: pd.Series([one.get(name, absent) for one in cells], dtype=object, index=index) for name in names
        }
        return self.model.predict(pd.DataFrame(columns))

    def answer_alone(self, row: tuple[Any, ...]) -> Answer:
        """Return the answer of a row that has nothing next to it."""
        if row not in self.alone:
            (self.alone[row],) = answers_of(self.predict([row]))
        return self.alone[row]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("rows")
    media: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(ODD_NAMES):
        sound = write_wav(folder / f"{name}.wav", 0.3 * tone(200 + 60 * number, 0.05 + 0.03 * number))
        media[f"sound {number}"] = {"audio_path": str(sound)}
        media[f"bytes {number}"] = {"audio_bytes": sound.read_bytes()}
    pictures = moving_square(3, side=32)
    film = write_mp4(folder / "ফিল্ম.mp4", pictures, sound=tone(250, 0.12))
    media["film"] = {"video_path": str(film)}
    media["both"] = {"media_path": str(film)}
    media["both bytes"] = {"media_bytes": film.read_bytes()}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(served(write_media_model(folder / "best", max_frames=12), folder / "served"), media)
    torch.set_num_threads(before)


def features(modality: str) -> st.SearchStrategy[Any]:
    return st.tuples(
        st.just("features"), st.just(modality), st.integers(0, 5), st.sampled_from([1, 2, 3, 5, 8, 13, 40])
    )


SOUNDS = [f"{kind} {number}" for kind in ("sound", "bytes") for number in range(len(ODD_NAMES))]
ROWS = st.one_of(
    st.tuples(features("audio"), features("video")),
    st.tuples(features("audio")),
    st.tuples(features("video")),
    st.tuples(st.tuples(st.just("media"), st.sampled_from(SOUNDS)), features("video")),
    st.tuples(st.tuples(st.just("media"), st.sampled_from(SOUNDS))),
    st.tuples(st.tuples(st.just("bad"), st.sampled_from(sorted(BAD)))),
    st.tuples(st.tuples(st.just("bad"), st.sampled_from(sorted(BAD))), features("audio")),
    st.tuples(st.tuples(st.just("media"), st.sampled_from(["film", "both", "both bytes"]))),
)


@settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(ROWS, max_size=7),
    absent=st.sampled_from([None, math.nan, "", pd.NA]),
    sizes=st.tuples(st.sampled_from([1, 2, 3, 32]), st.sampled_from([16, 64, 8192]), st.sampled_from([1, 3, 256])),
    start=st.integers(-5, 5),
)
def test_a_row_is_predicted_as_if_it_were_alone(
    bench: Bench, rows: list[tuple[Any, ...]], absent: Any, sizes: tuple[int, int, int], start: int
) -> None:
    clips, frames, at_once = sizes
    index = [start + 3 * (place // 2) for place in range(len(rows))]  # with labels that come twice
    with (
        patch("vavl.models.clips.MOST_CLIPS", clips),
        patch("vavl.models.clips.MOST_FRAMES", frames),
        patch("vavl.serving.served_rows._ROWS_AT_ONCE", at_once),
    ):
        answer = bench.predict(rows, absent, index)
    assert list(answer.index) == index
    for row, found in zip(rows, answers_of(answer), strict=True):
        alone = bench.answer_alone(row)
        assert found[:3] == alone[:3]
        np.testing.assert_allclose(found.probabilities, alone.probabilities, rtol=0, atol=TOLERANCE)
        check_row(row, found)


def check_row(row: tuple[Any, ...], found: Answer) -> None:
    """A row is predicted from all that it gives, or it says why not."""
    assert (found.error is None) == (found.label in CLASSES) == (found.condition is not None)
    if all(kind != "bad" for kind, *_ in row):
        assert found.error is None
        assert all(part[1] in str(found.condition) for part in row if part[0] == "features")
    elif len(row) == 1:
        assert found.error


def test_temporary_files_of_the_cases_are_gone(bench: Bench, tmp_path: Path) -> None:
    with patch.object(tempfile, "tempdir", str(tmp_path)):
        bench.predict([(("media", "both bytes"),), (("bad", "no media"),), (("media", "bytes 1"),)])
    assert not list(tmp_path.iterdir())


def test_long_lists_go_through_in_bounded_groups(bench: Bench) -> None:
    rows = [(("features", "audio", seed % 6, 1 + seed % 40),) for seed in range(600)]
    network = bench.model.unwrap_python_model()._predictor.model.network
    sizes: list[tuple[int, int]] = []
    hook = network.register_forward_pre_hook(
        lambda module, inputs: sizes.append(tuple(inputs[0].audio.values.shape[:2]))
    )
    answer = bench.predict(rows)
    hook.remove()
    assert answer["error"].isna().all()
    assert len(answer) == sum(clips for clips, _ in sizes) == 600
    assert max(clips for clips, _ in sizes) <= 32
    # Clips are cut to 12 frames, and sorted by length within every 256 rows.
    assert sum(clips * frames for clips, frames in sizes) <= 1.1 * sum(min(12, row[0][3]) for row in rows)
    assert values_of(answer)[0] == pytest.approx(values_of(bench.predict(rows[:1]))[0], abs=TOLERANCE)
