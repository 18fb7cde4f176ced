"""A training run on torch's meta device: it knows no numbers, and refuses tensors that were made elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from vavl.training import step as step_module
from vavl.training.run import TrainingRun

META = torch.device("meta")


@contextmanager
def on_meta(run: TrainingRun) -> Iterator[tuple[TrainingRun, dict[str, torch.Tensor]]]:
    """Move a prepared run of torch's engine; yield it and what a step copies to the host, where every number is 1."""
    seen: dict[str, torch.Tensor] = {}
    network = run.engine.network
    if run.average is not None:
        run.average.network().to(META)
        run.average._held = {name: one.to(META) for name, one in run.average._held.items()}
    network.to(META)
    run.engine.device = META
    optimizer: Any = vars(run.engine)["_optimizer"]
    optimizer.param_groups[0]["params"] = [one for one in network.parameters() if one.requires_grad]
    if run.labels is not None:
        labels = {name: one.to(META) for name, one in vars(run.labels).items()}
        run = replace(run, labels=replace(run.labels, **labels))

    def stand_in(groups: Any) -> Any:
        seen.update({f"{group}/{name}": one for group, named in groups.items() for name, one in named.items()})
        return {group: {name: [1.0] * one.numel() for name, one in named.items()} for group, named in groups.items()}

    with (
        patch.object(step_module, "_on_host", stand_in),
        # torch knows no autocast for it, and refuses its fused kernels although it has them.
        patch.object(torch, "autocast", lambda *_, **__: nullcontext()),
        patch.object(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda *_, **__: None),
    ):
        yield run, seen
