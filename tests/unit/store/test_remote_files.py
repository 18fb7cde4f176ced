"""Stores in object storage that times out, is busy, answers in part or no longer knows us: retried, or refused by name.

The server is moto's on loopback, behind a proxy that injects the errors; the drivers are those of a real run.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import fsspec
import pytest
from faulty_s3 import Faults, asked_again
from s3_server import BUCKET, keys

from vavl.config.files import sha256_of_file
from vavl.errors import InputError
from vavl.store.store import FeatureStore
from vavl.store.store_cache import local_store
from vavl.store.store_versions import list_stores, push_store

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
SHARD, ANY_SHARD = "audio/data-00000.arrow", r"/data-\d+\.arrow"
FOR_EVER = 10**6


@pytest.fixture
def faults(s3_faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    """What the proxy before the S3 server does next."""
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))
    return s3_faults


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture
def pushed(faults: Faults, whole_store: Path, address: str) -> str:
    """Address of a version there."""
    return str(push_store(whole_store, address, NOON).place)


def test_object_storage_will_do(faults: Faults, whole_store: Path, address: str, s3_endpoint: str) -> None:
    pushed = push_store(whole_store, address, NOON)
    assert push_store(whole_store, address, NOON).sent == ()
    below = f"{address.partition(BUCKET + '/')[2]}/small/{pushed.version}/"
    assert not [name for name in keys(s3_endpoint, below) if "partial" in name]
    fsspec.filesystem("s3").rm([f"{BUCKET}/{below}store.json", f"{BUCKET}/{below}{SHARD}"])
    assert push_store(whole_store, address, NOON).sent == (SHARD,)
    folder = local_store(f"{address}/small@latest")
    FeatureStore.open(folder).verify()
    assert sha256_of_file(folder / SHARD) == sha256_of_file(whole_store / SHARD)


@pytest.mark.parametrize("kind", ["silent", "short", "busy"])
def test_what_passes_is_asked_for_again_while_reading(faults: Faults, pushed: str, kind: str) -> None:
    with asked_again(faults, kind, f"GET .*{SHARD}", lambda: FeatureStore.open(local_store(pushed)).verify()):
        FeatureStore.open(local_store(pushed)).verify()


@pytest.mark.parametrize("file", ["latest", "store.json"])
def test_what_passes_is_asked_for_again_while_a_store_is_looked_up(faults: Faults, pushed: str, file: str) -> None:
    newest = f"{pushed.partition('@')[0]}@latest"
    with asked_again(faults, "silent", f"GET .*/{file}", lambda: local_store(newest)):
        assert local_store(newest) == local_store(pushed)


@pytest.mark.parametrize("kind", ["silent", "short", "busy", "expired"])
def test_what_does_not_pass_ends_the_reading_with_its_reason(
    faults: Faults, pushed: str, whole_store: Path, kind: str
) -> None:
    store = FeatureStore.open(local_store(pushed))
    faults.inject(kind, ANY_SHARD, FOR_EVER)
    with pytest.raises(InputError, match=r"cannot be read: .*\n.*credentials") as caught:
        store.features("audio", 3)
    assert ("expired" in str(caught.value)) == (kind == "expired")
    assert (len(faults.done) > 2) == (kind != "expired"), "what another attempt cannot mend is not asked for again"
    assert not list((store.directory / "audio").glob("*data-*")), "nothing of a shard that did not come whole"
    faults.left = 0
    whole = FeatureStore.open(whole_store)
    assert (store.features("audio", 3) == whole.features("audio", 3)).all(), "the same process goes on"


@pytest.mark.parametrize("kind", ["silent", "busy", "expired"])
def test_a_store_whose_small_files_do_not_come_is_none_here(
    faults: Faults, pushed: str, tmp_path: Path, kind: str
) -> None:
    faults.inject(kind, "_index.bin", FOR_EVER)
    with pytest.raises(InputError, match=r"cannot be read: .*\n.*credentials"):
        local_store(pushed)
    assert not list((tmp_path / "cache").rglob("store.json"))
    faults.left = 0
    FeatureStore.open(local_store(pushed)).verify()


@pytest.mark.parametrize("kind", ["silent", "busy"])
def test_what_passes_is_asked_for_again_while_pushing(
    faults: Faults, whole_store: Path, address: str, kind: str
) -> None:
    with asked_again(faults, kind, f"PUT .*{SHARD}", lambda: push_store(whole_store, address, NOON)):
        place = push_store(whole_store, address, NOON).place
    FeatureStore.open(local_store(str(place))).verify()


@pytest.mark.parametrize(
    ("kind", "requests"),
    [
        *((kind, f"PUT .*{ANY_SHARD}") for kind in ("silent", "busy", "expired")),
        ("busy", "PUT .*store.json"),
        ("expired", f"(GET|HEAD) .*{ANY_SHARD}"),
    ],
)
def test_what_does_not_pass_ends_the_push_and_nothing_is_visible(
    faults: Faults, whole_store: Path, address: str, kind: str, requests: str
) -> None:
    """While a shard is sent, while it is read back, and while the version is committed."""
    faults.inject(kind, requests, FOR_EVER)
    with pytest.raises(InputError, match=r"cannot be (written|read): .*\n.*credentials"):
        push_store(whole_store, address, NOON)
    faults.left = 0
    with pytest.raises(InputError, match="there is no feature store"):
        list_stores(address)
    place = push_store(whole_store, address, NOON).place
    FeatureStore.open(local_store(str(place))).verify()
