"""What launches a worker gives its training loop: a device, a place for checkpoints, requests to stop, a watchdog."""

from __future__ import annotations

import faulthandler
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TextIO

import torch

from vavl.training.checkpoint import Submit
from vavl.training.engine import no_gpu
from vavl.training.settings import TrainingSettings
from vavl.training.stop import StopWatch


class LocalContext:
    """What the loop asks of whatever launched it, for one process without Ray; the loop knows neither Ray nor files.

    Args:
        stop: of the run; None where nobody can ask.
    """

    attempt = ""
    """Directory of this attempt's checkpoints below ``checkpoints/``; "" for none."""
    submit: Submit | None = None
    """Has checkpoints written; None: by a thread of this process."""
    report_pause_seconds = 0.0
    """Least time between two reports; one that comes sooner would make the loop wait."""

    def __init__(self, stop: StopWatch | None = None) -> None:
        self._stop = stop

    def device(self, settings: TrainingSettings) -> torch.device:
        """Return the device of this worker: the CPU, or the GPU that ``LOCAL_RANK`` names.

        Raises:
            TrainingError: a GPU is asked for, and torch finds none.
        """
        if settings.gpus_per_worker == 0:
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise no_gpu("torch finds no GPU in this process")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))

    def beat(self, least_seconds: float | None = 0.0) -> None:
        """Note that a step or an evaluation begins; it may take ``least_seconds`` at least, None: any time."""

    def is_asked_to_stop(self) -> bool:
        """Return whether this rank was notified that the run is to stop; the ranks agree on it afterwards."""
        return self._stop is not None and self._stop.is_asked()

    def is_preempted(self) -> bool:
        """Return whether machines of the run will go away soon. Every rank must call, and all get the same."""
        return False


STACKS_DIRECTORY = "stacks"
_HEADER = "Timeout ("
_TRAINING = "in train_on_worker"
_FRAMES = 30
_SILENT = "left no stack: it was stopped, had ended, or came on"


class Watchdog:
    """Ends this process when ``beat`` is not called for too long.

    ``stacks``: directory of this machine; the stacks go to ``rank-<rank>.txt`` there. ``timeout_seconds``: longest time
    between two beats; None = never.
    """

    def __init__(self, stacks: Path, rank: int, timeout_seconds: float | None) -> None:
        self._timeout = timeout_seconds
        self._file: TextIO | None = None
        if timeout_seconds is not None:
            path = stacks / f"rank-{rank}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8")

    def beat(self, least_seconds: float | None = 0.0) -> None:
        """Note that something has ended; the time starts anew.

        Args:
            least_seconds: what the next thing may take at least, whatever the timeout of a step is; None: any time.
        """
        if self._file is None or self._timeout is None:
            return
        faulthandler.cancel_dump_traceback_later()
        if least_seconds is not None:
            faulthandler.dump_traceback_later(max(self._timeout, least_seconds), exit=True, file=self._file)

    def stop(self) -> None:
        """Watch no more."""
        if self._file is not None:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            self._file = None


def stacks_directory(output_dir: Path | str) -> Path:
    """Return where the stacks of a run go: into its directory, or to this machine's temporary files."""
    if isinstance(output_dir, Path):
        return output_dir / STACKS_DIRECTORY
    digest = hashlib.sha256(output_dir.encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"vavl-stacks-{digest}"


def clear_stacks(output_dir: Path | str) -> None:
    """Remove the stacks of an earlier attempt."""
    shutil.rmtree(stacks_directory(output_dir), ignore_errors=True)


def _in_short(text: str) -> str:
    """Keep the threads that train, where there are any: a process has many that only wait."""
    header, *threads = text.strip().split("\n\n")
    first, _, rest = header.partition("\n")
    threads = [rest, *threads]
    training = [thread for thread in threads if _TRAINING in thread] or threads
    cut = ["\n".join(thread.splitlines()[:_FRAMES]) for thread in training]
    return "\n".join([first, *cut])


def read_stacks(stacks: Path, ranks: int) -> str | None:
    """Return the stacks that the watchdogs of an attempt left, rank by rank; None if no one fired."""
    found = {
        int(match[1]): path.read_text(encoding="utf-8")
        for path in sorted(stacks.glob("rank-*.txt"))
        if (match := re.fullmatch(r"rank-(\d+)\.txt", path.name))
    }
    fired = {rank: text for rank, text in found.items() if _HEADER in text}
    if not fired:
        return None
    lines = [
        f"--- rank {rank} ---\n{_in_short(fired[rank]) if rank in fired else _SILENT}"
        for rank in range(max(ranks, max(fired) + 1))
    ]
    return "\n".join(lines)
