"""Run a job's main in this process: starting a process costs more than most jobs take."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

JOBS = Path(__file__).parents[2] / "jobs"


@dataclass(frozen=True)
class Done:
    """How a job ended."""

    code: int
    stdout: str
    stderr: str


RunJob = Callable[..., Done]


@pytest.fixture
def run_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> RunJob:
    """Return a function that runs ``jobs/<name>.py`` with the words of a command line."""

    def run(name: str, *words: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        spec = importlib.util.spec_from_file_location(f"job_{name}", JOBS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        job = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(job)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            code = job.main()
        printed = capsys.readouterr()
        # pytest holds the log; a person sees it on stderr.
        return Done(code, printed.out, printed.err + caplog.text)

    return run
