"""A pushed store is a version by its content: whole or absent, checked, sent once, found by name or as the newest."""

from __future__ import annotations

import datetime as dt
import errno
import itertools
import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from vavl.corpora.manifest import MANIFEST_FILES
from vavl.errors import FullDiskError, InputError, StoreError
from vavl.store import checked_files
from vavl.store.remote_files import RemoteDirectory
from vavl.store.store import FeatureStore
from vavl.store.store_cache import local_store
from vavl.store.store_versions import (
    Pushed,
    list_stores,
    pinned_store,
    push_store,
    split_version,
    store_directory,
    version_of,
    versions_at,
    write_latest,
)

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
WHOLE = "0123456789abcdef-01234567"
NEEDED = set(MANIFEST_FILES) | {
    f"{modality}{name}"
    for modality in ("audio", "video")
    for name in ("_index.bin", "_ids.arrow", "_sums.arrow", "/data-00000.arrow", "/state.json", "/dataset_info.json")
}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checked_files, "_PAUSES_S", (0.0, 0.0))


def test_a_push_to_a_full_disk_says_so_and_is_not_tried_again(whole_store, tmp_path, monkeypatch):
    tries = []

    def full(files, source, target):
        tries.append(source)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalFileSystem, "put_file", full)
    with pytest.raises(FullDiskError, match=r"cannot be written: No space left on device\n.*free disk space"):
        push_store(whole_store, tmp_path / "there", NOON)
    assert len(tries) == len(set(tries))
    assert not list(tmp_path.rglob("*.partial"))


@pytest.fixture(params=["folder", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    match request.param:
        case "folder":
            return tmp_path / "pushed"
        case "file":
            return f"file://{tmp_path}/pushed"
        case _:
            return f"memory://bucket/{tmp_path.name}"


def test_what_was_pushed_is_read_as_the_same_store(whole_store: Path, place: Path | str) -> None:
    pushed = push_store(whole_store, place, NOON)
    store = FeatureStore.open(whole_store)
    assert pushed.version == version_of(store.content)
    assert pushed.version.startswith(store.hash)
    assert pushed.place == f"{place}/small@{pushed.version}"
    assert set(pushed.sent) >= NEEDED
    assert pushed.sent_bytes == sum((whole_store / name).stat().st_size for name in pushed.sent)
    arrived = FeatureStore.open(local_store(type(place)(pushed.place)))
    arrived.verify()
    assert arrived.content == store.content
    assert pushed.versions == (pushed.version,)
    (record,) = list_stores(place)
    assert (record["place"], record["newest"]) == (pushed.place, True)
    assert (record["version"], record["clips"], record["pushed"]) == (pushed.version, 80, "2026-03-01T12:00:00.000Z")
    assert record["features"]["audio"]["extractor"] == "synthetic"


def test_a_second_push_sends_nothing_and_changes_nothing(whole_store: Path, tmp_path: Path) -> None:
    place = tmp_path / "pushed"
    push_store(whole_store, place, NOON)
    before = tree(place)
    again = push_store(whole_store, place, NOON + dt.timedelta(days=1))
    assert again.sent == ()
    assert set(again.kept) == NEEDED
    assert tree(place) == before


class CutOffError(Exception):
    """Stands for whatever ends a push."""


def cut_after(files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the connection break in the middle of every file after ``files`` whole ones."""
    count = itertools.count()
    whole = LocalFileSystem.put_file

    def put_file(system: LocalFileSystem, origin: str, target: str) -> None:
        if next(count) < files:
            whole(system, origin, target)
            return
        Path(target).write_bytes(Path(origin).read_bytes()[:100])
        raise CutOffError

    monkeypatch.setattr(LocalFileSystem, "put_file", put_file)


def test_an_interrupted_push_is_no_version_and_resumes(
    whole_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "pushed"
    with monkeypatch.context() as patch:
        cut_after(2, patch)
        with pytest.raises(InputError, match=r"cannot be written: CutOffError"):
            push_store(whole_store, place, NOON)
    (version,) = (place / "small").iterdir()
    files = [path for path in version.rglob("*") if path.is_file()]
    there = {path.relative_to(version).as_posix(): path.stat().st_mtime_ns for path in files}
    assert len(there) == 2
    assert there.keys() < NEEDED
    with pytest.raises(StoreError, match="no store was pushed there"):
        local_store(place / "small@latest")
    pushed = push_store(whole_store, place, NOON)
    assert set(pushed.kept) == there.keys()
    assert {name: (version / name).stat().st_mtime_ns for name in there} == there
    FeatureStore.open(local_store(place / "small@latest")).verify()


@pytest.mark.parametrize("name", ["video/data-00000.arrow", "store.json"])
def test_a_file_that_was_damaged_there_is_sent_again(whole_store: Path, tmp_path: Path, name: str) -> None:
    place = tmp_path / "pushed"
    version = push_store(whole_store, place, NOON).version
    damaged = place / "small" / version / name
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-9] + b"\x01" + content[-8:])
    assert set(push_store(whole_store, place, NOON).sent) == {name} - {"store.json"}
    assert damaged.read_bytes() == content


def test_without_reading_back_sizes_are_compared(whole_store: Path, tmp_path: Path) -> None:
    place = tmp_path / "pushed"
    version = push_store(whole_store, place, NOON, read_back=False).version
    damaged = place / "small" / version / "video/data-00000.arrow"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    assert push_store(whole_store, place, NOON, read_back=False).sent == ()
    damaged.write_bytes(b"short")
    assert push_store(whole_store, place, NOON, read_back=False).sent == ("video/data-00000.arrow",)


def test_what_arrives_damaged_is_not_committed(
    whole_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(remote: RemoteDirectory, source: Path, name: str) -> None:
        remote.write(name, bytes(source.stat().st_size))

    monkeypatch.setattr(RemoteDirectory, "send", send)
    with pytest.raises(StoreError, match=r"what arrived is not what was sent \(size or SHA-256\)"):
        push_store(whole_store, tmp_path / "pushed", NOON)
    assert not list((tmp_path / "pushed").rglob("store.json"))


def test_other_labels_are_another_version_of_the_same_features(
    whole_store: Path, other_labels: Callable[[Path], Path], tmp_path: Path
) -> None:
    first = push_store(whole_store, tmp_path / "pushed", NOON)
    other = push_store(other_labels(whole_store), tmp_path / "pushed", NOON + dt.timedelta(hours=1))
    assert first.version != other.version
    assert first.version[:16] == other.version[:16]
    assert other.versions == (other.version, first.version)


def damaged(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-400] ^= 1
    (folder / name).write_bytes(content)


def without_manifest_hash(folder: Path, name: str) -> None:
    content = json.loads((folder / name).read_text())
    for file in MANIFEST_FILES:
        del content["files"][file]
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (damaged, "audio_sums.arrow", "sums_sha256: the file was changed"),
        (damaged, "manifest/data-00000-of-00001.arrow", "the file was changed"),
        (without_manifest_hash, "store.json", "holds no hash of the manifest"),
    ],
)
def test_a_store_that_cannot_be_trusted_is_not_pushed(
    whole_store: Path, tmp_path: Path, change: Callable[[Path, str], None], name: str, message: str
) -> None:
    folder = Path(shutil.copytree(whole_store, tmp_path / "changed"))
    change(folder, name)
    with pytest.raises(StoreError, match=message):
        push_store(folder, tmp_path / "pushed", NOON)
    assert not (tmp_path / "pushed").exists()


def test_what_can_only_be_read_is_refused(whole_store: Path) -> None:
    with pytest.raises(InputError, match=r"https:// can only be read\n  fix: push to a directory or"):
        push_store(whole_store, "https://host/stores", NOON)


def test_a_place_that_cannot_be_written_is_named_with_its_reason(whole_store: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be written: .*FileNotFoundError \(No such file"):
        push_store(whole_store, "file:///proc/nothing", NOON)


def test_the_rate_is_said_while_a_store_is_sent(
    whole_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checked_files, "_SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level("INFO"):
        pushed: Pushed = push_store(whole_store, f"memory://bucket/{tmp_path.name}", NOON)
    assert "MB/s, about" in caplog.text
    assert pushed.summary()["bytes_per_second"] == pytest.approx(pushed.sent_bytes / pushed.seconds, abs=1)


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
    assert local_store(f"{base}@latest").name.startswith("small-")


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
    write = RemoteDirectory.write
    written = []

    def write_late(remote: RemoteDirectory, name: str, content: bytes) -> None:
        if hidden.exists():
            hidden.rename(place / versions[1])
        written.append(content.decode().strip())
        write(remote, name, content)

    monkeypatch.setattr(RemoteDirectory, "write", write_late)
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
