"""One run with several faults: inject, wait until it has gone on, compare with the undisturbed run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from difference import difference_of
from disturbed import Command, Disturbed, InjectionError
from faults import BITWISE, Fault, FaultLog
from injections import Injection
from plans import BAD_CLIP
from table import Teller

from vavl.config.files import read_json
from vavl.training.settings import TrainingPlan

_ATTEMPTS = 3


@dataclass(frozen=True)
class Planned:
    """A fault that is to be injected.

    Attributes:
        kind: its name in the table.
        inject: does it.
        recover: waits until the run has gone on, and notes when; by default ``gone_on``.
    """

    kind: str
    inject: Injection
    recover: Callable[[Disturbed, Fault, float], None] | None = None


@dataclass(frozen=True)
class Scenario:
    """A run and the faults that hit it, in this order at random moments.

    Attributes:
        name: of the run.
        command: makes the run of a plan.
        plan: of the run.
        undisturbed: trains a plan without faults.
        faults: that hit it.
        allowed: largest difference that is promised.
        check: holds the finished run to more than the undisturbed one.
        skips: whether a batch holds a clip with NaN: a fault that needs no injection but that of the store.
    """

    name: str
    command: Callable[[TrainingPlan], Command]
    plan: TrainingPlan
    undisturbed: Callable[[TrainingPlan], Path]
    faults: Sequence[Planned]
    allowed: float = BITWISE
    check: Callable[[Disturbed], None] | None = None
    skips: bool = False

    def play(self, log: FaultLog, seed: int, teller: Teller, patience: float = 1.0) -> None:
        """Run it to its end; a fault that the run does not survive ends the scenario."""
        mine: list[Fault] = []
        run = Disturbed(self.name, self.command(self.plan), seed, patience)
        try:
            run.command.start()
            targets = moments(run, len(self.faults))
            for planned, target in zip(self.faults, targets, strict=True):
                fault = self._inject(run, planned, target)
                if fault is None:
                    continue
                mine.append(log.add(fault))
                teller.tell(fault)
                if fault.fault:
                    break
            if not any(fault.fault for fault in mine):
                self._finish(run, mine, log)
        finally:
            run.command.close()
            teller.tell_end(self.name, mine)

    def _inject(self, run: Disturbed, planned: Planned, target: int) -> Fault | None:
        """Inject one fault and wait until the run is beyond it; None if it could not be injected."""
        fault = Fault(planned.kind, self.name, target, allowed=self.allowed)
        moment = time.time()
        try:
            for attempt in range(_ATTEMPTS):
                run.wait_for_step(target + attempt)
                time.sleep(run.random.uniform(0, 0.03))
                run.reading.refresh()
                fault.at_step, moment = run.reading.done(), time.time()
                try:
                    fault.note = planned.inject(run)
                    break
                except InjectionError as problem:
                    fault.note = str(problem)
                    run.ensure_started()
            else:
                return None
            (planned.recover or gone_on)(run, fault, moment)
            fault.at_step = run.reading.done(before=moment)
        except InjectionError:
            return None
        except AssertionError as problem:
            fault.fault = str(problem)
        return fault

    def _finish(self, run: Disturbed, mine: list[Fault], log: FaultLog) -> None:
        try:
            run.wait_for_exit(run.FINISHED)
            if self.check is not None:
                self.check(run)
            if self.skips:
                log.wanted += 1  # the store brings it, beside what is planned
                mine.append(log.add(skipped_batch(run)))
            difference = difference_of(run.folder, self.undisturbed(self.plan), run.steps)
            for fault in mine:
                fault.final_difference = difference
        except AssertionError as problem:
            for fault in mine:
                fault.fault = str(problem)


def gone_on(run: Disturbed, fault: Fault, moment: float) -> None:
    """Wait until a new attempt has done a step that had not been done before; note when and what was repeated."""
    run.ensure_started()

    def is_beyond() -> bool:
        run.reading.refresh()
        resumed = run.reading.resumed_after(moment)
        if resumed is None and run.command.exit_code() == run.FINISHED:
            raise InjectionError("the last step was done before the fault")
        if resumed is None:
            return False
        done = run.reading.done(resumed.time)
        reached = run.reading.reached(min(done, run.steps - 1), resumed.time)
        if reached is None:
            return False
        fault.recovery_seconds, fault.steps_repeated = reached - moment, done - resumed.step
        return True

    run.wait_until(is_beyond, "the run did not continue")


def not_disturbed(run: Disturbed, fault: Fault, moment: float) -> None:
    """Wait until the same attempt has done a step that had not been done before."""

    def is_beyond() -> bool:
        run.reading.refresh()
        reached = run.reading.reached(min(fault.at_step, run.steps - 1), moment)
        if reached is not None:
            fault.recovery_seconds, fault.steps_repeated = reached - moment, 0
        return reached is not None

    run.wait_until(is_beyond, "the run did not go on")
    if run.reading.resumed_after(moment) is not None:
        raise AssertionError("the run began anew")


def skipped_batch(run: Disturbed) -> Fault:
    """Describe what the clip with NaN did: its first batch was skipped and counted."""
    run.reading.refresh()
    skipped = run.reading.skipped()
    if not skipped:
        raise AssertionError("no batch was skipped")
    counted = read_json(run.folder / "outcome.json")["skipped_steps"]
    if counted != skipped:
        raise AssertionError(f"skipped {skipped}, counted {counted}")
    first = min(time for (step, time), loss in run.reading.losses.items() if loss is None)
    after = run.reading.reached(skipped[0] + 1, first)
    seconds = None if after is None else after - first
    note = f"{len(skipped)} batches with {BAD_CLIP} skipped and counted"
    return Fault("batch with NaN", run.name, skipped[0], note, seconds, steps_repeated=0)


def moments(run: Disturbed, count: int) -> list[int]:
    """Draw the steps of the faults: one in each of ``count`` equal parts of the run, none in the last tenth."""
    first = (run.command.plan.training.checkpoint_every_steps or 1) + 1
    width = (0.9 * run.steps - first) / max(count, 1)
    return [int(first + width * (place + run.random.random() * 0.7)) for place in range(count)]
