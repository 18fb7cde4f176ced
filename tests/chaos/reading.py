"""What the journal of a run says about its steps: which were done, when, with which loss, and which again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vavl.tracking.journal import Journal

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Resumption:
    """An attempt that resumed from a checkpoint.

    Attributes:
        time: seconds since the epoch.
        step: steps that the checkpoint holds.
    """

    time: float
    step: int


class RunReading:
    """Follows the journal of a run.

    A step that is reported a second time from the records of a checkpoint has the time of the first
    report and is the same; a step that was computed again has another.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder / JOURNAL)
        self._seq = self._offset = 0
        self.losses: dict[tuple[int, float], float | None] = {}
        self.events: dict[tuple[float, str], str] = {}
        self.resumptions: list[Resumption] = []

    def refresh(self) -> None:
        """Read what was written since the last call."""
        for record in self._journal.read(self._seq, self._offset):
            self._seq, self._offset = record.seq, record.end
            step = record.payload.get("step")
            if record.kind == "step":
                self.losses[int(step), record.time] = record.payload["metrics"]["train/loss/total"]
            if record.kind != "event" or (record.time, record.payload["what"]) in self.events:
                continue
            what = record.payload["what"]
            self.events[record.time, what] = record.payload["message"]
            if what == "skipped_step":
                self.losses[int(step), record.time] = None
            if what == "resumed":
                self.resumptions.append(Resumption(record.time, int(step)))

    def done(self, before: float = float("inf")) -> int:
        """Count the steps that were done before a moment: one more than the highest."""
        return max((step + 1 for step, time in self.losses if time < before), default=0)

    def resumed_after(self, moment: float) -> Resumption | None:
        """Return the first attempt after a moment that resumed from a checkpoint."""
        return next((one for one in self.resumptions if one.time > moment), None)

    def reached(self, step: int, after: float) -> float | None:
        """Return when a step that was not done before was done, after a moment."""
        return min((time for one, time in self.losses if one >= step and time > after), default=None)

    def messages(self, what: str, after: float = 0.0) -> list[str]:
        """Return the messages of the events of a kind after a moment."""
        return [message for (time, kind), message in self.events.items() if kind == what and time > after]

    def skipped(self) -> list[int]:
        """Return the steps that were skipped for numbers that are not finite."""
        return sorted({step for (step, _), loss in self.losses.items() if loss is None})
