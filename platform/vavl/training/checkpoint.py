"""Checkpoints that are complete or do not count: written beside, summed up, renamed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from vavl.config.base import FrozenConfig
from vavl.config.files import make_folder, read_json, sha256_of_file, write_json
from vavl.errors import TrainingError, VavlError
from vavl.objectives.pseudo_label import ConfidenceState
from vavl.training.collectives import from_rank_zero, rank_and_world_size, wait_for_all

_log = logging.getLogger(__name__)

CHECKPOINTS_FOLDER = "checkpoints"
_LOOP_FILE = "loop.json"
_MANIFEST_FILE = "manifest.json"


class LoopState(FrozenConfig):
    """Where a run stands after an epoch; everything else follows from seed and step."""

    config_hash: str
    store_hash: str
    workers: int
    zero_stage: int
    step: int = 0
    epoch: int = 0
    best_epoch: int = -1
    best_score: float | None = None
    epochs_without_gain: int = 0
    trained_clips: int = 0
    trained_seconds: float = 0.0
    confidence: ConfidenceState | None = None


class Kept(Protocol):
    """What a checkpoint keeps beside the loop's state. Both are collective."""

    def save(self, folder: Path) -> None:
        """Write into ``folder``."""

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote."""


class CheckpointFolder:
    """The checkpoints of one run: ``<root>/step-00000120`` holds all ranks' shards.

    Args:
        root: folder that every rank can write.
        keep: how many of the newest stay.
    """

    def __init__(self, root: Path, keep: int) -> None:
        self._root = root
        self._keep = keep

    def save(self, kept: Mapping[str, Kept], state: LoopState) -> None:
        """Write a checkpoint with one folder for each of ``kept``. Every rank must call."""
        final = self._root / f"step-{state.step:08d}"
        partial = self._root / f".{final.name}.partial"
        rank, _ = rank_and_world_size()
        if rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            make_folder(partial)
        wait_for_all()
        for name, part in kept.items():
            part.save(partial / name)
        wait_for_all()
        if rank == 0:
            write_json(partial / _LOOP_FILE, state.model_dump(mode="json"))
            write_json(partial / _MANIFEST_FILE, _sums(partial))
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            self._drop_old()
        wait_for_all()

    def resume(self, kept: Mapping[str, Kept], fresh: LoopState) -> LoopState | None:
        """Load the newest complete checkpoint. Every rank must call.

        Args:
            kept: what ``save`` was given; each part reads its folder.
            fresh: state of a new run; configuration, features, workers and stage must be the same.

        Returns:
            Its state, or None when there is none.

        Raises:
            TrainingError: the checkpoint belongs to another configuration, store or set of workers.
        """
        rank, _ = rank_and_world_size()
        found = from_rank_zero(str(self._newest_complete() or "") if rank == 0 else "")
        if not found:
            return None
        folder = Path(found)
        state = LoopState.model_validate(read_json(folder / _LOOP_FILE))
        for name in ("config_hash", "store_hash", "workers", "zero_stage"):
            before, now = getattr(state, name), getattr(fresh, name)
            if before != now:
                raise TrainingError(
                    found, name, f"the checkpoint has {before}, this run {now}",
                    "go back to the earlier setting, or set training.resume=never to start anew",
                )  # fmt: skip
        for name, part in kept.items():
            part.load(folder / name)
        _log.info("resumed from %s at step %d", folder.name, state.step)
        return state

    def _newest_complete(self) -> Path | None:
        for folder in sorted(self._root.glob("step-*"), reverse=True):
            fault = _fault(folder)
            if fault is None:
                return folder
            _log.warning("checkpoint %s is skipped: %s", folder, fault)
        return None

    def _drop_old(self) -> None:
        for folder in sorted(self._root.glob("step-*"))[: -self._keep]:
            shutil.rmtree(folder, ignore_errors=True)


def _sums(folder: Path) -> dict[str, dict[str, int | str]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
        for path in files
    }


def _fault(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint; engines' own files hold pickles, so nothing is loaded before."""
    try:
        expected = read_json(folder / _MANIFEST_FILE)
    except VavlError as fault:
        return fault.problem
    found = _sums(folder)
    found.pop(_MANIFEST_FILE, None)
    if found.keys() != expected.keys():
        return f"files differ from the manifest: {sorted(found.keys() ^ expected.keys())}"
    torn = sorted(name for name in expected if found[name] != expected[name])
    return f"checksums differ: {torn}" if torn else None
