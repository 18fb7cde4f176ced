"""Checkpoints that are whole or do not count: written beside, summed up, renamed, while training goes on."""

from __future__ import annotations

import logging
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vavl.config.files import make_folder, read_json
from vavl.errors import TrainingError
from vavl.training.checkpoint_files import (
    AVERAGE_FILE,
    RECORDS_FILE,
    CheckpointValues,
    Snapshot,
    fault_of,
    read_state,
    score_of,
    seal,
    write_rank,
    written_ranks,
)
from vavl.training.collectives import add_over_ranks, from_rank_zero, rank_and_world_size, wait_for_all
from vavl.training.engine import Engine
from vavl.training.state import LoopState

_log = logging.getLogger(__name__)

CHECKPOINTS_FOLDER = "checkpoints"
_OTHER_RANKS_SECONDS = 900.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Restored:
    """A checkpoint that a run goes on from.

    Attributes:
        folder: of the checkpoint.
        state: of the loop.
        records: what was reported between the checkpoint before and this one.
        torn: newer checkpoints that were skipped, with what is wrong with them.
    """

    folder: Path
    state: LoopState
    records: Sequence[dict[str, Any]]
    torn: Sequence[str]

    def values(self) -> CheckpointValues:
        """Open its tensors."""
        return CheckpointValues(self.folder)

    @property
    def average_file(self) -> Path:
        """Where averaged weights lie, if the run kept them."""
        return self.folder / AVERAGE_FILE


class CheckpointFolder:
    """The checkpoints of one run: ``<root>/step-00000120`` holds the pieces of all ranks.

    Every rank writes its own file in a background thread. Rank 0 watches the folder for the others
    and renames it when all are there: no collective runs beside the training.

    Args:
        root: folder that every rank can write.
        keep: how many of the newest stay.
        keep_best: how many of those with the best score stay beside them.
    """

    def __init__(self, root: Path, keep: int, keep_best: int = 0) -> None:
        self._root, self._keep, self._keep_best = root, keep, keep_best
        self._rank, self._ranks = rank_and_world_size()
        self._token = ""
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    @property
    def failed(self) -> bool:
        """Whether a write of this rank has failed."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def open(self) -> None:
        """Agree on a name for this attempt, and clear what a killed one left. Every rank must call."""
        self._token = from_rank_zero(secrets.token_hex(4))
        if self._rank == 0:
            make_folder(self._root)
            for left in self._root.glob(".step-*"):
                shutil.rmtree(left, ignore_errors=True)
        wait_for_all()

    def save(
        self,
        engine: Engine,
        average: Mapping[str, Tensor] | None,
        state: LoopState,
        records: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Copy the state and write it in the background. Every rank must call; not collective.

        Args:
            engine: its weights and optimizer state.
            average: averaged weights, where they are kept.
            state: of the loop.
            records: reported since the last checkpoint.
        """
        self._wait()
        if not self._token:
            self.open()
        mine = average if average is not None and self._rank == 0 else {}
        snapshot = Snapshot.of(engine.pieces(), engine.optimizer_steps, mine)
        self._pending = self._writer.submit(self._write, snapshot, state, list(records))

    def finish(self) -> None:
        """Wait until the last checkpoint lies there. Every rank must call.

        Raises:
            TrainingError: a rank could not write.
        """
        self._wait()
        failures = add_over_ranks({"failed": torch.tensor(float(self.failed))})
        if failures["failed"] > 0:
            self.raise_failure()

    def raise_failure(self) -> None:
        """Say why this rank, or another one, could not write a checkpoint."""
        cause = self._pending.exception() if self._pending is not None and self.failed else None
        problem = f"a checkpoint could not be written: {cause or 'see the log of the other workers'}"
        raise TrainingError(
            str(self._root), "", problem,
            "free disk space or repair the folder, then start again: the last whole checkpoint is intact",
        ) from cause  # fmt: skip

    def newest(self) -> Restored | None:
        """Find the newest whole checkpoint. Every rank must call, and all get the same.

        Raises:
            TrainingError: another version wrote it.
        """
        found, torn = "", [""]
        if self._rank == 0:
            folder, torn = self._newest_whole()
            found = str(folder or "")
        found, *torn = from_rank_zero("\n".join([found, *torn])).split("\n")
        if not found:
            return None
        folder = Path(found)
        return Restored(folder, read_state(folder), read_json(folder / RECORDS_FILE), torn)

    def _newest_whole(self) -> tuple[Path | None, list[str]]:
        """Find the newest without fault; put newer ones aside, where they crowd out no whole one."""
        torn: list[str] = []
        for folder in sorted(self._root.glob("step-*"), reverse=True):
            fault = fault_of(folder)
            if fault is None:
                return folder, torn
            _log.warning("checkpoint %s is skipped: %s", folder, fault)
            torn.append(f"{folder.name}: {fault}")
            aside = folder.with_name(f"torn-{folder.name}-{self._token or secrets.token_hex(4)}")
            folder.rename(aside)
        return None, torn

    def _wait(self) -> None:
        if self._pending is not None and not self._pending.done():
            # The failure stays with the future; the loop looks at ``failed``.
            self._pending.exception()

    def _write(self, snapshot: Snapshot, state: LoopState, records: Sequence[Mapping[str, Any]]) -> None:
        name = f"step-{state.step:08d}"
        partial = self._root / f".{name}.{self._token}.partial"
        try:
            partial.mkdir(parents=True, exist_ok=True)
            write_rank(partial, self._rank, snapshot)
            if self._rank == 0:
                self._wait_for_ranks(partial)
                seal(partial, state, records)
                self._put_in_place(partial, self._root / name)
        except BaseException:
            _log.exception("checkpoint %s could not be written", name)
            if self._rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _wait_for_ranks(self, partial: Path) -> None:
        deadline = time.monotonic() + _OTHER_RANKS_SECONDS
        while written_ranks(partial) < self._ranks:
            if time.monotonic() > deadline:
                raise TimeoutError(f"only {written_ranks(partial)} of {self._ranks} workers wrote their part")
            time.sleep(_POLL_SECONDS)

    def _put_in_place(self, partial: Path, final: Path) -> None:
        # A step that is done again after a fault replaces its checkpoint, never leaving none.
        before = final.with_name(f".{final.name}.{self._token}.before")
        if final.exists():
            final.rename(before)
        partial.rename(final)
        shutil.rmtree(before, ignore_errors=True)
        self._drop_old()

    def _drop_old(self) -> None:
        folders = sorted(self._root.glob("step-*"))
        scored = [(score, folder.name) for folder in folders if (score := score_of(folder)) is not None]
        best = sorted(scored, reverse=True)[: self._keep_best]
        stay = {folder.name for folder in folders[-self._keep :]} | {name for _, name in best}
        for folder in folders:
            if folder.name not in stay:
                shutil.rmtree(folder, ignore_errors=True)
