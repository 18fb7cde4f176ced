"""Load of this machine, sampled into the journal under the names MLflow's system page shows."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from vavl.errors import VavlError
from vavl.tracking.journal import Journal

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

_MEGA = 1e6
_log = logging.getLogger(__name__)


class SystemSampler:
    """Appends a ``system`` record to a journal every few seconds, from a thread of its own.

    The journal carries the samples, so a tracking server that is down loses none of them.

    Args:
        journal: of the run.
        seconds: between two samples.
        gpus: measure this machine's GPUs too; False where workers report theirs, here and elsewhere.
    """

    def __init__(self, journal: Journal, seconds: float, *, gpus: bool = True) -> None:
        self._journal, self._seconds = journal, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="system-metrics", daemon=True)
        self._sample = machine_sampler(journal.path.parent, gpus=gpus)

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
            except (VavlError, OSError, psutil.Error) as fault:
                if not is_failing:
                    _log.warning("no system metrics for now: %s", fault)
                is_failing = True


def machine_sampler(folder: Path, *, gpus: bool = True) -> Callable[[], dict[str, float]]:
    """Return a function that measures the machine.

    Args:
        folder: the disk that holds it is measured.
        gpus: measure NVIDIA GPUs too, where there are any.

    Returns:
        A function giving ``system/<name>`` to value; network traffic counts from the making of
        the function, processor load from its last call.
    """
    start = psutil.net_io_counters()
    psutil.cpu_percent()
    gpu = _gpu_monitor() if gpus else None

    def sample() -> dict[str, float]:
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(folder))
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
        if gpu is not None:
            gpu.clear_metrics()
            gpu.collect_metrics()
            values |= gpu.aggregate_metrics()
        return {f"system/{name}": round(value, 2) for name, value in values.items()}

    return sample


def _gpu_monitor() -> GPUMonitor | None:
    """Return MLflow's own, None where NVIDIA's management library or a GPU is missing."""
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

    try:
        return GPUMonitor()
    except (ImportError, RuntimeError) as fault:
        _log.debug("no GPU metrics: %s", fault)
        return None
