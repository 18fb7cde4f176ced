"""What the loop hears from outside: requests to stop, preemption notices, the watchdog."""

from __future__ import annotations

from typing import Protocol

from vavl.training.stop import Reason, StopWatch
from vavl.training.watchdog import Watchdog


class Surroundings(Protocol):
    """The loop's ears; it knows neither Ray nor files."""

    def beat(self) -> None:
        """Hear that a step or an evaluation begins."""

    def is_asked_to_stop(self) -> bool:
        """Tell whether this rank has heard that the run is to stop; the ranks agree on it afterwards."""

    def after_report(self) -> Reason | None:
        """Tell whether the machines will go away soon. Every rank must call, and all get the same."""


class Alone:
    """A process that nobody speaks to."""

    def beat(self) -> None:
        """Nothing watches."""

    def is_asked_to_stop(self) -> bool:
        """Nobody asks."""
        return False

    def after_report(self) -> Reason | None:
        """Nothing will go away."""
        return None


class Listening(Alone):
    """Listens to the stop file of the run, and keeps a watchdog quiet.

    Args:
        stop: of the run's folder.
        watchdog: of this process; None where nothing may end the process.
    """

    def __init__(self, stop: StopWatch, watchdog: Watchdog | None = None) -> None:
        self._stop, self._watchdog = stop, watchdog

    def beat(self) -> None:
        """Start the watchdog's time anew."""
        if self._watchdog is not None:
            self._watchdog.beat()

    def is_asked_to_stop(self) -> bool:
        """Look for the stop file."""
        return self._stop.is_asked()

    def close(self) -> None:
        """Watch no more."""
        if self._watchdog is not None:
            self._watchdog.stop()
