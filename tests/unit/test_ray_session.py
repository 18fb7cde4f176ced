"""Which Ray a job works on: that of RAY_ADDRESS, or one of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from vavl.errors import InputError, TrainingError
from vavl.ray_session import _LONGEST_SOCKET_BYTES, check_own_ray, is_local, join_ray, long_socket_names, watch_raylet


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what Ray is started with; nothing starts."""
    options: dict[str, Any] = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **given: options.update(given))
    monkeypatch.setattr("vavl.ray_session.watch_raylet", lambda: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return options


def test_without_an_address_ray_is_the_jobs_own_whatever_runs_on_the_machine(started, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    join_ray(threads=1, object_store_bytes=2**27)
    assert "starting Ray on this machine" in caplog.text
    assert is_local()
    assert started["address"] == "local"
    assert started["object_store_memory"] == 2**27


def test_a_named_cluster_is_joined_as_it_is(started, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        join_ray(threads=1)
    assert not is_local()
    assert "address" not in started
    assert "object_store_memory" not in started


def test_the_end_of_rays_own_process_is_said(tmp_path, monkeypatch, caplog):
    raylet = tmp_path / "raylet"
    raylet.symlink_to("/bin/sleep")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "61"))
    looks = iter([True, True, False])
    with subprocess.Popen([raylet, "61"]) as process:
        monkeypatch.setattr(ray, "is_initialized", lambda: next(looks))
        monkeypatch.setattr("time.sleep", lambda _: None)
        watch_raylet()
        assert not caplog.records  # Ray was shut down
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr("time.sleep", lambda _: process.kill())
        watch_raylet()
    assert f"raylet, pid {process.pid}) was killed" in caplog.text
    assert "the same command continues" in caplog.text


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_cluster_that_does_not_answer_is_named_at_once(started, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=f"RAY_ADDRESS: nobody answers at {address}.*(?s:.*)ray start --head"):
        join_ray(threads=1)
    assert not started


@pytest.mark.parametrize(("address", "field"), [(None, ""), ("127.0.0.1:6379", "RAY_ADDRESS")])
def test_a_ray_that_does_not_start_or_answer_is_one_error_with_a_fix(monkeypatch, address, field):
    def refuse(**_: object) -> None:
        raise RuntimeError("The current node timed out during startup.\nmore")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("vavl.ray_session._refuse_silence", lambda _: None)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(TrainingError, match="The current node timed out during startup") as failed:
        join_ray(threads=1)
    assert (failed.value.field, failed.value.exit_code) == (field, 1)
    assert ("export NO_PROXY=127.0.0.1" in failed.value.fix) == (address is not None)
    assert "more" not in str(failed.value).replace("on a slow machine", "")


LONG = "/scratch/a_long_group_name/a_long_user_name/slurm_job_1234567890"


def test_a_directory_too_long_for_sockets_is_named() -> None:
    assert long_socket_names({"TMPDIR": "/scratch/ann"}) is None
    assert long_socket_names({"TMPDIR": LONG, "RAY_ADDRESS": "192.0.2.1:6379"}) is None
    found = long_socket_names({"TMPDIR": LONG})
    assert found is not None
    assert (found.exit_code, found.field) == (2, "TMPDIR")
    assert f"{LONG} is too long" in found.problem
    assert "107" in found.problem
    assert "export TMPDIR=/tmp" in found.fix


@pytest.mark.ray
def test_a_ray_that_finds_its_sockets_too_long_is_one_error(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"TMPDIR": str(long)}
    program = "from vavl.ray_session import join_ray; join_ray(threads=1)"
    done = subprocess.run([sys.executable, "-c", program], env=own, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"environment: TMPDIR: {long} is too long" in done.stderr


def test_the_limit_is_that_of_the_system(tmp_path: Path) -> None:
    for length, expected in (
        (_LONGEST_SOCKET_BYTES, contextlib.nullcontext()),
        (_LONGEST_SOCKET_BYTES + 1, pytest.raises(OSError, match="too long")),
    ):
        name = str(tmp_path).ljust(length, "x")
        with socket.socket(socket.AF_UNIX) as one, expected:
            one.bind(name)
            Path(name).unlink()


def test_a_home_that_cannot_be_written_is_refused_where_ray_needs_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home = str(tmp_path / "file" / "home")
    with pytest.raises(InputError, match="cannot be written, and Ray keeps its token there") as refused:
        check_own_ray({"HOME": home})
    assert (refused.value.exit_code, refused.value.field) == (2, "HOME")
    assert "export HOME=" in refused.value.fix
    for given in ({"RAY_ADDRESS": "192.0.2.1:6379"}, {"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "x"}):
        check_own_ray({"HOME": home, **given})
