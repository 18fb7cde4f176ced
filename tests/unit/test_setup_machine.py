"""Checks of the machine find what is missing and say what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vavl.setup_machine import (
    check_build_locks,
    check_compiler,
    check_disk,
    check_gpu,
    check_memory,
    check_shared_memory,
)


def _program(folder: Path, name: str, text: str = "#!/bin/sh\n") -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def test_a_machine_without_compiler_is_told_what_is_used_instead(tmp_path: Path) -> None:
    finding = check_compiler({"PATH": str(tmp_path)})
    assert finding.status == "warn"
    assert "a C++ compiler (c++), ninja on PATH" in finding.found
    assert "torch's optimizer and gloo" in finding.found
    assert "apt-get install g++" in finding.fix


def test_compiler_and_ninja_on_path_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("vavl.setup_machine.sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    _program(tmp_path, "my-c++")
    _program(tmp_path, "ninja")
    assert check_compiler({"PATH": str(tmp_path), "CXX": "my-c++"}).status == "ok"
    (tmp_path / "Python.h").unlink()
    assert "header files" in check_compiler({"PATH": str(tmp_path), "CXX": "my-c++"}).found


def test_an_old_build_lock_fails_and_a_fresh_one_warns(tmp_path: Path) -> None:
    environment = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    assert check_build_locks(environment).status == "ok"
    lock = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (1000, 1000))
    assert check_build_locks(environment, now=1100).status == "warn"
    finding = check_build_locks(environment, now=5000)
    assert finding.status == "fail"
    assert finding.fix == f"rm {lock}"


def test_little_disk_fails_even_where_the_folder_is_not_made_yet(tmp_path: Path) -> None:
    assert check_disk(tmp_path / "not" / "yet", 0).status == "ok"
    finding = check_disk(tmp_path / "not" / "yet", 1e9)
    assert finding.status == "fail"
    assert f"free at {tmp_path}" in finding.found


def test_little_memory_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("2000000000\n")
    monkeypatch.setattr("vavl.setup_machine._CGROUP_LIMITS", (limit,))
    assert check_memory(1).status == "ok"
    finding = check_memory(4)
    assert finding.status == "warn"
    assert "2.0 GB available" in finding.found
    limit.write_text("max\n")
    assert check_memory(0).status == "ok"


def test_shared_memory_of_a_small_container_warns(tmp_path: Path) -> None:
    assert check_shared_memory(0, tmp_path).status == "ok"
    assert "--shm-size" in check_shared_memory(1e9, tmp_path).fix
    assert check_shared_memory(0, tmp_path / "none").status == "warn"


def test_a_gpu_that_torch_cannot_use_warns(tmp_path: Path) -> None:
    _program(tmp_path, "nvidia-smi", "#!/bin/sh\necho 'NVIDIA H200'\n")
    environment = {"PATH": f"{tmp_path}:{os.defpath}"}
    finding = check_gpu(0, environment)
    assert finding.status == "warn"
    assert "NVIDIA H200: present" in finding.found
    assert check_gpu(1, environment).status == "ok"
    assert check_gpu(None, environment, tried=False).status == "ok"
    assert check_gpu(0, {"PATH": str(tmp_path / "empty")}).found.startswith("none")
    _program(tmp_path, "nvidia-smi", "#!/bin/sh\nexit 9\n")
    assert check_gpu(0, environment).found.startswith("none")
