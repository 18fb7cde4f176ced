"""The files of one checkpoint, in a directory or in object storage.

    checkpoints/<attempt>/step-00000120/
        rank-000.safetensors ...  weights and optimizer state, float32: some parameters each, or what ZeRO gave the rank
        rank-000.json ...         size and checksum of the rank's files; written after them
        average.safetensors       averaged weights, where they are kept
        loop.json                 LoopState
        records.json              what was reported since the checkpoint before

It counts once the files of all ranks are there with the right checksums, whoever of them comes last. Nothing in it is
a pickle. Version 0.1 wrote flat shards, ``manifest.json`` and no attempt; such checkpoints are read as well.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vavl.config.base import FrozenConfig
from vavl.config.files import read_json, sha256_of_file, write_json
from vavl.errors import TrainingError, VavlError
from vavl.store.checked_files import again
from vavl.training.storage import RunStorage

LOOP_FILE = "loop.json"
RECORDS_FILE = "records.json"
AVERAGE_FILE = "average.safetensors"
_FORMER_MANIFEST = "manifest.json"
WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = (WEIGHT, *MOMENTS)


class LoopState(FrozenConfig):
    """Where a run stands after a step; batches, views and draws follow from seed and step.

    Attributes:
        config_hash: of the settings that decide the result.
        store_hash: of the features.
        workers: that wrote the state; any number may resume.
        zero_stage: that wrote the state; any stage may resume.
        step: steps done.
        epoch: epochs done.
        best_epoch: with the best validation score so far, -1 before the first.
        best_score: of that epoch.
        score: of the epoch that ended with this step, None within an epoch.
        epochs_without_gain: for early stopping.
        trained_clips: so far.
        trained_seconds: in steps so far, over all attempts.
        teacher_mean: running mean of what the teacher predicts, which aligns soft labels; None without pseudo-labels.
        skipped: steps whose loss or gradient was not finite; they changed nothing.
    """

    config_hash: str
    store_hash: str
    workers: int
    zero_stage: int
    step: int = 0
    epoch: int = 0
    best_epoch: int = -1
    best_score: float | None = None
    score: float | None = None
    epochs_without_gain: int = 0
    trained_clips: int = 0
    trained_seconds: float = 0.0
    teacher_mean: tuple[float, ...] | None = None
    skipped: tuple[int, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _without_former(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Drop what earlier checkpoints hold of jumps of the loss and of adaptive thresholds."""
        return {name: value for name, value in content.items() if name not in ("avoided", "losses", "confidence")}


@dataclass(frozen=True)
class Pieces:
    """What one rank keeps of weights and optimizer state, float32 on the CPU."""

    tensors: Mapping[str, Tensor]  # by ``<kind>/<parameter>``: whole parameters, or flat runs of their elements
    starts: Mapping[str, int]  # first element of each parameter's run


@dataclass(frozen=True)
class Snapshot:
    """What one rank writes, copied off the engine so that training can continue."""

    rank: int  # of the process
    ranks: int  # that write
    token: str  # of the attempt; files of different attempts make no checkpoint together
    state: LoopState  # of the loop
    optimizer_steps: int  # updates done
    pieces: Pieces  # weights and optimizer state
    average: Mapping[str, Tensor] = field(default_factory=dict)  # averaged weights; rank 0 only
    records: Sequence[Mapping[str, Any]] = ()  # reported since the last checkpoint

    def write(self, storage: RunStorage) -> None:
        """Write this rank's files; the small one that names them comes last.

        Raises:
            InputError, OSError, SafetensorError: the storage cannot be written.
        """
        stem = f"rank-{self.rank:03d}"
        with storage.scratch() as directory:
            metadata = {"starts": json.dumps(dict(self.pieces.starts)), "optimizer_steps": str(self.optimizer_steps)}
            save_file(dict(self.pieces.tensors), directory / f"{stem}.safetensors", metadata)
            if self.average:
                save_file(dict(self.average), directory / AVERAGE_FILE)
            if self.rank == 0:
                write_json(directory / LOOP_FILE, self.state.model_dump(mode="json"))
                write_json(directory / RECORDS_FILE, list(self.records))
            files = {
                path.name: {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
                for path in sorted(directory.iterdir())
            }
            for name in files:
                storage.put(directory / name, name)
            entry = {"token": self.token, "ranks": self.ranks, "files": files}
            write_json(directory / f"{stem}.json", entry)
            storage.put(directory / f"{stem}.json", f"{stem}.json")


def shares(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """Deal parameters to ranks so that all write about as much.

    Returns:
        The rank of every parameter, the same on all ranks.
    """
    load = [0] * ranks
    dealt = {}
    for name in sorted(sizes, key=lambda one: (-sizes[one], one)):
        rank = load.index(min(load))
        dealt[name] = rank
        load[rank] += sizes[name]
    return dealt


def problem_of(storage: RunStorage, *, by_size: bool = False) -> str | None:
    """Say what is wrong with a checkpoint, None if it is whole.

    ``by_size``: compare sizes alone, for a checkpoint that is fetched and compared afterwards.

    Raises:
        InputError: the storage is away, so nothing is known of the checkpoint.
    """
    try:
        expected = again(storage.address, partial(_expected_files, storage))
    except (VavlError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, VavlError) and storage.is_remote:
            raise
        return getattr(error, "problem", None) or f"an entry of its files cannot be read: {error}"
    if isinstance(expected, str):
        return expected
    found = storage.files()
    wrong = sorted(name for name, entry in expected.items() if found.get(name) != entry["bytes"])
    if wrong:
        return f"files are missing or have another size: {wrong}"
    if not by_size:
        wrong = sorted(name for name, entry in expected.items() if _sum_there(storage, name) != entry["sha256"])
    return f"checksums differ: {wrong}" if wrong else None


def fetched(storage: RunStorage, target: Path) -> Path:
    """Return a directory of this machine that holds the checkpoint: itself, or a copy in ``target``.

    Raises:
        TrainingError: what arrived is not what was written.
    """
    here = storage.local_path("")
    if here is not None:
        return here
    shutil.rmtree(target, ignore_errors=True)
    storage.fetch_tree("", target)
    problem = problem_of(RunStorage(target))
    if problem is not None:
        raise TrainingError(
            storage.address, "", f"changed on its way to {target}: {problem}", "start the same command again"
        )
    return target


def read_state(directory: Path) -> LoopState:
    """Read the loop's state.

    Raises:
        TrainingError: another version of the platform wrote it.
    """
    try:
        return LoopState.model_validate(read_json(directory / LOOP_FILE))
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, entry["loc"])) for entry in error.errors())
        problem = f"was written by another version; fields that differ: {wrong}"
        fix = "set training.resume=never to start anew, or continue with the version that wrote it"
        raise TrainingError(str(directory), LOOP_FILE, problem, fix) from None


class CheckpointValues:
    """The whole weights and optimizer state of a checkpoint; use as a context, which closes the files.

    Tensors are mapped: what is not copied is not read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open = ExitStack()
        self._files: list[tuple[Any, dict[str, int]]] = []
        self.optimizer_steps = 0
        for path in sorted(directory.glob("rank-*.safetensors")):
            file = self._open.enter_context(safe_open(path, "pt"))
            metadata = file.metadata()
            self._files.append((file, json.loads(metadata["starts"])))
            self.optimizer_steps = max(self.optimizer_steps, int(metadata["optimizer_steps"]))

    def names(self) -> list[str]:
        """Return the names of all parameters that were trained."""
        return sorted({name for _, starts in self._files for name in starts})

    def whole(self, name: str, kind: str) -> Tensor:
        """Return one value of a parameter, flat, float32, on the CPU.

        Raises:
            TrainingError: the checkpoint has no such parameter, or not all of it.
        """
        found = [
            (starts[name], file.get_tensor(f"{kind}/{name}").view(-1)) for file, starts in self._files if name in starts
        ]
        found.sort(key=lambda one: one[0])
        end = 0
        for start, piece in found:
            if start != end and piece.numel():
                break
            end += piece.numel()
        else:
            if found:
                return found[0][1] if len(found) == 1 else torch.cat([piece for _, piece in found])
        fix = "set training.resume=never to start anew: the checkpoint belongs to another network"
        raise TrainingError(str(self._directory), f"{kind}/{name}", f"is whole only up to element {end}", fix)

    def weights(self, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Return all trained weights in the shapes of the network."""
        try:
            return {name: self.whole(name, WEIGHT).view(shapes[name]) for name in self.names()}
        except (KeyError, RuntimeError, SafetensorError) as error:
            fix = "set training.resume=never to start anew"
            raise TrainingError(str(self._directory), "weights", f"do not fit this network: {error}", fix) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def _expected_files(storage: RunStorage) -> dict[str, dict[str, Any]] | str:
    """Return what the small files of the ranks name, or what is wrong with them."""
    former = storage.read(_FORMER_MANIFEST)
    if former is not None:
        return dict(json.loads(former))
    first = storage.read("rank-000.json")
    if first is None:
        return "rank 0 did not finish writing"
    entries = [json.loads(first)]
    for rank in range(1, int(entries[0]["ranks"])):
        text = storage.read(f"rank-{rank:03d}.json")
        if text is None:
            return f"rank {rank} did not finish writing"
        entries.append(json.loads(text))
    if len({(entry["token"], entry["ranks"]) for entry in entries}) > 1:
        return "holds files of different attempts"
    return {name: entry for one in entries for name, entry in one["files"].items()}


def _sum_there(storage: RunStorage, name: str) -> str:
    here = storage.local_path(name)
    return sha256_of_file(here) if here is not None else storage.sha256(name)
