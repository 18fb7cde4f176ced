"""Versions are found by name, by their first digits and as the newest; `latest` follows what lies there."""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vavl.errors import StoreError
from vavl.store import store_versions
from vavl.store.remote_files import RemoteDirectory
from vavl.store.store_cache import local_notes, local_store
from vavl.store.store_push import push_store
from vavl.store.store_versions import (
    pinned_store,
    split_version,
    store_directory,
    version_of,
    versions_at,
    write_latest,
)

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
WHOLE = "0123456789abcdef-01234567"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pushed(whole_store: Path, other_labels: Callable[[Path], Path], tmp_path: Path) -> tuple[Path, list[str]]:
    """A place with two versions of the same features, and their names, older first."""
    place = tmp_path / "pushed"
    older = push_store(whole_store, place, NOON)
    newer = push_store(other_labels(whole_store), place, NOON + dt.timedelta(days=1))
    return place / "small", [older.version, newer.version]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("s3://bucket/small@latest", ("s3://bucket/small", "latest")),
        (f"s3://bucket/small@{WHOLE}", ("s3://bucket/small", WHOLE)),
        ("s3://bucket/small@012345", ("s3://bucket/small", "012345")),
        (Path("runs/small@0123456789abcdef"), (Path("runs/small"), "0123456789abcdef")),
        ("s3://bucket/small", ("s3://bucket/small", None)),
        ("s3://me@host/small", ("s3://me@host/small", None)),
        ("s3://bucket/small@01234", ("s3://bucket/small@01234", None)),
        ("s3://bucket/small@older", ("s3://bucket/small@older", None)),
    ],
)
def test_place_and_version_are_told_apart(place: Path | str, expected: tuple[Path | str, str | None]) -> None:
    assert split_version(place) == expected


def test_a_folder_with_such_a_name_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "small@latest"
    folder.mkdir()
    assert split_version(folder) == (folder, None)
    assert store_directory(folder) == pinned_store(folder) == folder


def test_the_newest_and_each_by_its_first_digits_are_found(pushed: tuple[Path, list[str]]) -> None:
    place, (older, newer) = pushed
    base = place.as_uri()
    assert pinned_store(f"{base}@latest") == f"{base}@{newer}"
    assert pinned_store(place.with_name("small@latest")) == place.with_name(f"small@{newer}")
    assert pinned_store(f"{base}@{older[:20]}") == f"{base}@{older}"
    assert store_directory(f"{base}@{older}") == f"{base}/{older}"
    for version in (older, newer):
        content = json.loads((local_store(f"{base}@{version}") / "store.json").read_text())
        assert version_of(content) == version
        assert local_store(place.with_name(f"small@{version}")) == place / version
    assert local_notes(f"{base}@latest").name.startswith("small-")


def test_a_version_in_full_asks_for_nothing_else(pushed: tuple[Path, list[str]]) -> None:
    place, (older, _) = pushed
    (place / "latest").unlink()
    assert local_store(place.with_name(f"small@{older}")) == place / older


def test_what_is_not_there_or_not_one_is_refused_with_what_there_is(pushed: tuple[Path, list[str]]) -> None:
    place, (older, newer) = pushed
    with pytest.raises(StoreError, match=rf"no version begins with ffffff\n  fix: name one of: {newer}, {older}"):
        pinned_store(f"{place}@ffffff")
    with pytest.raises(StoreError, match=rf"{newer}, {older} all begin with {older[:16]}"):
        pinned_store(f"{place}@{older[:16]}")
    with pytest.raises(StoreError, match=r"no store was pushed there\n  fix: python jobs/push_store.py"):
        pinned_store(f"{place}r@latest")
    with pytest.raises(StoreError, match="there is no such file"):
        local_store(f"{place.as_uri()}@{WHOLE}")


@pytest.mark.parametrize("text", [None, "", "no version\n"])
def test_without_a_usable_latest_the_newest_that_lies_there_counts(
    pushed: tuple[Path, list[str]], text: str | None
) -> None:
    """Also of stores that were pushed before there was such a file."""
    place, (_, newer) = pushed
    (place / "latest").unlink()
    if text is not None:
        (place / "latest").write_text(text)
    assert pinned_store(f"{place}@latest") == f"{place}@{newer}"


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_broken_record_is_named(pushed: tuple[Path, list[str]], text: str) -> None:
    place, (older, _) = pushed
    (place / older / "version.json").write_text(text)
    with pytest.raises(StoreError, match=rf"{older}/version\.json: not the record of a version"):
        pinned_store(f"{place}@{older[:6]}")


def test_a_version_that_was_changed_where_it_lies_is_refused(pushed: tuple[Path, list[str]]) -> None:
    place, (older, newer) = pushed
    shutil.copy(place / newer / "store.json", place / older / "store.json")
    for named in (place.with_name(f"small@{older}"), f"{place.as_uri()}@{older}"):
        with pytest.raises(StoreError, match=f"is not that of version {older}"):
            local_store(named)


def test_after_a_version_was_removed_the_next_push_names_the_newest(
    pushed: tuple[Path, list[str]], whole_store: Path
) -> None:
    place, (older, newer) = pushed
    shutil.rmtree(place / newer)
    assert push_store(whole_store, place.parent, NOON).versions == (older,)
    assert pinned_store(f"{place}@latest") == f"{place}@{older}"


def test_a_version_that_was_committed_meanwhile_is_seen(
    pushed: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another push commits between our listing and our `latest`, and its own `latest` came before ours."""
    place, versions = pushed
    hidden = place.parent / versions[1]
    (place / versions[1]).rename(hidden)
    write = store_versions.write_small
    written = []

    def write_late(remote: RemoteDirectory, name: str, content: bytes) -> None:
        if hidden.exists():
            hidden.rename(place / versions[1])
        written.append(content.decode().strip())
        write(remote, name, content)

    monkeypatch.setattr(store_versions, "write_small", write_late)
    assert write_latest(RemoteDirectory(place.as_uri())) == versions[::-1]
    assert written == versions


def _push(folder: Path, place: Path, minute: int) -> None:
    push_store(folder, place, NOON + dt.timedelta(minutes=minute))


def test_of_pushes_at_once_the_last_is_the_latest(
    whole_store: Path, other_labels: Callable[..., Path], tmp_path: Path
) -> None:
    stores = [other_labels(whole_store, number) for number in range(6)]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_push, args=(store, tmp_path / "pushed", minute)) for minute, store in enumerate(stores)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    place = tmp_path / "pushed/small"
    records = versions_at(RemoteDirectory(place.as_uri()))
    assert len(records) == 6
    assert (place / "latest").read_text().strip() == records[0]["version"]
    assert [record["pushed"] for record in records] == sorted((record["pushed"] for record in records), reverse=True)
