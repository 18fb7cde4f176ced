"""Where the host reads numbers off a device: each of these waits until the device has done all that it was asked to."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# A method of its own on a CPU, where it shows up as no operator.
_METHODS = {torch.Tensor.tolist: "tolist", torch.Tensor.numpy: "numpy", torch.Tensor.cpu: "cpu"}
_OPERATORS = {
    "_local_scalar_dense": "item", "nonzero": "nonzero", "masked_select": "masked_select",
    # torch.tensor: on a GPU a copy from memory that is not pinned, which is waited for.
    "lift_fresh": "tensor",
}  # fmt: skip
_SYNCHRONISING = "called a synchronizing CUDA operation"


class HostReads:
    """Notes what the code within the context reads of tensors, or makes of numbers of the host, on any device.

    Attributes:
        found: what and where, in order, e.g. ``item at step.py:104``.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self._modes = (_Methods(self._note), _Operators(self._note))

    def __enter__(self) -> HostReads:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(kind, fault, trace)

    def _note(self, what: str) -> None:
        frame = sys._getframe(1)
        while frame.f_back is not None and _is_inside(Path(frame.f_code.co_filename)):
            frame = frame.f_back
        self.found.append(f"{what} at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}")


def synchronisations(work: Callable[[], object], device: torch.device) -> list[str]:
    """Run ``work``; return where the host waited for the device, e.g. ``wait at step.py:104``.

    On a CPU, which has nothing to wait for, every place that reads a number, even one that lies on the host on a GPU
    as well, such as the count of steps of an optimizer that is not fused.
    """
    if device.type != "cuda":
        with HostReads() as reads:
            work()
        return reads.found
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"wait at {Path(one.filename).name}:{one.lineno}" for one in caught if _SYNCHRONISING in str(one.message)]


class _Methods(TorchFunctionMode):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._report = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _METHODS:
            self._report(_METHODS[func])
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._report = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _OPERATORS:
            self._report(_OPERATORS[name])
        elif name in ("index", "index_put", "index_put_") and any(_is_mask(one) for one in args[1]):
            self._report("mask")  # the places of its ones are looked up first
        return func(*args, **(kwargs or {}))


def _is_mask(index: torch.Tensor | None) -> bool:
    return index is not None and index.dtype == torch.bool


def _is_inside(file: Path) -> bool:
    return file == Path(__file__) or "torch" in file.parts
