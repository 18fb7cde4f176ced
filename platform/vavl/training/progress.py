"""What a person sees of a training run while it goes on: a bar on a terminal, a line per epoch."""

from __future__ import annotations

import threading
import time
from typing import Any, Self

from vavl.config.progress import Progress, in_words, process_seconds
from vavl.metrics.names import CONDITIONS
from vavl.tracking.journal import Journal, JournalReader, Record, event_of
from vavl.training.throughput import EXPECTED_SECONDS, MFU, SECONDS_PER_STEP

_LOOK_SECONDS = 0.5


class TrainingProgress:
    """Follows a journal and shows steps and epochs; use as a context.

    ``select_by``: name of the metric that chooses the epoch; its last part is shown per condition. ``since``: when the
    run began, in seconds of this process.

    Attributes:
        first_step_seconds: from ``since`` to the first step; None before it, and where an earlier
            process took it.
    """

    def __init__(self, journal: Journal, select_by: str, since: float = 0.0) -> None:
        self._since = since
        self._reader, self._metric = JournalReader(journal), select_by.split("/")[-1]
        # What an earlier attempt of a resumed run wrote is not news, not even when it is reported again.
        earlier = list(self._reader.read())
        self._shown = {_key(record) for record in earlier if _has_line(record)}
        self.first_step_seconds: float | None = None
        self._is_first = not any(record.kind == "step" for record in earlier)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="training-progress", daemon=True)
        self._progress = Progress("training", None, unit="steps", counts=False)
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.__enter__()
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._stop.set()
        self._thread.join()
        self._progress.__exit__(kind, error, trace)

    def _follow(self) -> None:
        ends = False
        while not ends:
            ends = self._stop.wait(_LOOK_SECONDS)
            for record in self._reader.read():
                if record.kind == "step":
                    if self._is_first:
                        self.first_step_seconds, self._is_first = process_seconds() - self._since, False
                    loss = record.payload["metrics"].get("train/loss/total")
                    note = "" if loss is None else f"loss {loss:.3f}"
                    self._progress.update(record.payload["step"] + 1, record.payload["total_steps"], note)
                if _has_line(record) and _key(record) not in self._shown:
                    for line in self._lines_of(record):
                        self._progress.line(line)

    def _lines_of(self, record: Record) -> list[str]:
        match record.kind:
            case "step":
                return step_lines(record.payload)
            case "epoch":
                return [self._epoch_line(record.payload)]
            case _:
                return [event_of(record).in_words()]

    def _epoch_line(self, payload: dict[str, Any]) -> str:
        metrics = payload["metrics"]
        scores = "  ".join(
            f"{condition} {metrics[name]:.3f}"
            for condition in CONDITIONS
            if (name := f"validation/{condition}/{self._metric}") in metrics
        )
        # A refit measures nothing.
        best = f"validation {self._metric}: {scores}  (best epoch {payload['best_epoch']}, " if scores else "("
        return (
            f"epoch {payload['epoch']}/{payload['total_epochs']}  {best}"
            f"{metrics['train/clips_per_second']:.0f} clips/s, {time.monotonic() - self._start:.0f} s)"
        )


def _has_line(record: Record) -> bool:
    if record.kind == "step":
        payload = record.payload
        return "setup" in payload or bool(payload.get("parts")) or EXPECTED_SECONDS in payload["metrics"]
    return record.kind in ("epoch", "event")


def _key(record: Record) -> tuple[str, float, object]:
    return record.kind, record.time, record.payload.get("step")


def step_lines(payload: dict[str, Any]) -> list[str]:
    """Return what is printed of a step: how the run is set up, its objective and its forecast, where it has them."""
    lines = [f"training: {payload['setup']}"] if "setup" in payload else []
    lines += [objective_line(payload)] if payload.get("parts") else []
    return [*lines, forecast_line(payload)] if EXPECTED_SECONDS in payload["metrics"] else lines


def forecast_line(payload: dict[str, Any]) -> str:
    """Write how long a run will take and how well it uses its GPUs, as measured at a step."""
    metrics = payload["metrics"]
    mfu = metrics.get(MFU)
    used = "" if mfu is None else f", MFU {mfu:.1%}"
    return (
        f"step {payload['step'] + 1}: {metrics[SECONDS_PER_STEP]:.2g} s/step, "
        f"about {in_words(metrics[EXPECTED_SECONDS])} in all{used}"
    )


def objective_line(payload: dict[str, Any]) -> str:
    """Write the objective of a step as its weighted parts, each with the norm of its gradient."""
    parts = "  ".join(
        f"{name} {part['weighted']:.3f} (gradient {part['gradient_norm']:.2g})"
        for name, part in payload["parts"].items()
    )
    return f"step {payload['step']}  objective {payload['metrics']['train/loss/total']:.3f} = {parts}"
