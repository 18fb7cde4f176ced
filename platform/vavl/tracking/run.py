"""A run from its first record, with settings, code and data, to its end, and the load of its machine meanwhile."""

from __future__ import annotations

import getpass
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import psutil

import vavl
from vavl.config.base import FrozenConfig
from vavl.config.files import sha256_of_file, sha256_of_json
from vavl.config.load import flat_settings, settings_yaml
from vavl.errors import TrainingStopped, VavlError
from vavl.tracking.holdings import Register
from vavl.tracking.journal import JOURNAL_NAME, Journal
from vavl.tracking.mlflow_writer import ARTIFACT_LINK, NOTE_TAG
from vavl.tracking.replayer import Replayer
from vavl.tracking.settings import TrackingSettings

_MEGA = 1e6
_log = logging.getLogger(__name__)


class SystemSampler:
    """Appends a ``system`` record to a journal every few seconds, from a thread of its own.

    The journal carries the samples, so a tracking server that is down loses none of them. GPUs are measured by the
    processes that use them, on whatever machine.
    """

    def __init__(self, journal: Journal, seconds: float) -> None:
        self._journal, self._seconds = journal, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="system-metrics", daemon=True)
        self._sample = machine_sampler(journal.path.parent)

    def start(self) -> None:
        """Start sampling."""
        self._thread.start()

    def stop(self) -> None:
        """Stop sampling; returns when the last sample is written."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        is_failing = False
        while not self._stop.wait(self._seconds):
            try:
                self._journal.append("system", metrics=self._sample())
                is_failing = False
            except (VavlError, OSError, psutil.Error) as error:
                if not is_failing:
                    _log.warning("no system metrics for now: %s", error)
                is_failing = True


def machine_sampler(directory: Path) -> Callable[[], dict[str, float]]:
    """Return a function that measures the machine.

    Returns:
        A function giving ``system/<name>`` to value; network traffic counts from the making of
        the function, processor load from its last call.
    """
    start = psutil.net_io_counters()
    psutil.cpu_percent()

    def sample() -> dict[str, float]:
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(directory))
        network = psutil.net_io_counters()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / _MEGA,
            "system_memory_usage_percentage": memory.used / memory.total * 100,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / _MEGA,
            "disk_available_megabytes": disk.free / _MEGA,
        }
        if start is not None and network is not None:
            values["network_receive_megabytes"] = (network.bytes_recv - start.bytes_recv) / _MEGA
            values["network_transmit_megabytes"] = (network.bytes_sent - start.bytes_sent) / _MEGA
        return {f"system/{name}": round(value, 2) for name, value in values.items()}

    return sample


CODE_VARIABLE = "VAVL_CODE"
"""Environment variable: ``repository_tags`` as JSON, for a submitted job, whose copy of the code is no repository."""

BEST = "best/"
"""Begins the names of the scores of the model that is kept; those of every epoch are curves of their own."""

_PACKAGES = ("torch", "ray", "deepspeed")
_SCORES = ("clips", "accuracy", "f1_macro", "uar", "ccc_mean", "calibration_error")


@dataclass(frozen=True)
class DatasetNote:
    """The data of a run, as its lineage shows them."""

    name: str  # corpus
    store_hash: str  # hash of the feature store
    path: str  # directory of the feature store
    card: str  # path or name of the corpus card
    counts: Mapping[str, int]  # clips by split, partition or modality
    waived: tuple[str, ...] = ()  # checks of the store's audit that may fail
    context: str = "training"  # what the run does with the data, "training" or "evaluation"

    @property
    def tags(self) -> dict[str, str]:
        """Tags of every run on these data."""
        waived = {"vavl.waived_audit": ", ".join(self.waived)} if self.waived else {}
        return {"vavl.corpus": self.name, "vavl.store_hash": self.store_hash, **waived}


def run_start(
    config: FrozenConfig,
    tracking: TrackingSettings,
    run_id: str,
    dataset: DatasetNote,
    tags: Mapping[str, Any],
    parent: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the payload of ``run_start``; a resumed run records it again with the same ``run_id``."""
    return {
        "run_id": run_id,
        "run_name": tracking.run_name or run_id,
        "experiment": tracking.experiment,
        "params": flat_settings(config),
        "tags": dict(tags),
        "dataset": asdict(dataset),
        "config_yaml": settings_yaml(config),
        "parent": parent,
    }


def best_scores(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the scores of the model that is kept under ``best/<split>/<condition>/<metric>``."""
    return {f"{BEST}{name}": value for name, value in metrics.items()}


def run_page(metrics: Mapping[str, float], facts: Sequence[str], report: str) -> dict[str, str]:
    """Return the tag that describes a run on its page: a table of scores, some facts, a link to the report."""
    link = f"[{report}]({ARTIFACT_LINK}{report})"
    return {NOTE_TAG: "\n".join([" · ".join([link, *facts]), "", *score_table(metrics)])}


def score_table(metrics: Mapping[str, float]) -> list[str]:
    """Return the main scores as lines of a Markdown table, a row for each split and condition."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for name, value in metrics.items():
        split, _, rest = name.partition("/")
        condition, _, metric = rest.partition("/")
        if metric in _SCORES:
            rows.setdefault((split, condition), {})[metric] = value
    shown = [metric for metric in _SCORES if any(metric in row for row in rows.values())]
    if not rows:
        return []
    cells = [["split", "condition", *shown]]
    for (split, condition), row in rows.items():
        digits = {name: f"{value:.{0 if name == 'clips' else 3}f}" for name, value in row.items()}
        cells.append([split, condition, *(digits.get(name, "") for name in shown)])
    # MLflow's pages set the cells without a gap.
    head, *body = [f"| {'&ensp; | '.join(line)}&ensp; |" for line in cells]
    return [head, "|---|---|" + "---:|" * len(shown), *body]


def source_tags() -> dict[str, str]:
    """Return the tags for who started which code: user, job file, repository, a hash of the code, its engines.

    The hash stands where there is no repository, and where changes are not committed.
    """
    job, package = Path(sys.argv[0]).absolute(), Path(vavl.__file__).parent
    directories = [package, *([job.parent] if job.parent.name == "jobs" else [])]
    sent = os.environ.get(CODE_VARIABLE)
    return {
        "mlflow.source.name": job.name,
        "mlflow.source.type": "LOCAL",
        "mlflow.user": user_name(),
        "vavl.code_hash": _code_hash(directories),
        # DeepSpeed is left out of some installations.
        **{f"vavl.{name}": version(name) for name in _PACKAGES if find_spec(name)},
        **(json.loads(sent) if sent else repository_tags(package)),
    }


def repository_tags(code: Path) -> dict[str, str]:
    """Return git commit, branch and whether changes are uncommitted as tags; {} outside a repository."""
    commit = _git(code, "rev-parse", "HEAD")
    if not commit:
        return {}
    branch = _git(code, "branch", "--show-current")
    changed = _git(code, "status", "--porcelain", "--untracked-files=no")
    return {
        "mlflow.source.git.commit": commit,
        **({"mlflow.source.git.branch": branch} if branch else {}),
        "vavl.uncommitted_changes": str(bool(changed)).lower(),
    }


def _code_hash(directories: Iterable[Path]) -> str:
    """Return a hash over names and content of the Python files in these directories."""
    files = [(directory.parent, file) for directory in directories for file in directory.rglob("*.py")]
    return sha256_of_json({str(file.relative_to(above)): sha256_of_file(file) for above, file in files})[:16]


def user_name() -> str:
    """Return the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that no user has
        return "unknown"


def _git(directory: Path, *words: str) -> str:
    """Return what git prints, "" without git or outside a repository."""
    command: list[Any] = ["git", "-C", directory, *words]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


class TrackedRun:
    """Records a run; use as a context around the work, whose failure becomes the end of the run.

    A failure of the tracking server never reaches the work.
    """

    flush_seconds: ClassVar[float] = 180.0
    """Longest wait for the tracking server at the end."""

    flush_after_error_seconds: ClassVar[float] = 180.0
    """The same after work that failed."""

    def __init__(self, directory: Path, settings: TrackingSettings, register: Register | None = None) -> None:
        self.directory, self._settings = directory, settings
        self.journal = Journal(directory / JOURNAL_NAME)
        self._replayer = Replayer([self.journal], settings, register)
        self._sampler: SystemSampler | None = None

    @property
    def show_command(self) -> str:
        """What a person types to look at the run."""
        return self._replayer.place.show_command

    def _follow(self, earlier: Path) -> None:
        """Let the tracking server follow from here on, and give it what runs below ``earlier`` left over."""
        if self._settings.system_metrics:
            seconds = self._settings.system_metrics_seconds
            try:
                self._sampler = SystemSampler(self.journal, seconds)
                self._sampler.start()
            except Exception:  # noqa: BLE001  tracking never stops the work
                _log.warning("the load of this machine is not recorded", exc_info=True)
        self._replayer.add_leftovers(earlier)
        self._replayer.start()

    def _end(
        self,
        status: str,
        metrics: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """Record the end and wait for the tracking server.

        It is waited ``flush_seconds`` at most, unless ``seconds`` says otherwise.

        Returns:
            ``mlflow_run_id`` (None where the server does not hold the run yet) and ``tracking_complete``.
        """
        if self._sampler is not None:
            self._sampler.stop()
        self.journal.append("run_end", status=status, metrics=metrics, tags=tags or {})
        is_complete = self._replayer.finish(seconds or self.flush_seconds)
        return {"mlflow_run_id": self._replayer.state.mlflow_run_id, "tracking_complete": is_complete}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        status = "KILLED" if isinstance(error, (KeyboardInterrupt, TrainingStopped)) else "FAILED"
        try:
            self._end(status, {}, seconds=self.flush_after_error_seconds)
        except (VavlError, OSError) as second:  # a full disk may have ended the run: its reason comes first
            _log.error("the end of the run cannot be recorded: %s", second)
            self._replayer.finish(self.flush_after_error_seconds)
