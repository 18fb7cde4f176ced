"""Training reads its features in place: private memory does not grow with the corpus."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_process import run_program
from synthetic_store import write_synthetic_store

# Runs in a process of its own, so that nothing else counts.
TRAIN = """
import sys
from pathlib import Path
from vavl.training.settings import TrainingPlan
from vavl.training.worker import train_on_worker

plan = TrainingPlan.model_validate({
    "output_dir": sys.argv[2], "data": {"store": sys.argv[1], "composition": {"batch_size": 64}},
    "model": {"preset": "small", "width": 16, "modality_blocks": 1, "attention_heads": 2},
    "training": {"launcher": "in_process", "engine": "torch", "max_steps": 40, "max_epochs": 1},
})
train_on_worker(plan, lambda records: None)
status = Path("/proc/self/status").read_text()
print("RssAnon", next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))
"""

FEW, MANY = 5_000, 120_000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="private memory is read from Linux' /proc")
def test_private_memory_of_training_does_not_grow_with_the_store(tmp_path: Path) -> None:
    found = {}
    for clips in FEW, MANY:
        # Few validation clips in both stores: predictions of a split are private memory by their nature.
        store = write_synthetic_store(tmp_path / f"store_{clips}", clips, speakers=20, split_clips=FEW)
        found[clips] = int(run_program("-c", TRAIN, store, tmp_path / f"run_{clips}").split()[-1])
    print(f"private memory in KiB by clips: {found}")
    assert found[MANY] < 1.06 * found[FEW]
