"""A store at an address is copied once per machine, whole or not at all, and again when it changed."""

from __future__ import annotations

import http.server
import json
import logging
import multiprocessing
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from copied_store import copy_store, mark_manifest

from vavl.corpora.manifest import MANIFEST_FILES, Manifest
from vavl.data.collection import open_collection
from vavl.data.settings import DataSettings
from vavl.errors import InputError, StoreError
from vavl.store import checked_files
from vavl.store.remote_files import RemoteDirectory
from vavl.store.store import FeatureStore, read_content
from vavl.store.store_cache import is_at_hand, local_store

FILES = {
    *(
        f"{modality}{name}"
        for modality in ("audio", "video")
        for name in (
            "_index.bin", "_ids.arrow", "_sums.arrow", "/data-00000.arrow", "/state.json", "/dataset_info.json",
        )
    ),
    *MANIFEST_FILES, "store.json",
}  # fmt: skip
SHARDS = {"audio/data-00000.arrow", "video/data-00000.arrow"}


def files_of(folder: Path) -> set[str]:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in files if name != ".origin" and ".locks/" not in name}


def whole_copy(address: str) -> Path:
    """Return the directory of this machine with everything of a store, read and compared."""
    folder = local_store(address)
    FeatureStore.open(folder).verify()
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checked_files, "_PAUSES_S", (0.0, 0.0))
    return tmp_path / "cache"


@pytest.fixture
def origin(small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path: Path) -> Path:
    """A store of the test's own; its store.json knows the manifest, as after an extraction."""
    return copy_store(small_store(small_corpus()), tmp_path / "origin")


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


def test_a_folder_is_used_in_place(origin: Path, cache: Path) -> None:
    assert local_store(origin) == origin
    assert is_at_hand(origin)
    assert not cache.exists()


def test_an_address_is_copied_once_and_reads_like_the_store(
    origin: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = origin.as_uri()
    assert not is_at_hand(address)
    with caplog.at_level(logging.INFO):
        folder = local_store(address)
    assert "copied file://" in caplog.text
    assert files_of(folder) == FILES - SHARDS, "a shard comes when one of its clips is read"
    assert not is_at_hand(address)
    whole_copy(address)
    assert files_of(folder) == FILES
    assert is_at_hand(address)
    caplog.clear()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with caplog.at_level(logging.INFO):
        assert local_store(address) == folder
    assert "copied" not in caplog.text
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before

    there, here = open_collection(DataSettings(store=origin)), open_collection(DataSettings(store=address))
    assert here.store.directory == folder
    assert here.store.hash == there.store.hash
    np.testing.assert_array_equal(here.store.features("audio", 3), there.store.features("audio", 3))
    assert len(here.manifest) == len(there.manifest)
    here.store.verify()


def test_a_shard_comes_when_a_clip_of_it_is_read(origin: Path, cache: Path) -> None:
    folder = local_store(origin.as_uri())
    store, there = FeatureStore.open(folder), FeatureStore.open(origin)
    assert len(Manifest.read(folder)) == read_content(folder)["counts"]["clips"]
    np.testing.assert_array_equal(store.lengths("video"), there.lengths("video"))
    assert store.speaker_sums("video").keys() == there.speaker_sums("video").keys()
    assert not files_of(folder) & SHARDS
    for _ in range(2):
        np.testing.assert_array_equal(store.features("audio", 3), there.features("audio", 3))
        assert files_of(folder) & SHARDS == {"audio/data-00000.arrow"}
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.features("video", 5), there.features("video", 5))
    assert is_at_hand(origin.as_uri())


def test_a_changed_store_at_the_same_address_is_another_entry(origin: Path, cache: Path) -> None:
    first = local_store(origin.as_uri())
    table = Manifest.read(origin).table
    Manifest(table.slice(0, len(table)).set_column(0, "clip_id", table["clip_id"])).write(origin)
    content = json.loads((origin / "store.json").read_text())
    content["counts"]["note"] = 1
    (origin / "store.json").write_text(json.dumps(content))
    mark_manifest(origin)
    second = local_store(origin.as_uri())
    assert first != second
    assert entries(cache) == sorted([first, second])


@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_entry_is_copied_anew(
    origin: Path, cache: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = whole_copy(origin.as_uri())
    path = folder / "video/data-00000.arrow"
    content = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(content[:-100])
        case "changed":
            path.write_bytes(content[:-9] + b"\x01" + content[-8:])
        case _:
            path.unlink()
    assert whole_copy(origin.as_uri()) == folder
    assert ("copying it anew" in caplog.text) == (damage != "missing")
    assert path.read_bytes() == content
    assert entries(cache) == [folder]


def test_a_touched_file_is_read_again_and_kept(origin: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = whole_copy(origin.as_uri())
    before = (folder / "video/data-00000.arrow").stat().st_ino
    (folder / "video/data-00000.arrow").touch()
    assert local_store(origin.as_uri()) == folder
    assert "copying it anew" not in caplog.text
    assert (folder / "video/data-00000.arrow").stat().st_ino == before


def test_a_copy_of_a_shard_that_was_torn_is_started_anew(origin: Path, cache: Path) -> None:
    folder = local_store(origin.as_uri())
    (folder / "audio/.data-00000.arrow.partial").write_bytes(b"half")
    assert whole_copy(origin.as_uri()) == folder
    assert files_of(folder) == FILES
    assert entries(cache) == [folder]


def test_a_copy_that_was_interrupted_goes_on_with_the_files_that_are_whole(
    origin: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, asked = RemoteDirectory.chunks, []

    def chunks(remote: Any, name: str) -> Iterator[bytes]:
        asked.append(name)
        if name == "video_index.bin":
            raise InputError("s3://x", "", "cannot be read: access denied (ExpiredToken)", "new credentials")
        return read(remote, name)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteDirectory, "chunks", chunks)
        with pytest.raises(InputError, match="ExpiredToken"):
            local_store(origin.as_uri())
    assert asked.count("video_index.bin") == 1, "what another attempt cannot mend is not asked for again"
    assert not list(cache.rglob("store.json"))
    (entry,) = entries(cache)
    before = {name: (entry / name).stat().st_ino for name in files_of(entry)}
    assert len(before) > 3
    whole_copy(origin.as_uri())
    assert {name: (entry / name).stat().st_ino for name in before} == before


@pytest.mark.parametrize("fault", ["timeout", "short", "changed"])
@pytest.mark.parametrize("times", [2, 3])
def test_what_a_network_loses_is_asked_for_again_and_not_for_ever(
    origin: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, fault: str, times: int
) -> None:
    read, faults = RemoteDirectory.chunks, []

    def chunks(remote: Any, name: str) -> Iterator[bytes]:
        whole = b"".join(read(remote, name))
        if name == "audio/data-00000.arrow" and len(faults) < times:
            faults.append(name)
            match fault:
                case "timeout":
                    raise remote.unreachable(TimeoutError())
                case "short":
                    whole = whole[: len(whole) // 2]
                case _:
                    whole = bytes(len(whole))
        yield whole

    monkeypatch.setattr(RemoteDirectory, "chunks", chunks)
    if times == 2:
        whole_copy(origin.as_uri())
        return
    message = {"timeout": "TimeoutError", "short": r"has \d+ bytes, store\.json says", "changed": "SHA-256"}[fault]
    with pytest.raises((InputError, StoreError), match=message):
        whole_copy(origin.as_uri())
    assert not files_of(cache) & {"audio/data-00000.arrow"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("audio/data-00000.arrow", None, "there is no such file"),
        ("audio/data-00000.arrow", b"other", "has 5 bytes, store.json says"),
        ("audio_sums.arrow", b"other", "has 5 bytes, store.json says"),
        ("manifest/data-00000-of-00001.arrow", b"other", "has 5 bytes, store.json says"),
        ("store.json", None, "there is no such file"),
        ("store.json", b"{}", "format None is unknown"),
    ],
)
def test_what_is_not_the_store_is_refused_and_leaves_nothing(
    origin: Path, cache: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is None:
        (origin / name).unlink()
    else:
        (origin / name).write_bytes(content)
    with pytest.raises(StoreError, match=message):
        whole_copy(origin.as_uri())
    if cache.exists():
        assert name not in {path.relative_to(entry).as_posix() for entry in entries(cache) for path in entry.rglob("*")}


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", ".hidden", ""])
def test_a_store_that_names_files_elsewhere_is_refused(origin: Path, cache: Path, name: str) -> None:
    content = json.loads((origin / "store.json").read_text())
    content["files"][name] = content["files"]["manifest/data-00000-of-00001.arrow"]
    (origin / "store.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match="is not the name of a file"):
        local_store(origin.as_uri())


def _copy_in_a_process(address: str, log: Path) -> None:
    logging.basicConfig(filename=log, level=logging.INFO, force=True)
    local_store(address)


def test_processes_of_one_machine_copy_once(origin: Path, cache: Path, tmp_path: Path) -> None:
    logs = [tmp_path / f"log{number}" for number in range(3)]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_copy_in_a_process, args=(origin.as_uri(), log)) for log in logs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sum(log.read_text().count("copied file://") for log in logs) == 1
    assert len(entries(cache)) == 1


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *words: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def web(origin: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(origin.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_web_server_will_do(web: str, cache: Path, origin: Path) -> None:
    folder = whole_copy(f"{web}/origin")
    assert (folder / "audio/data-00000.arrow").read_bytes() == (origin / "audio/data-00000.arrow").read_bytes()
    with pytest.raises(StoreError, match="there is no such file"):
        local_store(f"{web}/nothing")


def test_another_filesystem_will_do(origin: Path, cache: Path) -> None:
    files = fsspec.filesystem("memory")
    for name in files_of(origin):
        files.pipe(f"/bucket/store/{name}", (origin / name).read_bytes())
    folder = whole_copy("memory://bucket/store")
    assert {name: (folder / name).read_bytes() for name in files_of(origin)} == {
        name: (origin / name).read_bytes() for name in files_of(origin)
    }


def test_what_cannot_be_reached_is_named_without_secrets(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"cannot be read: ClientConnectorError"):
        local_store("http://127.0.0.1:9/store")
    with pytest.raises(InputError, match=r"addresses of foo:// are not known"):
        local_store("foo://bucket/store")

    def refuse(address: str, **_: object) -> None:
        raise PermissionError(f"https://bucket/?X-Amz-Signature=hunter2 of {address}")

    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(InputError, match=r"cannot be read: access denied \(PermissionError\)\n.*credentials") as caught:
        local_store("s3://bucket/store")
    assert "hunter2" not in str(caught.value)


def test_a_missing_driver_is_named_with_its_package(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_driver(address: str, **_: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", without_driver)
    with pytest.raises(InputError, match=r"driver of s3:// is not installed\n  fix: pip install s3fs"):
        local_store("s3://bucket/store")


def test_a_disk_that_is_too_small_is_seen_before_anything_is_copied(
    origin: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vavl.store.checked_files.shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(InputError, match=r"the store takes .* are free\n.*VAVL_CACHE"):
        local_store(origin.as_uri())


def test_an_unusable_cache_folder_is_named(origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAVL_CACHE", "/proc/nothing")
    with pytest.raises(InputError, match="choose another VAVL_CACHE"):
        local_store(origin.as_uri())
