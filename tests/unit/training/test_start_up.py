"""What keeps the time from the command to the first step short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from vavl.training.ray_controller import RecordSink
from vavl.training.shards import unsharded_masters

from vavl.training.engine import DeepSpeedEngine
from vavl.training.process_memory import RUN_MEMORY
from vavl.training.settings import TrainingSettings

ROOT = Path(__file__).parents[3]
IMPORT_DEEPSPEED = """
from vavl.training.engine import _import_deepspeed
from vavl.training.settings import TrainingSettings
_import_deepspeed(TrainingSettings())
"""
HEAVY = ("torch", "deepspeed", "mlflow", "sklearn", "matplotlib")


def imported_by(code: str) -> set[str]:
    """Return the heavy packages that a fresh process has imported after some code."""
    story = f"{code}\nimport json, sys\nprint(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", story], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": "platform:jobs", "DS_ACCELERATOR": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("code", "needed"),
    [
        ("import train_model", set()),  # Ray starts before anything heavy is read
        ("import vavl.training.ray_controller", set()),
        ("import vavl.tracking.journal_sink", set()),  # what the controller gets as sink
        ("import vavl.training.launch", {"torch"}),
        (IMPORT_DEEPSPEED, {"torch", "deepspeed"}),
    ],
)
def test_a_process_imports_no_more_than_it_needs_before_the_first_step(code, needed):
    assert imported_by(code) == needed


def test_mlflow_can_be_imported_after_deepspeed():
    assert "mlflow" in imported_by(f"{IMPORT_DEEPSPEED}import mlflow")


def test_building_deepspeed_in_bf16_takes_no_step():
    """AdamW has no state yet, its masters are the weights, and its own step is in place again."""
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    settings = TrainingSettings(precision="bf16", engine="deepspeed", zero_stage=0)
    engine = DeepSpeedEngine(network, settings, rows_per_slot=1)
    inner = engine._engine.optimizer.optimizer
    assert not inner.state
    assert engine.optimizer_steps == 0
    for parameter in engine.network.parameters():
        torch.testing.assert_close(
            unsharded_masters(engine._engine.optimizer)[id(parameter)].detach(),
            parameter.detach().float(),
            rtol=0,
            atol=0,
        )
    assert "step" not in vars(inner)
    engine.backward(engine.network(torch.ones(1, 3, dtype=torch.bfloat16)).sum())
    engine.step(learning_rate=0.1)
    assert engine.optimizer_steps == 1


def test_the_controller_hands_records_on_with_the_memory_of_all_processes():
    seen = []
    records = [{"kind": "step", "metrics": {"a": 1.0}}, {"kind": "epoch", "metrics": {"b": 2.0}}]
    of_ranks = [
        {"records": json.dumps(records), "memory_bytes": 2**30},
        {"records": "[]", "memory_bytes": 2**30},
    ]
    RecordSink(seen.extend).after_report(None, of_ranks, None)
    assert seen[0] == records[0]
    assert seen[1]["metrics"]["b"] == 2.0
    assert 2.0 < seen[1]["metrics"][RUN_MEMORY] < 12.0


def test_a_sink_that_fails_does_not_end_the_run(caplog):
    def fail(records):
        raise OSError("disk")

    RecordSink(fail).after_report(None, [{"records": "[]", "memory_bytes": 1}], None)
    assert "training goes on" in caplog.text
