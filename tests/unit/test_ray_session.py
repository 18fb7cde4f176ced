"""Which Ray a job works on: that of RAY_ADDRESS, or one of its own."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import ray

from vavl.errors import InputError
from vavl.ray_session import is_local, join_ray


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what Ray is started with; nothing starts."""
    options: dict[str, Any] = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **given: options.update(given))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return options


def test_without_an_address_ray_is_the_jobs_own_whatever_runs_on_the_machine(started, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    join_ray(threads=1, object_store_bytes=2**27)
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


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_cluster_that_does_not_answer_is_named_at_once(started, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(
        InputError, match=f"RAY_ADDRESS: nobody answers at {address}.*(?s:.*)ray start --head"
    ):
        join_ray(threads=1)
    assert not started
