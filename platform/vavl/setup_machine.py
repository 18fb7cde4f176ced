"""Checks of the machine: what it has, and what a run will miss."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

Status = Literal["ok", "warn", "fail"]

_GIGA = 1e9
_LOCK_IS_OLD_SECONDS = 600
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  Ray's object store lives there
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: what was looked at.
        status: "ok"; "warn": something works less well or is not needed by all; "fail": a run fails.
        found: what was found.
        fix: what the reader can do; empty when ok.
    """

    name: str
    status: Status
    found: str
    fix: str = ""


def check_compiler(environment: Mapping[str, str]) -> Finding:
    """Look for what DeepSpeed needs to build its own operations."""
    path = environment.get("PATH", os.defpath)
    compiler = environment.get("CXX") or "c++"
    missing = [f"a C++ compiler ({compiler})"] if shutil.which(compiler, path=path) is None else []
    if shutil.which("ninja", path=path) is None:
        missing.append("ninja on PATH")
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        missing.append("Python's header files")
    if not missing:
        return Finding(
            "compiler", "ok", f"{shutil.which(compiler, path=path)} and ninja: DeepSpeed can build its operations"
        )
    return Finding(
        "compiler",
        "warn",
        f"missing: {', '.join(missing)}; torch's optimizer and gloo are used instead of DeepSpeed's own operations",
        "nothing has to be done; for DeepSpeed's operations install a compiler (Debian: apt-get install g++ "
        "python3-dev) and put the directory of the environment's ninja (.venv/bin) on PATH",
    )


def check_build_locks(environment: Mapping[str, str], now: float | None = None) -> Finding:
    """Look for locks that a killed build of an operation left: the next build waits for them for ever."""
    named = environment.get("TORCH_EXTENSIONS_DIR")
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(named) if named else cache / "torch_extensions"
    moment = time.time() if now is None else now
    ages = {lock: moment - lock.stat().st_mtime for lock in sorted(folder.rglob("lock")) if lock.is_file()}
    old = [str(lock) for lock, age in ages.items() if age > _LOCK_IS_OLD_SECONDS]
    if old:
        return Finding(
            "build locks",
            "fail",
            f"left by a killed build, the next one hangs: {', '.join(old)}",
            f"rm {shlex.join(old)}",
        )
    if ages:
        return Finding(
            "build locks",
            "warn",
            f"a build may be running: {', '.join(map(str, ages))}",
            "wait for it; if none is running, remove the file",
        )
    return Finding("build locks", "ok", f"none in {folder}")


def check_disk(folder: Path, least_free_gb: float) -> Finding:
    """Compare the free space where results go with what a run needs."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free / _GIGA
    found = f"{free:.1f} GB free at {existing}"
    if free >= least_free_gb:
        return Finding("disk", "ok", found)
    return Finding(
        "disk", "fail", f"{found}, {least_free_gb:g} GB are wanted", "free some space or choose another output_dir"
    )


def check_memory(least_gb: float) -> Finding:
    """Compare the memory that this process may use with what a run needs."""
    available, limit = psutil.virtual_memory().available, _container_limit()
    gigabytes = min(available, limit) / _GIGA if limit is not None else available / _GIGA
    found = f"{gigabytes:.1f} GB available, {_usable_cores()} cores"
    if gigabytes >= least_gb:
        return Finding("memory", "ok", found)
    return Finding(
        "memory", "warn", f"{found}; {least_gb:g} GB are wanted", "close other programs, or use fewer workers"
    )


def check_shared_memory(least_free_gb: float, folder: Path = _SHARED_MEMORY) -> Finding:
    """Look at the memory file system that Ray keeps its objects in; containers often have 64 MB."""
    if not folder.is_dir():
        return Finding("shared memory", "warn", f"{folder} does not exist", "Ray uses the disk instead, slowly")
    free = shutil.disk_usage(folder).free / _GIGA
    if free >= least_free_gb:
        return Finding("shared memory", "ok", f"{free:.1f} GB free in {folder}")
    return Finding(
        "shared memory",
        "warn",
        f"{free:.2f} GB free in {folder}: Ray falls back to the disk, slowly",
        "start the container with --shm-size=2g or more",
    )


def check_gpu(torch_sees: int | None, environment: Mapping[str, str], *, tried: bool = True) -> Finding:
    """Compare the GPUs of the machine with those that torch can use.

    Args:
        torch_sees: devices that torch reports; None when torch cannot be imported.
        environment: gives PATH.
        tried: False when torch was not asked.
    """
    present = _nvidia_gpus(environment)
    if torch_sees:
        return Finding("GPU", "ok", f"torch can use {torch_sees}: {', '.join(present) or 'unnamed'}")
    if not present:
        return Finding("GPU", "ok", "none; training runs on the processor")
    if not tried:
        return Finding("GPU", "ok", f"{', '.join(present)} (whether torch can use it was not tried)")
    return Finding(
        "GPU",
        "warn",
        f"{', '.join(present)}: present, but torch cannot use it",
        "install a CUDA build of torch that fits the driver (see README)",
    )


def _nvidia_gpus(environment: Mapping[str, str]) -> list[str]:
    program = shutil.which("nvidia-smi", path=environment.get("PATH", os.defpath))
    if program is None:
        return []
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []


def _container_limit() -> int | None:
    return next(_limits(), None)


def _limits() -> Iterator[int]:
    for file in _CGROUP_LIMITS:
        if file.exists() and (text := file.read_text().strip()).isdigit():
            yield int(text)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0))
