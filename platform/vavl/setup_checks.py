"""Everything that can be known before the first run, of machine and packages: one finding per check, with its fix."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from vavl.corpora.card import corpus_root, read_card
from vavl.errors import ConfigError, CorpusError, InputError
from vavl.job_config import CheckSetupJob
from vavl.ray_session import check_own_ray, long_socket_names
from vavl.tracking.relocation import refuse_moved
from vavl.tracking.settings import TrackingSettings, tracking_place, unreachable_reason

Status = Literal["ok", "warn", "fail"]

_GIGA = 1e9
_LOCK_IS_OLD_SECONDS = 600
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  Ray's object store lives there
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str  # what was looked at
    status: Status  # "ok"; "warn": something works less well or is not needed by all; "fail": a run fails
    found: str  # what was found
    fix: str = ""  # what the reader can do; empty when ok


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
    directory = Path(named) if named else cache / "torch_extensions"
    moment = time.time() if now is None else now
    ages = {lock: moment - lock.stat().st_mtime for lock in sorted(directory.rglob("lock")) if lock.is_file()}
    old = [str(lock) for lock, age in ages.items() if age > _LOCK_IS_OLD_SECONDS]
    if old:
        fix = f"rm {shlex.join(old)}"
        return Finding("build locks", "fail", f"left by a killed build, the next one hangs: {', '.join(old)}", fix)
    if ages:
        fix = "wait for it; if none is running, remove the file"
        return Finding("build locks", "warn", f"a build may be running: {', '.join(map(str, ages))}", fix)
    return Finding("build locks", "ok", f"none in {directory}")


def check_disk(directory: Path, least_free_gb: float) -> Finding:
    """Compare the free space where results go with what a run needs."""
    existing = next(place for place in (directory.absolute(), *directory.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free / _GIGA
    found = f"{free:.1f} GB free at {existing}"
    if free >= least_free_gb:
        return Finding("disk", "ok", found)
    return Finding(
        "disk", "fail", f"{found}, {least_free_gb:g} GB are wanted", "free some space or choose another output_dir"
    )


def check_memory(least_gb: float) -> Finding:
    """Compare the memory that this process may use with what a run needs."""
    gigabytes = min([psutil.virtual_memory().available, *_container_limits()]) / _GIGA
    found = f"{gigabytes:.1f} GB available, {len(os.sched_getaffinity(0))} cores"
    if gigabytes >= least_gb:
        return Finding("memory", "ok", found)
    return Finding(
        "memory", "warn", f"{found}; {least_gb:g} GB are wanted", "close other programs, or use fewer workers"
    )


def check_shared_memory(least_free_gb: float, directory: Path = _SHARED_MEMORY) -> Finding:
    """Look at the memory file system that Ray keeps its objects in; containers often have 64 MB."""
    if not directory.is_dir():
        return Finding("shared memory", "warn", f"{directory} does not exist", "Ray uses the disk instead, slowly")
    free = shutil.disk_usage(directory).free / _GIGA
    if free >= least_free_gb:
        return Finding("shared memory", "ok", f"{free:.1f} GB free in {directory}")
    found = f"{free:.2f} GB free in {directory}: Ray falls back to the disk, slowly"
    return Finding("shared memory", "warn", found, "start the container with --shm-size=2g or more")


def check_gpu(torch_sees: int | None, environment: Mapping[str, str], *, tried: bool = True) -> Finding:
    """Compare the GPUs of the machine with those that torch can use.

    ``torch_sees``: devices that torch reports; None when torch cannot be imported. ``tried``: False when torch was not
    asked.
    """
    present = _nvidia_gpus(environment)
    if torch_sees:
        return Finding("GPU", "ok", f"torch can use {torch_sees}: {', '.join(present) or 'unnamed'}")
    if not present:
        return Finding("GPU", "ok", "none; training runs on the processor")
    if not tried:
        return Finding("GPU", "ok", f"{', '.join(present)} (whether torch can use it was not tried)")
    fix = "install a CUDA build of torch that fits the driver (see README)"
    return Finding("GPU", "warn", f"{', '.join(present)}: present, but torch cannot use it", fix)


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


def _container_limits() -> Iterator[int]:
    for file in _CGROUP_LIMITS:
        if file.exists() and (text := file.read_text().strip()).isdigit():
            yield int(text)


_INSTALL = "pip install -c constraints.txt -e ."
_PROBE_SECONDS = 5.0
_IMPORT_SECONDS = 180
_IMPORTS_AT_ONCE = 2
_RAY_SECONDS = 120

# Packages that can be installed and broken: compiled parts, missing system libraries.
_IMPORTS = ("torch", "deepspeed", "ray", "mlflow", "cv2", "av", "soundfile")
_IMPORT_PROGRAM = """
import importlib, json, sys
name = sys.argv[1]
try:
    module = importlib.import_module(name)
    answer = {"gpus": module.cuda.device_count()} if name == "torch" else {}
except BaseException as error:
    answer = {"error": f"{type(error).__name__}: {error}"}
print("\\n" + json.dumps(answer))
"""
_RAY_PROGRAM = """
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
assert ray.get(ray.remote(lambda: 41 + 1).remote()) == 42
ray.shutdown()
"""


def run_checks(job: CheckSetupJob, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the findings of all checks, the quick ones first."""
    yield check_python()
    yield from check_packages()
    yield check_compiler(environment)
    yield check_build_locks(environment)
    yield check_disk(job.output_dir, job.least_free_disk_gb)
    yield check_memory(job.least_memory_gb)
    yield check_shared_memory(job.least_shared_memory_gb)
    yield check_tracking(job.tracking, environment)
    yield from check_corpora(job.cards, job.needed)
    gpus = None
    if job.try_imports:
        findings, gpus = check_imports()
        yield from findings
    yield check_gpu(gpus, environment, tried=job.try_imports)
    yield check_ray(environment, start=job.start_ray)


def check_python(version: Version | None = None) -> Finding:
    """Compare the running Python with the range the project supports."""
    running = version or Version(".".join(map(str, sys.version_info[:3])))
    wanted = SpecifierSet(metadata.metadata("vavl")["Requires-Python"])
    if running in wanted:
        return Finding("Python", "ok", f"{running} ({sys.executable})")
    return Finding("Python", "fail", f"{running}, the project needs {wanted}", "make the environment with Python 3.11")


def check_packages(requirements: Sequence[str] | None = None) -> Iterator[Finding]:
    """Compare the installed packages with the project's ranges; one finding, or one per error.

    Args:
        requirements: lines such as ``torch>=2.13,<3``; those of the project by default.
    """
    lines = requirements if requirements is not None else metadata.requires("vavl") or []
    wanted = [Requirement(line) for line in lines]
    needed = [entry for entry in wanted if entry.marker is None or entry.marker.evaluate({"extra": ""})]
    errors = [finding for entry in needed if (finding := _package_error(entry)) is not None]
    yield from errors
    if not errors:
        yield Finding("packages", "ok", f"{len(needed)} installed, all within the project's ranges")


def check_imports(names: Sequence[str] = _IMPORTS) -> tuple[list[Finding], int | None]:
    """Import packages with compiled parts, each in a process of its own.

    Returns:
        The findings, and the number of GPUs that torch reports (None without a usable torch).
    """
    with ThreadPoolExecutor(_IMPORTS_AT_ONCE) as pool:
        answers = dict(zip(names, pool.map(_import_answer, names), strict=True))
    errors = {name: str(answer["error"]) for name, answer in answers.items() if "error" in answer}
    findings = [
        Finding(f"import {name}", "fail", error, "install the package again, with the system libraries it names")
        for name, error in errors.items()
    ]
    gpus = answers.get("torch", {}).get("gpus")
    usable = [name for name in names if name not in errors]
    return findings or [Finding("imports", "ok", ", ".join(usable))], gpus if isinstance(gpus, int) else None


def check_ray(environment: Mapping[str, str], *, start: bool) -> Finding:
    """Say which Ray is there, and start it on this machine if asked."""
    try:
        version = metadata.version("ray")
    except metadata.PackageNotFoundError:
        return Finding("Ray", "fail", "not installed", _INSTALL)
    try:
        check_own_ray(environment)
    except InputError as error:
        return Finding("Ray", "fail", f"{version}: {error.field}: {error.problem}", error.fix)
    if too_long := long_socket_names(environment):
        return Finding("Ray", "warn", f"{version}: {too_long.field}: {too_long.problem}", too_long.fix)
    address = environment.get("RAY_ADDRESS")
    where = f"jobs join the cluster at {address}" if address else "jobs start it on this machine"
    if not start:
        return Finding("Ray", "ok", f"{version}; {where} (not tried: start_ray is false)")
    problem = _program_error([sys.executable, "-c", _RAY_PROGRAM], _RAY_SECONDS)
    if problem is None:
        return Finding("Ray", "ok", f"{version}: started here and ran a task; {where}")
    fix = "ray stop --force, which ends jobs on Ray here too; then look into /tmp/ray"
    return Finding("Ray", "fail", f"{version} does not start: {problem}", fix)


def check_tracking(settings: TrackingSettings, environment: Mapping[str, str]) -> Finding:
    """Look whether the tracking store can be written."""
    place = tracking_place(settings, environment)
    try:
        refuse_moved(settings, environment)
    except InputError as error:
        return Finding("tracking", "fail", f"{error.file}: {error.problem}", error.fix)
    reason = unreachable_reason(place, _PROBE_SECONDS)
    if reason is None:
        note = " (made by the first run)" if place.database is not None and not place.database.exists() else ""
        return Finding("tracking", "ok", f"{place.public_uri}{note}")
    fix = "start the server, or unset MLFLOW_TRACKING_URI and tracking.uri to use a local SQLite file"
    return Finding("tracking", "warn", f"not reachable: {reason}; runs keep a journal and are replayed later", fix)


def check_corpora(cards: Path, needed: Sequence[str]) -> Iterator[Finding]:
    """Look for the directory of every corpus card.

    ``needed``: names of corpora whose absence is a failure; for others it is a warning.
    """
    files = sorted(cards.glob("*.yaml"))
    if not files:
        yield Finding(
            "corpora", "fail", f"no card in {cards}", "start the job in the project's directory, or set cards"
        )
    for file in files:
        yield _corpus_finding(file, "fail" if file.stem in needed else "warn")
    for name in sorted(set(needed) - {file.stem for file in files}):
        yield Finding(f"corpus {name}", "fail", f"no card {cards / name}.yaml", "correct the name in `needed`")


def count(findings: Sequence[Finding]) -> dict[str, int]:
    """Return the number of findings by status."""
    found = Counter(finding.status for finding in findings)
    return {status: found[status] for status in ("ok", "warn", "fail")}


def _package_error(wanted: Requirement) -> Finding | None:
    try:
        installed = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return Finding(f"package {wanted.name}", "fail", f"not installed, needs {wanted.specifier}", _INSTALL)
    if wanted.specifier.contains(installed, prereleases=True):
        return None
    return Finding(f"package {wanted.name}", "fail", f"{installed}, needs {wanted.specifier}", _INSTALL)


def _import_answer(name: str) -> dict[str, object]:
    command = [sys.executable, "-c", _IMPORT_PROGRAM, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_IMPORT_SECONDS, check=False)  # noqa: S603
        answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"takes more than {_IMPORT_SECONDS} s"}
    except (IndexError, ValueError):
        return {"error": f"ended the process with code {done.returncode}"}
    return answer


def _program_error(command: Sequence[str], seconds: float) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:g} s"
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]


def _corpus_finding(file: Path, if_missing: Status) -> Finding:
    name = f"corpus {file.stem}"
    try:
        card = read_card(file)
    except ConfigError as error:
        return Finding(name, "fail", f"the card cannot be used: {error.problem}", error.fix)
    try:
        directory = corpus_root(card)
    except CorpusError as error:
        return Finding(name, if_missing, error.problem, error.fix)
    return Finding(name, "ok", f"{directory} ({card.title})")
