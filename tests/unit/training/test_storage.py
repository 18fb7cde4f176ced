"""The directory of a run on a file system and in object storage; a full disk is an error of the platform."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import secrets
import sys
from pathlib import Path

import pytest
import torch
from faulty_s3 import Faults, asked_again
from fsspec.registry import _registry
from pyarrow.fs import FileSelector, LocalFileSystem
from s3_server import BUCKET
from safetensors.torch import save_file

from vavl.errors import InputError, StoreError, TrainingError
from vavl.training.checkpoint_files import problem_of
from vavl.training.storage import RunStorage, full_disk_as_error


@pytest.fixture(params=["directory", "file", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> RunStorage:
    """Return an empty storage of each kind; what is below a directory with a space in its name is found, too."""
    match request.param:
        case "directory":
            return RunStorage(tmp_path / "my run%20")
        case "file":
            return RunStorage(f"file://{tmp_path}/my run")
        case "memory":
            return RunStorage(f"memory://{secrets.token_hex(4)}/run")
        case _:
            return RunStorage(request.getfixturevalue("s3"))


def test_small_files_are_written_read_and_replaced(storage: RunStorage) -> None:
    assert storage.read("a.json") is None
    assert storage.files() == {}
    assert storage.directories() == []
    storage.write("a.json", b"one")
    storage.write("a.json", b"three")
    storage.write("below/b.json", b"")
    assert storage.read("a.json") == b"three"
    assert storage.files() == {"a.json": 5}
    assert storage.directories() == ["below"]
    assert storage.tree() == {"a.json": 5, "below/b.json": 0}
    assert storage.directory("below").read("b.json") == b""


def test_what_another_machine_writes_is_seen(storage: RunStorage) -> None:
    storage.write("below/a", b"1")
    assert storage.files() == {}
    assert storage.directory("below").files() == {"a": 1}
    other = RunStorage(storage.address if storage.is_remote else Path(storage.address))
    other.write("below/b", b"22")
    other.write("stop.json", b"{}")
    assert storage.read("stop.json") == b"{}"
    assert storage.tree("below") == {"a": 1, "b": 2}
    other.remove("below/a")
    assert storage.read("below/a") is None


def test_files_move_into_the_storage_and_back(storage: RunStorage, tmp_path: Path) -> None:
    with storage.scratch() as folder:
        (folder / "tensors").write_bytes(b"0123456789" * 10)
        storage.put(folder / "tensors", "step-1/tensors")
        assert not (folder / "tensors").exists()
    assert not folder.exists()
    assert storage.tree() == {"step-1/tensors": 100}
    storage.fetch_tree("step-1", tmp_path / "here")
    assert (tmp_path / "here/tensors").read_bytes() == b"0123456789" * 10
    assert len(storage.sha256("step-1/tensors")) == 64
    storage.fetch_tree("nothing", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(StoreError, match="no such file"):
        storage.fetch(["nothing"], tmp_path / "here")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["tensors"]


def test_a_directory_is_replaced_as_a_whole_and_its_files_are_never_missing(
    storage: RunStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    (model / "code").mkdir(parents=True)
    (model / "weights").write_bytes(b"old")
    (model / "code/former.py").write_bytes(b"")
    storage.put_copy(model, "best")
    (model / "weights").write_bytes(b"newer")
    (model / "code/former.py").unlink()
    (model / "code/now.py").write_bytes(b"1")
    removed = []
    real_remove = storage.remove
    monkeypatch.setattr(storage, "remove", lambda name: (removed.append(name), real_remove(name)))
    storage.put_copy(model, "best")
    assert removed == ["best/code/former.py"]
    assert storage.tree("best") == {"weights": 5, "code/now.py": 1}
    storage.put_copy(model / "weights", "single")
    assert storage.read("single") == b"newer"
    assert (model / "weights").exists()


def test_files_are_moved_and_removed_within_the_storage(storage: RunStorage) -> None:
    storage.write("predictions/test", b"1")
    storage.move("predictions/test", "earlier/run/predictions/test")
    assert storage.tree() == {"earlier/run/predictions/test": 1}
    storage.write("earlier/run/code/a", b"22")
    storage.move("earlier/run", "torn-run")
    assert storage.tree() == {"torn-run/predictions/test": 1, "torn-run/code/a": 2}
    storage.move("torn-run", "earlier/again")
    assert set(storage.tree("earlier/again")) == {"predictions/test", "code/a"}
    with pytest.raises(InputError, match="cannot be written"):
        storage.move("nothing", "anything")
    storage.remove("earlier")
    storage.remove("earlier")
    assert storage.tree() == {}
    storage.write("single", b"1")
    storage.remove("single")
    assert storage.files() == {}


def test_ray_sees_the_same_files(storage: RunStorage) -> None:
    storage.write("checkpoints/step-1/a", b"123")
    path, files = storage.directory("checkpoints").ray_arguments()
    found = (files or LocalFileSystem()).get_file_info(FileSelector(path, recursive=True))
    assert [(entry.base_name, entry.size) for entry in found if entry.is_file] == [("a", 3)]


def test_a_probe_leaves_nothing(storage: RunStorage) -> None:
    storage.check_writable()
    assert storage.tree() == {}


@pytest.mark.parametrize(("way", "kind"), [("fetch", "short"), ("sha256", "busy"), ("problem_of", "busy")])
def test_what_a_network_loses_of_a_checkpoint_is_asked_for_again(
    s3_faults: Faults, tmp_path: Path, way: str, kind: str
) -> None:
    storage = RunStorage(f"s3://{BUCKET}/{tmp_path.name}")
    content = secrets.token_bytes(10_000)
    storage.write("tensors", content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    storage.write("rank-000.json", json.dumps({"token": "1", "ranks": 1, "files": {"tensors": entry}}).encode())
    ways = {
        "fetch": lambda: storage.fetch(["tensors"], tmp_path),
        "sha256": lambda: storage.sha256("tensors"),
        "problem_of": lambda: problem_of(storage),
    }
    requests = "GET .*/rank-000.json" if way == "problem_of" else "GET .*/tensors"
    with asked_again(s3_faults, kind, requests, ways[way]):
        assert ways[way]() in (None, entry["sha256"])
    assert way != "fetch" or (tmp_path / "tensors").read_bytes() == content
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("way", ["put", "put_copy"])
def test_a_checkpoint_that_a_network_does_not_take_is_sent_again(s3_faults: Faults, tmp_path: Path, way: str) -> None:
    storage, source = RunStorage(f"s3://{BUCKET}/{tmp_path.name}"), tmp_path / "rank-000.json"
    source.write_bytes(b"0123456789")
    send = getattr(storage, way)
    with asked_again(s3_faults, "busy", "PUT .*/rank-000.json", lambda: send(source, "step-1/rank-000.json")):
        assert source.exists(), "until it has arrived"
        send(source, "step-1/rank-000.json")
    assert storage.read("step-1/rank-000.json") == b"0123456789"
    assert source.exists() == (way == "put_copy")


def test_paths_of_this_machine_are_those_of_directories_only(storage: RunStorage) -> None:
    assert (storage.local_path("a") is None) == storage.is_remote


@pytest.mark.parametrize(
    ("address", "environment", "problem", "fix"),
    [
        ("s3://nowhere/run", {}, "there is no such bucket", "create the bucket"),
        (
            "s3://runs/run",
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "no credentials were found (NoCredentialsError)",
            "export AWS_ACCESS_KEY_ID",
        ),
    ],
)
def test_what_object_storage_lacks_is_said(
    s3: str, monkeypatch: pytest.MonkeyPatch, address: str, environment: dict[str, str], problem: str, fix: str
) -> None:
    for name in environment:
        monkeypatch.delenv(name)
    if environment:
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError) as caught:
        RunStorage(address).check_writable()
    assert f"{address}: cannot be written: {problem}" in str(caught.value)
    assert fix in caught.value.fix


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    # fsspec keeps the drivers that it has imported.
    for protocol in ("s3", "s3a"):
        monkeypatch.delitem(_registry, protocol, raising=False)
    with pytest.raises(InputError, match="the driver of s3:// is not installed") as caught:
        RunStorage("s3://bucket/run")
    assert caught.value.fix == "pip install s3fs"
    with pytest.raises(InputError, match=r"addresses of foo:// are not known"):
        RunStorage("foo://bucket/run")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_space_says_what_to_do(tmp_path: Path, code: int) -> None:
    with pytest.raises(TrainingError, match=r"free disk space.*same command again"), full_disk_as_error(tmp_path):
        raise OSError(code, os.strerror(code))


def test_weights_that_do_not_fit_are_told_too(tmp_path: Path) -> None:
    """safetensors raises an error of its own."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        with pytest.raises(TrainingError, match="cannot be written"), full_disk_as_error(tmp_path):
            save_file({"weight": torch.zeros(10_000)}, tmp_path / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_other_faults_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"), full_disk_as_error(tmp_path):
        (tmp_path / "nowhere").read_text()
