"""What Ray Train's controller process takes over from the driver; it reads neither torch nor the network.

Workers come up only after the controller, so whatever it imports delays the first step.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.train import UserCallback
from ray.train.backend import Backend, BackendConfig

from vavl.training.process_memory import RUN_MEMORY, peak_memory_bytes

_GROUP_SECONDS = 1800
_LEAVE_SECONDS = 30.0
_log = logging.getLogger(__name__)

Record = dict[str, Any]


class RecordSink(UserCallback):  # type: ignore[misc]
    """Hands the records of rank 0 on, in Ray's controller process."""

    def __init__(self, sink: Callable[[Sequence[Record]], None]) -> None:
        self._sink = sink

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:  # noqa: ARG002
        """Pass the records on; an exception here would end the run and not be retried."""
        try:
            self._sink(_with_memory(json.loads(metrics[0]["records"]), metrics))
        except Exception:  # noqa: BLE001  logged with its traceback; the journal is not worth the run
            _log.exception("a report could not be recorded; training goes on")


def _with_memory(records: list[Record], metrics: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Return the records, the epochs among them with the memory of all workers and of this process."""
    taken = peak_memory_bytes() + sum(rank["memory_bytes"] for rank in metrics)
    return [
        {**record, "metrics": {**record["metrics"], RUN_MEMORY: taken / 2**30}}
        if record["kind"] == "epoch"
        else record
        for record in records
    ]


class GroupOfWorkers(BackendConfig):  # type: ignore[misc]
    """Ray Train's ``TorchConfig``, of which only the workers import torch.

    Args:
        backend: of ``torch.distributed``, "gloo" or "nccl".
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend

    @property
    def backend_cls(self) -> type[Backend]:
        """Forms and dissolves the group."""
        return _Group

    @property
    def train_func_context(self) -> Any:
        """Chooses the GPU of a worker; the driver asks for it."""
        from ray.train.torch.config import TorchConfigContextManager

        return TorchConfigContextManager


class _Group(Backend):  # type: ignore[misc]
    """Runs on the workers what Ray Train's backend for torch runs there."""

    def on_start(self, worker_group: Any, backend_config: GroupOfWorkers) -> None:
        """Let all workers join a process group; the port is of the first one's machine."""
        from ray.train._internal.utils import get_address_and_port

        address, port = worker_group.execute_single(0, get_address_and_port)
        size = len(worker_group)
        ray.get([
            worker_group.execute_single_async(rank, _join, backend_config.backend, (address, port), rank, size)
            for rank in range(size)
        ])  # fmt: skip

    def on_shutdown(self, worker_group: Any, backend_config: GroupOfWorkers) -> None:  # noqa: ARG002
        """Let all workers leave."""
        try:
            ray.get(worker_group.execute_async(_leave, len(worker_group) > 1), timeout=_LEAVE_SECONDS)
        except GetTimeoutError:
            _log.warning("the workers did not leave their process group within %g s", _LEAVE_SECONDS)


def _join(backend: str, meeting: tuple[str, int], rank: int, size: int) -> None:
    from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group

    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = meeting[0], str(meeting[1])
    _set_torch_distributed_env_vars()
    _setup_torch_process_group(backend, rank, size, "env://", _GROUP_SECONDS)


def _leave(dissolve: bool) -> None:
    from ray.train.torch.config import _shutdown_torch

    _shutdown_torch(destroy_process_group=dissolve)
