"""One small rendered corpus for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo_corpus.corpus import render_corpus
from demo_corpus.settings import DemoCorpusSettings

SMALL = DemoCorpusSettings(women=1, men=0, sentences=1, takes=1)


@pytest.fixture(scope="session")
def small_settings() -> DemoCorpusSettings:
    """Six clips: one speaker in every emotion."""
    return SMALL


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the corpus of ``small_settings``; tests only read it."""
    root = tmp_path_factory.mktemp("demo_corpus")
    render_corpus(root, SMALL, workers=1)
    return root
