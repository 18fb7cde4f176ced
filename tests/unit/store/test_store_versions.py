"""Versions are found by name, by their first digits and as the newest; the index follows what lies there."""

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
from vavl.store.remote_files import RemoteFolder
from vavl.store.store_cache import local_notes, local_store
from vavl.store.store_push import push_store
from vavl.store.store_versions import (
    pinned_store,
    read_index,
    refresh_index,
    split_version,
    store_folder,
    version_of,
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
    assert store_folder(folder) == pinned_store(folder) == folder


def test_the_newest_and_each_by_its_first_digits_are_found(pushed: tuple[Path, list[str]]) -> None:
    place, (older, newer) = pushed
    base = place.as_uri()
    assert pinned_store(f"{base}@latest") == f"{base}@{newer}"
    assert pinned_store(place.with_name("small@latest")) == place.with_name(f"small@{newer}")
    assert pinned_store(f"{base}@{older[:20]}") == f"{base}@{older}"
    assert store_folder(f"{base}@{older}") == f"{base}/{older}"
    for version in (older, newer):
        content = json.loads((local_store(f"{base}@{version}") / "store.json").read_text())
        assert version_of(content) == version
        assert local_store(place.with_name(f"small@{version}")) == place / version
    assert local_notes(f"{base}@latest").name.startswith("small-")


def test_a_version_in_full_asks_for_no_index(pushed: tuple[Path, list[str]]) -> None:
    place, (older, _) = pushed
    (place / "versions.json").unlink()
    assert local_store(place.with_name(f"small@{older}")) == place / older


def test_what_is_not_there_or_not_one_is_refused_with_what_there_is(pushed: tuple[Path, list[str]]) -> None:
    place, (older, newer) = pushed
    with pytest.raises(
        StoreError, match=rf"no version begins with ffffff\n  fix: name one of: {newer}, {older}"
    ):
        pinned_store(f"{place}@ffffff")
    with pytest.raises(StoreError, match=rf"{newer}, {older} all begin with {older[:16]}"):
        pinned_store(f"{place}@{older[:16]}")
    with pytest.raises(StoreError, match=r"no store was pushed there\n  fix: python jobs/push_store.py"):
        pinned_store(f"{place}r@latest")
    with pytest.raises(StoreError, match="there is no such file"):
        local_store(f"{place.as_uri()}@{WHOLE}")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format_version": 9, "versions": []}', '{"format_version": 1, "versions": [{}]}']
)
def test_a_broken_index_is_refused_and_made_anew_by_the_next_push(
    pushed: tuple[Path, list[str]], whole_store: Path, text: str
) -> None:
    place, versions = pushed
    (place / "versions.json").write_text(text)
    with pytest.raises(StoreError, match=r"versions\.json"):
        pinned_store(f"{place}@latest")
    push_store(whole_store, place.parent, NOON)
    assert [record.version for record in read_index(place)] == versions[::-1]


def test_a_version_that_was_changed_where_it_lies_is_refused(pushed: tuple[Path, list[str]]) -> None:
    place, (older, newer) = pushed
    shutil.copy(place / newer / "store.json", place / older / "store.json")
    for named in (place.with_name(f"small@{older}"), f"{place.as_uri()}@{older}"):
        with pytest.raises(StoreError, match=f"is not that of version {older}"):
            local_store(named)


def test_a_version_that_was_removed_leaves_the_index(pushed: tuple[Path, list[str]]) -> None:
    place, (older, newer) = pushed
    shutil.rmtree(place / newer)
    assert [record.version for record in refresh_index(RemoteFolder(place.as_uri()))] == [older]
    assert pinned_store(f"{place}@latest") == f"{place}@{older}"


def test_an_index_that_missed_a_version_is_written_again(
    pushed: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another push commits between our listing and our index, and its own index came before ours."""
    place, versions = pushed
    hidden = place.parent / versions[1]
    (place / versions[1]).rename(hidden)
    write = store_versions.write_small
    written = []

    def write_late(remote: RemoteFolder, name: str, content: bytes) -> None:
        if hidden.exists():
            hidden.rename(place / versions[1])
        written.append(len(json.loads(content)["versions"]))
        write(remote, name, content)

    monkeypatch.setattr(store_versions, "write_small", write_late)
    refresh_index(RemoteFolder(place.as_uri()))
    assert written == [1, 2]
    assert [record.version for record in read_index(place)] == versions[::-1]


def _push(folder: Path, place: Path, minute: int) -> None:
    push_store(folder, place, NOON + dt.timedelta(minutes=minute))


def test_pushes_at_once_all_stand_in_the_index(
    whole_store: Path, other_labels: Callable[..., Path], tmp_path: Path
) -> None:
    stores = [other_labels(whole_store, number) for number in range(6)]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_push, args=(store, tmp_path / "pushed", minute))
        for minute, store in enumerate(stores)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    records = read_index(tmp_path / "pushed/small")
    assert len(records) == 6
    assert [record.pushed for record in records] == sorted(
        (record.pushed for record in records), reverse=True
    )
