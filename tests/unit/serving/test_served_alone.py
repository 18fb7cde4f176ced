"""The registered model in an environment that has its own requirements and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rendered_media import moving_square, tone, write_mp4
from served_models import CLASSES, served, values_of, write_media_model

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "tests/support/processes/predicting_alone.py"


@dataclass(frozen=True)
class Case:
    """A model, rows to predict, and what this process says of them."""

    model: Path
    table: Path
    expected: Any


@pytest.fixture
def case(tmp_path: Path) -> Case:
    film = write_mp4(tmp_path / "film.mp4", moving_square(6, side=64), sound=0.5 * tone(300, 0.3))
    features = np.random.default_rng(0).normal(size=(4, 5)).tolist()
    rows = [{"media_path": str(film)}, {"audio_features": features}, {"audio_path": str(film)}]
    model = served(write_media_model(tmp_path / "best"), tmp_path / "served")
    (tmp_path / "table.json").write_text(json.dumps(rows))
    import pandas as pd

    expected = values_of(model.predict(pd.DataFrame(rows)))
    assert np.isfinite(expected).all()
    return Case(tmp_path / "served", tmp_path / "table.json", expected)


@pytest.fixture(params=["hidden", pytest.param("fresh", marks=pytest.mark.slow)])
def alone(request: pytest.FixtureRequest, case: Case, tmp_path: Path) -> Iterator[list[Path | str]]:
    """A Python without other packages: this one, which hides them, or that of a fresh environment."""
    if request.param == "hidden":
        yield [sys.executable, "-W", "ignore", PROGRAM, "--hide"]
        return
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh/bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    done = subprocess.run(
        [*install, "--requirement", case.model / "requirements.txt"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    yield [python, "-W", "ignore", PROGRAM]
    shutil.rmtree(tmp_path / "fresh")  # 2 GB


def test_nothing_is_needed_but_what_the_requirements_bring(case: Case, alone: list[Path | str]) -> None:
    answer = case.table.with_name("answer.json")
    done = subprocess.run(
        [*alone, case.model, case.table, answer], cwd=case.table.parent, capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(answer.read_text())
    assert [row["error"] for row in rows] == [None] * 3
    assert [row["condition"] for row in rows] == ["audio_video", "audio", "audio"]
    found = [[row[f"probability_{name}"] for name in CLASSES] for row in rows]
    np.testing.assert_allclose(found, case.expected, atol=1e-5)
