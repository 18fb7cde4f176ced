"""jobs/push_store.py and jobs/list_stores.py: a store goes to a place, is seen there and trained from there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from copied_store import copy_store, relabelled_copy


@pytest.fixture
def store(small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path: Path) -> Path:
    return copy_store(small_store(small_corpus()), tmp_path / "store")


@pytest.fixture
def push(store: Path, tmp_path: Path, run_job: Callable[..., Any]) -> Callable[..., Any]:
    path = tmp_path / "push.yaml"
    content = {"output_dir": str(tmp_path / "out"), "store": str(store), "to": (tmp_path / "pushed").as_uri()}
    path.write_text(yaml.safe_dump(content))
    return lambda *words, **options: run_job("push_store", path, *words, **options)


@pytest.fixture
def listing(tmp_path: Path, run_job: Callable[..., Any]) -> Callable[..., Any]:
    out = f"output_dir={tmp_path / 'list'}"
    return lambda place, *words, **options: run_job("list_stores", place, out, *words, **options)


def test_a_store_is_pushed_once_and_seen_where_it_lies(
    push: Callable[..., Any], listing: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    done = push()
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert len(summary["sent"]) >= 5
    assert summary["newest"] == summary["version"]
    assert summary["sent_bytes"] > 0
    assert f"next: python jobs/train_model.py CONFIG.yaml data.store={summary['place']}" in done.stdout
    push()
    assert json.loads((tmp_path / "out/summary.json").read_text())["sent"] == []

    relabelled_copy(store, tmp_path / "newer")
    push(f"store={tmp_path / 'newer'}")
    newer = json.loads((tmp_path / "out/summary.json").read_text())
    shown = listing((tmp_path / "pushed").as_uri())
    lines = [line for line in shown.stdout.splitlines() if "small@" in line]
    assert [summary["place"] in line for line in lines] == [False, True]
    assert ["newest, " in line for line in lines] == [True, False]
    assert "80 clips" in lines[0]
    assert " UTC, " in lines[0]
    listed = json.loads((tmp_path / "list/summary.json").read_text())["stores"]
    assert [entry["version"] for entry in listed] == [newer["version"], summary["version"]]
    of_corpus = listing(tmp_path / "pushed" / "small")
    assert [line.split()[1:] for line in of_corpus.stdout.splitlines() if "small@" in line] == [
        line.split()[1:] for line in lines
    ]


def test_a_store_without_version_is_seen_too(listing: Callable[..., Any], store: Path) -> None:
    shown = listing(store.parent)
    assert f"{store}  without version, hash" in shown.stdout


def test_dry_runs_send_and_write_nothing(
    push: Callable[..., Any], listing: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    push("--dry-run")
    listing(store.parent, "--dry-run")
    assert not (tmp_path / "pushed").exists()
    assert not (tmp_path / "list").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("store=/nowhere", "there is no feature store"),
        ("to=https://host/stores", "can only be read"),
        ("to=foo://bucket/stores", "addresses of foo:// are not known"),
        ("to='s3://me:hunter2@bucket/x'", "credentials by the environment"),
    ],
)
def test_bad_settings_end_with_code_2(push: Callable[..., Any], word: str, message: str) -> None:
    done = push(word, "--dry-run", code=2)
    assert message in done.stderr
    assert "hunter2" not in done.stderr


def test_a_place_without_stores_says_what_to_name(listing: Callable[..., Any], tmp_path: Path) -> None:
    done = listing(f"memory://{tmp_path.name}/nothing", code=2)
    assert "there is no feature store" in done.stderr
    assert "jobs/push_store.py" in done.stderr
