"""A small corpus and its store, made once; tests damage copies of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_extraction import TAKES, extract
from small_media_corpus import write_small_corpus


@pytest.fixture(scope="package")
def made_corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_small_corpus(folder, takes=TAKES)
    return folder


@pytest.fixture
def corpus(made_corpus, tmp_path) -> Path:
    """Return a copy of the corpus that a test may damage."""
    return Path(shutil.copytree(made_corpus, tmp_path / "corpus"))


@pytest.fixture(scope="package")
def made_store(made_corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "store"
    extract(made_corpus, folder)
    return folder


@pytest.fixture
def store(made_store, tmp_path) -> Path:
    """Return a copy of the finished store."""
    return Path(shutil.copytree(made_store, tmp_path / "store"))
