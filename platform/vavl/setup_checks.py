"""Everything that can be known before the first run: one finding per check, with its fix."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from vavl.corpora.card import corpus_root, read_card
from vavl.errors import ConfigError, CorpusError, InputError
from vavl.job_config import CheckSetupJob
from vavl.ray_session import check_own_ray, long_socket_names
from vavl.setup_machine import (
    Finding,
    Status,
    check_build_locks,
    check_compiler,
    check_disk,
    check_gpu,
    check_memory,
    check_shared_memory,
)
from vavl.tracking.relocation import refuse_moved
from vavl.tracking.settings import TrackingSettings, tracking_place, unreachable_reason

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
except BaseException as fault:
    answer = {"fault": f"{type(fault).__name__}: {fault}"}
print("\\n" + json.dumps(answer))
"""
_RAY_PROGRAM = """
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
assert ray.get(ray.remote(lambda: 41 + 1).remote()) == 42
ray.shutdown()
"""


def run_checks(job: CheckSetupJob, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the findings of all checks, the quick ones first.

    Args:
        job: what to look at.
        environment: usually ``os.environ``.
    """
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
    """Compare the installed packages with the project's ranges; one finding, or one per fault.

    Args:
        requirements: lines such as ``torch>=2.13,<3``; those of the project by default.
    """
    lines = requirements if requirements is not None else metadata.requires("vavl") or []
    wanted = [Requirement(line) for line in lines]
    needed = [entry for entry in wanted if entry.marker is None or entry.marker.evaluate({"extra": ""})]
    faults = [finding for entry in needed if (finding := _package_fault(entry)) is not None]
    yield from faults
    if not faults:
        yield Finding("packages", "ok", f"{len(needed)} installed, all within the project's ranges")


def check_imports(names: Sequence[str] = _IMPORTS) -> tuple[list[Finding], int | None]:
    """Import packages with compiled parts, each in a process of its own.

    Returns:
        The findings, and the number of GPUs that torch reports (None without a usable torch).
    """
    with ThreadPoolExecutor(_IMPORTS_AT_ONCE) as pool:
        answers = dict(zip(names, pool.map(_import_answer, names), strict=True))
    faults = {name: str(answer["fault"]) for name, answer in answers.items() if "fault" in answer}
    findings = [
        Finding(f"import {name}", "fail", fault, "install the package again, with the system libraries it names")
        for name, fault in faults.items()
    ]
    gpus = answers.get("torch", {}).get("gpus")
    usable = [name for name in names if name not in faults]
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
    fault = _program_fault([sys.executable, "-c", _RAY_PROGRAM], _RAY_SECONDS)
    if fault is None:
        return Finding("Ray", "ok", f"{version}: started here and ran a task; {where}")
    return Finding(
        "Ray",
        "fail",
        f"{version} does not start: {fault}",
        "ray stop --force, which ends jobs on Ray here too; then look into /tmp/ray",
    )


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
    return Finding(
        "tracking",
        "warn",
        f"not reachable: {reason}; runs keep a journal and are replayed later",
        "start the server, or unset MLFLOW_TRACKING_URI and tracking.uri to use a local SQLite file",
    )


def check_corpora(cards: Path, needed: Sequence[str]) -> Iterator[Finding]:
    """Look for the directory of every corpus card.

    Args:
        cards: directory of the cards.
        needed: names of corpora whose absence is a failure; for others it is a warning.
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


def _package_fault(wanted: Requirement) -> Finding | None:
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
        return {"fault": f"takes more than {_IMPORT_SECONDS} s"}
    except (IndexError, ValueError):
        return {"fault": f"ended the process with code {done.returncode}"}
    return answer


def _program_fault(command: Sequence[str], seconds: float) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:g} s"
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]


def _corpus_finding(file: Path, if_missing: Status) -> Finding:
    name = f"corpus {file.stem}"
    try:
        card = read_card(file)
    except ConfigError as fault:
        return Finding(name, "fail", f"the card cannot be used: {fault.problem}", fault.fix)
    try:
        folder = corpus_root(card)
    except CorpusError as fault:
        return Finding(name, if_missing, fault.problem, fault.fix)
    return Finding(name, "ok", f"{folder} ({card.title})")
