"""What launches a worker gives its training loop: a device, a place for checkpoints, requests to stop, a watchdog."""

from __future__ import annotations

from typing import Protocol

import torch

from vavl.training.checkpoint import Submit
from vavl.training.engine import default_device
from vavl.training.settings import TrainingSettings
from vavl.training.stop import StopWatch


class WorkerContext(Protocol):
    """What the loop asks of whatever launched it; the loop knows neither Ray nor files."""

    @property
    def attempt(self) -> str:
        """Directory of this attempt's checkpoints below ``checkpoints/``; "" for none."""

    @property
    def submit(self) -> Submit | None:
        """Has checkpoints written; None: by a thread of this process."""

    @property
    def report_pause_seconds(self) -> float:
        """Least time between two reports; one that comes sooner would make the loop wait."""

    def device(self, settings: TrainingSettings) -> torch.device:
        """Return the device of this worker."""

    def beat(self, least_seconds: float | None = 0.0) -> None:
        """Note that a step or an evaluation begins; it may take ``least_seconds`` at least, None: any time."""

    def is_asked_to_stop(self) -> bool:
        """Return whether this rank was notified that the run is to stop; the ranks agree on it afterwards."""

    def is_preempted(self) -> bool:
        """Return whether machines of the run will go away soon. Every rank must call, and all get the same."""


class LocalContext:
    """One process without Ray.

    Args:
        stop: of the run; None where nobody can ask.
    """

    attempt = ""
    submit: Submit | None = None
    report_pause_seconds = 0.0

    def __init__(self, stop: StopWatch | None = None) -> None:
        self._stop = stop

    def device(self, settings: TrainingSettings) -> torch.device:
        """Return the CPU, or the GPU that ``LOCAL_RANK`` names."""
        return default_device(settings)

    def beat(self, least_seconds: float | None = 0.0) -> None:
        """Nothing watches."""

    def is_asked_to_stop(self) -> bool:
        """Look for the stop request."""
        return self._stop is not None and self._stop.is_asked()

    def is_preempted(self) -> bool:
        """This machine stays."""
        return False
