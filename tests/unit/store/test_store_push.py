"""A pushed store is a version by its content: whole or absent, checked by SHA-256, sent once."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from vavl.config.files import sha256_of_file
from vavl.corpora.manifest import MANIFEST_FILES
from vavl.errors import InputError, StoreError
from vavl.store import remote_files, store_push
from vavl.store.remote_files import RemoteDirectory
from vavl.store.store import FeatureStore
from vavl.store.store_cache import local_store
from vavl.store.store_push import Pushed, list_stores, push_store
from vavl.store.store_versions import version_of

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
NEEDED = set(MANIFEST_FILES) | {
    f"{modality}{name}"
    for modality in ("audio", "video")
    for name in ("_index.bin", "_ids.arrow", "_sums.arrow", "/data-00000.arrow", "/state.json", "/dataset_info.json")
}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=["folder", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    match request.param:
        case "folder":
            return tmp_path / "pushed"
        case "file":
            return f"file://{tmp_path}/pushed"
        case _:
            return f"memory://bucket/{tmp_path.name}"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))


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
    """Let the connection break in the middle of the next file after ``files`` whole ones."""
    count = itertools.count()
    whole = store_push.send_file

    def send(remote: RemoteDirectory, source: Path, name: str, tick: Callable[[int], None]) -> None:
        if next(count) < files:
            whole(remote, source, name, tick)
            return

        def half(origin: str, target: str, callback: Any) -> None:
            Path(target).write_bytes(Path(origin).read_bytes()[:100])
            raise CutOffError

        with monkeypatch.context() as patch:
            patch.setattr(remote.files, "put_file", half)
            remote_files.send_file(remote, source, name, tick)

    monkeypatch.setattr(store_push, "send_file", send)


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
    def send(remote: RemoteDirectory, source: Path, name: str, tick: Callable[[int], None]) -> None:
        remote_files.write_small(remote, name, bytes(source.stat().st_size))

    monkeypatch.setattr(store_push, "send_file", send)
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
    monkeypatch.setattr("vavl.store.remote_files._SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level("INFO"):
        pushed: Pushed = push_store(whole_store, f"memory://bucket/{tmp_path.name}", NOON)
    assert "MB/s, about" in caplog.text
    assert pushed.bytes_per_second == pytest.approx(pushed.sent_bytes / pushed.seconds)


@pytest.fixture
def s3_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("s3fs", reason="pip install s3fs 'moto[s3]'")
    server_module = pytest.importorskip("moto.server", reason="pip install s3fs 'moto[s3]'")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://{host}:{port}"})
    fsspec.filesystem("s3").mkdir("bucket")
    yield "s3://bucket/stores"
    server.stop()


def test_object_storage_will_do(whole_store: Path, s3_bucket: str) -> None:
    pushed = push_store(whole_store, s3_bucket, NOON)
    assert push_store(whole_store, s3_bucket, NOON).sent == ()
    files = fsspec.filesystem("s3")
    root = f"bucket/stores/small/{pushed.version}"
    assert not [name for name in files.find(root) if "partial" in name]
    files.rm([f"{root}/store.json", f"{root}/video/data-00000.arrow"])
    assert push_store(whole_store, s3_bucket, NOON).sent == ("video/data-00000.arrow",)
    folder = local_store(f"{s3_bucket}/small@latest")
    assert sha256_of_file(folder / "video/data-00000.arrow") == sha256_of_file(whole_store / "video/data-00000.arrow")
