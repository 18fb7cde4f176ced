"""The checkpoints of a run: written by all ranks in shares while training continues, whole or not counted."""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from vavl.config.files import read_json
from vavl.errors import TrainingError
from vavl.training.average import WeightAverage
from vavl.training.checkpoint_files import (
    RECORDS_FILE,
    CheckpointValues,
    LoopState,
    Snapshot,
    fetched,
    problem_of,
    read_state,
    shares,
)
from vavl.training.collectives import any_rank, from_rank_zero, rank_and_world_size, wait_for_all
from vavl.training.engine import Engine
from vavl.training.storage import RunStorage

_log = logging.getLogger(__name__)

CHECKPOINTS_DIRECTORY = "checkpoints"
_STEP = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Restored:
    """A checkpoint that a run resumes from."""

    directory: Path  # of the checkpoint, on this machine
    name: str  # of the checkpoint below ``checkpoints/``
    state: LoopState  # of the loop
    records: Sequence[dict[str, Any]]  # what was reported between the checkpoint before and this one
    torn: Sequence[str]  # newer checkpoints that were skipped, with what is wrong with them

    def load_weights(self, network: nn.Module) -> None:
        """Fill the trained weights of a network."""
        shapes = {name: one.shape for name, one in network.named_parameters() if one.requires_grad}
        with CheckpointValues(self.directory) as values:
            network.load_state_dict(values.weights(shapes), strict=False)


class PendingWrite:
    """The write of one rank's share of a checkpoint into ``root``; called once, in any thread.

    Attributes:
        step: of the checkpoint.
        name: of its directory, e.g. ``step-00000120``.
        written: is done when the write has ended, and keeps its error for the loop, which tells all ranks.
    """

    def __init__(self, root: RunStorage, snapshot: Snapshot) -> None:
        self.step, self.name = snapshot.state.step, f"step-{snapshot.state.step:08d}"
        self.written = Future[None]()
        self._write: Callable[[], None] | None = partial(snapshot.write, root.directory(self.name))

    def __call__(self) -> None:
        """Write, and let go of the snapshot, which is a copy of the network."""
        write, self._write = self._write, None
        assert write is not None
        try:
            write()
        except BaseException as error:  # noqa: BLE001  raised by the loop, on every rank
            _log.exception("checkpoint %s could not be written", self.name)
            self.written.set_exception(error)
        else:
            self.written.set_result(None)


Submit = Callable[[PendingWrite], None]
"""Has a write done in the background; every rank calls it."""


class Checkpoints:
    """The checkpoints of a run, as one rank writes and finds them.

    Args:
        output_dir: of the run, a directory or an address.
        keep: how many of the newest stay when ``write_in_thread`` writes; Ray Train removes its own.
        attempt: directory of this attempt's checkpoints below ``checkpoints/``; "" for none.
    """

    def __init__(self, output_dir: Path | str, keep: int, attempt: str = "") -> None:
        self._root = RunStorage(output_dir).directory(CHECKPOINTS_DIRECTORY)
        self._storage = self._root.directory(attempt) if attempt else self._root
        self._keep = keep
        self._rank, self._ranks = rank_and_world_size()
        self._token = ""
        self._pending: PendingWrite | None = None

    @property
    def failed(self) -> bool:
        """Whether a write of this rank has failed."""
        return self._error is not None

    def open(self) -> None:
        """Agree on a token for this attempt, and remove what a killed one left unfinished. Every rank must call."""
        self._token = from_rank_zero(secrets.token_hex(4))
        if self._rank == 0:
            remove_unfinished(self._root)
        wait_for_all()

    def save(
        self,
        engine: Engine,
        average: WeightAverage | None,
        state: LoopState,
        records: Sequence[Mapping[str, Any]] = (),
        submit: Submit | None = None,
    ) -> None:
        """Copy the state, and have it written in the background. Every rank must call.

        Args:
            engine: its weights and optimizer state.
            average: of the weights, where it is kept.
            state: of the loop.
            records: reported since the last checkpoint.
            submit: has the write done; by default a thread of this process, which also removes old checkpoints.
        """
        if self._pending is not None:
            wait([self._pending.written])  # its failure stays with it; the loop looks at ``failed``
        if not self._token:
            self.open()
        owner = shares({name: held.numel() for name, held in engine.held_weights().items()}, self._ranks)
        pieces = engine.snapshot(lambda name: owner[name] == self._rank)
        averaged = average.weights(kept=self._rank == 0) if average is not None else {}
        snapshot = Snapshot(
            self._rank, self._ranks, self._token, state, engine.optimizer_steps, pieces, averaged, records
        )
        self._pending = PendingWrite(self._storage, snapshot)
        (submit or self.write_in_thread)(self._pending)

    def write_in_thread(self, pending: PendingWrite) -> None:
        """Write in a thread of this process, then remove old checkpoints."""

        def write() -> None:
            pending()
            if self._rank == 0 and pending.written.exception() is None:
                remove_old(self._root, self._keep)

        threading.Thread(target=write, name="checkpoint", daemon=True).start()

    def finish(self) -> None:
        """Wait until the last checkpoint is there. Every rank must call.

        Raises:
            TrainingError: a rank could not write.
        """
        if self._pending is not None:
            wait([self._pending.written])
        if any_rank(is_true=self.failed):
            self.raise_failure()

    def raise_failure(self) -> None:
        """Say why this rank, or another one, could not write a checkpoint."""
        cause = self._error
        problem = f"a checkpoint could not be written: {cause or 'see the log of the other workers'}"
        fix = "free space or repair the storage, then start again: the last whole checkpoint is intact"
        raise TrainingError(self._root.address, "", problem, fix) from cause

    @property
    def _error(self) -> BaseException | None:
        """Why the last write of this rank failed; None while it is not over."""
        written = self._pending.written if self._pending is not None else None
        return written.exception() if written is not None and written.done() else None

    def newest(self, scratch: Path) -> Restored | None:
        """Find the newest whole checkpoint. Every rank must call, and all get the same.

        Args:
            scratch: directory of this machine for a copy from object storage.

        Raises:
            TrainingError: another version wrote it, or its copy is damaged.
        """
        found = ""
        if self._rank == 0:
            found = json.dumps(_newest_whole(self._root))
        name, torn = json.loads(from_rank_zero(found))
        if name is None:
            return None
        directory = fetched(self._root.directory(name), scratch / "checkpoint")
        return Restored(directory, name, read_state(directory), read_json(directory / RECORDS_FILE), torn)


def step_of(name: str) -> int:
    """Return the step of a checkpoint by its name."""
    found = _STEP.fullmatch(name.rpartition("/")[2])
    return int(found[1]) if found else -1


def checkpoint_names(root: RunStorage) -> list[str]:
    """Return the checkpoints below ``checkpoints/``, oldest first: ``<attempt>/step-...``, or without attempt."""
    names = []
    for name in root.directories():
        if _STEP.fullmatch(name):
            names.append(name)
        elif not name.startswith("."):
            below = root.directory(name).directories()
            names += [f"{name}/{step}" for step in below if _STEP.fullmatch(step)]
    return sorted(names, key=lambda one: (step_of(one), one))


def newest_step(output_dir: Path | str) -> int:
    """Return the step of the newest checkpoint by name, 0 without any."""
    names = checkpoint_names(RunStorage(output_dir).directory(CHECKPOINTS_DIRECTORY))
    return step_of(names[-1]) if names else 0


def remove_old(root: RunStorage, keep: int) -> None:
    """Remove all checkpoints but the newest."""
    for name in checkpoint_names(root)[:-keep]:
        root.remove(name)


def remove_unfinished(root: RunStorage) -> None:
    """Remove checkpoints that some rank did not finish writing; damaged ones stay to be reported."""
    for name in checkpoint_names(root):
        problem = problem_of(root.directory(name), by_size=True)
        if problem is not None and "did not finish" in problem:
            root.remove(name)


def _newest_whole(root: RunStorage) -> tuple[str | None, list[str]]:
    """Find the newest whole one; move damaged ones aside, where they crowd out no whole one."""
    torn: list[str] = []
    for name in reversed(checkpoint_names(root)):
        problem = problem_of(root.directory(name))
        if problem is None:
            return name, torn
        _log.warning("checkpoint %s is skipped: %s", name, problem)
        short = name.rpartition("/")[2]
        torn.append(f"{short}: {problem}")
        root.move(name, f"torn-{short}-{secrets.token_hex(4)}")
    return None, torn
