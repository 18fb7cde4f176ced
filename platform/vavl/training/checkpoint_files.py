"""The files of one checkpoint: rank files of tensors, the loop's state, and a manifest over all of them.

    step-00000120/
        loop.json                 LoopState
        records.json              what was reported since the checkpoint before
        rank-000.safetensors ...  pieces of weights and optimizer state, float32
        rank-000.json ...         size and checksum of the rank's file
        average.safetensors       averaged weights, where they are kept
        manifest.json             size and checksum of every file; written last

Nothing in it is a pickle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vavl.config.files import read_json, sha256_of_file, write_json
from vavl.errors import TrainingError, VavlError
from vavl.training.shards import WEIGHT, Piece
from vavl.training.state import LoopState

LOOP_FILE = "loop.json"
RECORDS_FILE = "records.json"
AVERAGE_FILE = "average.safetensors"
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Snapshot:
    """What a rank writes, copied off the engine so that training can go on.

    Attributes:
        tensors: by ``<kind>/<parameter>``.
        starts: first element of each parameter's piece.
        optimizer_steps: updates done.
        average: averaged weights; rank 0 only.
    """

    tensors: Mapping[str, Tensor]
    starts: Mapping[str, int]
    optimizer_steps: int
    average: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, pieces: Sequence[Piece], optimizer_steps: int, average: Mapping[str, Tensor]) -> Snapshot:
        """Copy the pieces to main memory."""
        tensors = {
            f"{kind}/{piece.name}": view.detach().to("cpu", torch.float32, copy=True)
            for piece in pieces
            for kind, view in piece.values.items()
        }
        starts = {piece.name: piece.start for piece in pieces}
        return cls(tensors, starts, optimizer_steps, average)


def write_rank(folder: Path, rank: int, snapshot: Snapshot) -> None:
    """Write a rank's tensors, then the small file that says that they are whole."""
    path = folder / f"rank-{rank:03d}.safetensors"
    metadata = {
        "starts": json.dumps(dict(snapshot.starts)),
        "optimizer_steps": str(snapshot.optimizer_steps),
    }
    save_file(dict(snapshot.tensors), path, metadata)
    if snapshot.average:
        save_file(dict(snapshot.average), folder / AVERAGE_FILE)
    write_json(folder / f"rank-{rank:03d}.json", {path.name: _sum_of(path)})


def written_ranks(folder: Path) -> int:
    """Count the ranks whose file is whole."""
    return len(list(folder.glob("rank-*.json")))


def seal(folder: Path, state: LoopState, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the state and the manifest, and hand every file to the disk."""
    write_json(folder / LOOP_FILE, state.model_dump(mode="json"))
    write_json(folder / RECORDS_FILE, list(records))
    known: dict[str, Any] = {}
    for path in sorted(folder.glob("rank-*.json")):
        known |= read_json(path)
    sums = {
        path.name: known.get(path.name) or _sum_of(path)
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
    write_json(folder / MANIFEST_FILE, sums)
    for path in (*folder.iterdir(), folder):
        _sync(path)


def fault_of(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint, None if it is whole."""
    try:
        expected = read_json(folder / MANIFEST_FILE)
    except VavlError as fault:
        return fault.problem
    found = {path.name: path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE}
    if found.keys() != expected.keys():
        return f"files differ from the manifest: {sorted(found.keys() ^ expected.keys())}"
    torn = sorted(name for name, entry in expected.items() if _sum_of(found[name]) != entry)
    return f"checksums differ: {torn}" if torn else None


def read_state(folder: Path) -> LoopState:
    """Read the loop's state.

    Raises:
        TrainingError: another version of the platform wrote it.
    """
    try:
        return LoopState.model_validate(read_json(folder / LOOP_FILE))
    except ValidationError as fault:
        wrong = ", ".join(".".join(map(str, entry["loc"])) for entry in fault.errors())
        raise TrainingError(
            str(folder), LOOP_FILE, f"was written by another version; fields that differ: {wrong}",
            "set training.resume=never to start anew, or go on with the version that wrote it",
        ) from None  # fmt: skip


def score_of(folder: Path) -> float | None:
    """Return the validation score of a checkpoint; None within an epoch, or where it cannot be read."""
    try:
        return read_state(folder).score
    except VavlError:
        return None


class CheckpointValues:
    """The whole weights and optimizer state of a checkpoint, put together from its ranks' pieces.

    Args:
        folder: of a checkpoint without fault.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = ExitStack()
        self._files: list[tuple[Any, dict[str, int]]] = []
        self.optimizer_steps = 0
        for path in sorted(folder.glob("rank-*.safetensors")):
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
            (starts[name], file.get_tensor(f"{kind}/{name}"))
            for file, starts in self._files
            if name in starts
        ]
        found.sort(key=lambda one: one[0])
        end = 0
        for start, piece in found:
            if start != end and piece.numel():
                break
            end += piece.numel()
        else:
            if found:
                return torch.cat([piece for _, piece in found])
        raise TrainingError(
            str(self._folder), f"{kind}/{name}", f"is whole only up to element {end}",
            "the checkpoint belongs to another network: set training.resume=never to start anew",
        )  # fmt: skip

    def weights(self, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Return all trained weights in the shapes of the network."""
        try:
            return {name: self.whole(name, WEIGHT).view(shapes[name]) for name in self.names()}
        except (KeyError, RuntimeError, SafetensorError) as fault:
            raise TrainingError(
                str(self._folder), "weights", f"do not fit this network: {fault}",
                "set training.resume=never to start anew",
            ) from None  # fmt: skip

    def close(self) -> None:
        """Close the files."""
        self._open.close()


def _sum_of(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
