"""What the loop hears from outside: requests to stop, preemption notices, the watchdog."""

from __future__ import annotations

from typing import Protocol

from vavl.training.stop import Reason, StopWatch
from vavl.training.watchdog import Watchdog


class Surroundings(Protocol):
    """The loop's ears; it knows neither Ray nor files."""

    @property
    def report_pause_seconds(self) -> float:
        """Least time between two reports; one that comes sooner would make the loop wait."""

    def beat(self, least_seconds: float = 0.0) -> None:
        """Hear that a step or an evaluation begins; it may take ``least_seconds`` at least."""

    def is_asked_to_stop(self) -> bool:
        """Tell whether this rank has heard that the run is to stop; the ranks agree on it afterwards."""

    def after_report(self) -> Reason | None:
        """Tell whether the machines will go away soon. Every rank must call, and all get the same."""


class Alone:
    """A process that nobody speaks to."""

    @property
    def report_pause_seconds(self) -> float:
        """A function call takes no time."""
        return 0.0

    def beat(self, least_seconds: float = 0.0) -> None:
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

    def beat(self, least_seconds: float = 0.0) -> None:
        """Start the watchdog's time anew."""
        if self._watchdog is not None:
            self._watchdog.beat(least_seconds)

    def is_asked_to_stop(self) -> bool:
        """Look for the stop file."""
        return self._stop.is_asked()

    def close(self) -> None:
        """Watch no more."""
        if self._watchdog is not None:
            self._watchdog.stop()
