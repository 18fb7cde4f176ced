"""What a person sees of a training while it goes on: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import TaskID

from vavl.config.progress import progress_bar
from vavl.metrics.names import CONDITIONS
from vavl.tracking.events import event_line, event_of
from vavl.tracking.journal import Journal, JournalReader, Record
from vavl.training.throughput import EXPECTED_SECONDS, MFU, SECONDS_PER_STEP

_LOOK_SECONDS = 0.5
_log = logging.getLogger(__name__)


class TrainingProgress:
    """Follows a journal and shows steps and epochs; use as a context.

    Args:
        journal: of the run.
        select_by: name of the metric that chooses the epoch; its last part is shown per condition.
    """

    def __init__(self, journal: Journal, select_by: str) -> None:
        self._reader, self._metric = JournalReader(journal), select_by.split("/")[-1]
        # What an earlier attempt of a resumed run wrote is not news, not even when it is reported again.
        self._shown = {_key(record) for record in self._reader.read() if _has_line(record)}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="training-progress", daemon=True)
        console = Console(stderr=True)
        self._bar = progress_bar(console, "note") if console.is_terminal else None
        self._task = self._bar.add_task("training", total=None, note="starting") if self._bar else None
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._bar:
            self._bar.stop()

    def _follow(self) -> None:
        ends = False
        while not ends:
            ends = self._stop.wait(_LOOK_SECONDS)
            for record in self._reader.read():
                if record.kind == "step":
                    self._advance(record.payload)
                if _has_line(record) and _key(record) not in self._shown:
                    self._show_line(record)

    def _show_line(self, record: Record) -> None:
        match record.kind:
            case "step":
                for line in step_lines(record.payload):
                    self._print(line)
            case "epoch":
                self._show_epoch(record.payload)
            case _:
                self._print(event_line(event_of(record)))

    def _advance(self, payload: dict[str, Any]) -> None:
        if self._bar and self._task is not None:
            loss = payload["metrics"].get("train/loss/total")
            note = "" if loss is None else f"loss {loss:.3f}"
            total = payload["total_steps"]
            self._bar.update(TaskID(self._task), completed=payload["step"] + 1, total=total, note=note)

    def _show_epoch(self, payload: dict[str, Any]) -> None:
        metrics = payload["metrics"]
        scores = "  ".join(
            f"{condition} {metrics[name]:.3f}"
            for condition in CONDITIONS
            if (name := f"validation/{condition}/{self._metric}") in metrics
        )
        line = (
            f"epoch {payload['epoch']}/{payload['total_epochs']}  validation {self._metric}: {scores}  "
            f"(best epoch {payload['best_epoch']}, {metrics['train/clips_per_second']:.0f} clips/s, "
            f"{time.monotonic() - self._start:.0f} s)"
        )
        self._print(line)

    def _print(self, line: str) -> None:
        if self._bar:
            self._bar.console.print(line, highlight=False)
        else:
            _log.info(line)


def _has_line(record: Record) -> bool:
    if record.kind == "step":
        return bool(record.payload.get("parts")) or EXPECTED_SECONDS in record.payload["metrics"]
    return record.kind in ("epoch", "event")


def _key(record: Record) -> tuple[str, float, object]:
    return record.kind, record.time, record.payload.get("step")


def step_lines(payload: dict[str, Any]) -> list[str]:
    """Return what is printed of a step: its objective and the forecast of the run, where it has them."""
    lines = [objective_line(payload)] if payload.get("parts") else []
    return [*lines, forecast_line(payload)] if EXPECTED_SECONDS in payload["metrics"] else lines


def forecast_line(payload: dict[str, Any]) -> str:
    """Write how long a run will take and how well it uses its GPUs, as measured at a step."""
    metrics = payload["metrics"]
    mfu = metrics.get(MFU)
    used = "" if mfu is None else f", MFU {mfu:.1%}"
    return (
        f"step {payload['step'] + 1}: {metrics[SECONDS_PER_STEP]:.2g} s/step, "
        f"about {_duration(metrics[EXPECTED_SECONDS])} in all{used}"
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def objective_line(payload: dict[str, Any]) -> str:
    """Write the objective of a step as its weighted parts, each with the norm of its gradient."""
    parts = "  ".join(
        f"{name} {part['weighted']:.3f} (gradient {part['gradient_norm']:.2g})"
        for name, part in payload["parts"].items()
    )
    return f"step {payload['step']}  objective {payload['metrics']['train/loss/total']:.3f} = {parts}"
