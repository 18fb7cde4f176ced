"""The table of the faults, on the screen."""

from __future__ import annotations

import time
from collections.abc import Sequence

from faults import Fault, FaultLog
from rich.console import Console
from rich.table import Table

_COLUMNS = ("fault", "run", "at step", "recovered in s", "steps repeated", "difference", "what was seen")
_WIDTH = 170


class Teller:
    """Prints a line per fault as it happens, and the table at the end.

    Args:
        log: of the faults.
    """

    def __init__(self, log: FaultLog) -> None:
        self._log, self._start = log, time.monotonic()
        console = Console(highlight=False)
        # A log file has no width; the table needs some.
        self._console = console if console.is_terminal else Console(highlight=False, width=_WIDTH)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def say(self, text: str) -> None:
        """Print a line of progress."""
        lost = sum(bool(fault.fault) for fault in self._log.faults)
        place = f"{len(self._log.faults)}/{self._log.wanted} faults, {lost} lost"
        self._console.print(f"[dim]{self.seconds:6.0f} s  {place}[/dim]  {text}", soft_wrap=True)

    def tell(self, fault: Fault) -> None:
        """Print what a fault did, when the run has gone on or is lost."""
        what = f"{fault.run}: {fault.kind} at step {fault.at_step}"
        if fault.fault:
            self.say(f"[red]{what}: LOST: {fault.fault}[/red]")
        else:
            self.say(
                f"{what}, recovered in {fault.recovery_seconds:.1f} s, {fault.steps_repeated} steps repeated "
                f"({fault.note})"
            )

    def tell_end(self, run: str, faults: Sequence[Fault]) -> None:
        """Print how a run ended."""
        differences = {fault.final_difference for fault in faults}
        if any(fault.is_lost for fault in faults):
            self.say(f"[red]{run}: ended otherwise than undisturbed: {differences}[/red]")
        else:
            self.say(f"{run}: {len(faults)} faults, difference to the undisturbed run {differences or 'unknown'}")

    def table(self) -> None:
        """Print all faults."""
        table = Table(*_COLUMNS, title="Faults")
        for fault in self._log.faults:
            table.add_row(
                fault.kind, fault.run, str(fault.at_step), _number(fault.recovery_seconds, ".1f"),
                _number(fault.steps_repeated, "d"), _number(fault.final_difference, ".1e"),
                f"[red]LOST: {fault.fault or 'another result'}[/red]" if fault.is_lost else fault.note,
            )  # fmt: skip
        self._console.print(table)
        self._console.print(
            "recovered: from the fault to the first step that had not been done before; "
            "steps repeated: as the journal knows them, to which workers of Ray report once a second; "
            "difference: largest relative one of any loss and of the weights to the undisturbed run, 0 = bitwise",
            soft_wrap=True,
        )


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return "0" if value == 0 else format(value, form)
