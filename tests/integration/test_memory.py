"""Training reads its features in place: private memory does not grow with the corpus."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Runs in a process of its own, so that nothing else counts. Writing is vectorised and done in yet another process.
WRITE = """
import json, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from vavl.corpora.manifest import Manifest
from vavl.features import ModalityInfo
from vavl.store.shards import features_column, row_schema
from vavl.store.store_writer import StoreWriter

folder, clips = Path(sys.argv[1]), int(sys.argv[2])
FRAMES, WIDTH, BATCH, SPEAKERS = 12, 16, 1000, 20
generator = np.random.default_rng(0)
numbers = np.arange(clips)
ids = pa.array([f"clip_{number:07d}" for number in numbers])
speaker = pa.array([f"s{number % SPEAKERS:02d}" for number in numbers])

def batches():
    for start in range(0, clips, BATCH):
        rows = min(BATCH, clips - start)
        values = generator.normal(size=rows * FRAMES * WIDTH).astype(np.float32)
        ends = pa.array(np.arange(rows + 1) * FRAMES, pa.int32())
        times = np.tile(np.arange(FRAMES, dtype=np.float32), rows)
        yield pa.RecordBatch.from_arrays([
            ids[start:start + rows], pa.array(["big"] * rows), speaker[start:start + rows],
            features_column(values, [FRAMES] * rows, WIDTH), pa.ListArray.from_arrays(ends, pa.array(times)),
        ], schema=row_schema(WIDTH))

writer = StoreWriter(folder, "big", "0" * 16)
for modality in ("audio", "video"):
    writer.write_modality(modality, ModalityInfo("synthetic", "1", {}, 10.0, WIDTH), batches())
writer.finish({"clips": clips})
split = np.array(["train"] * 14 + ["validation"] * 3 + ["test"] * 3)[numbers % SPEAKERS]
# Few validation clips in both stores: predictions of a split are private memory by their nature.
split[(split != "train") & (numbers >= 5000)] = "none"
label = np.array(["a", "b", "c"])[generator.integers(3, size=clips)]
metadata = {"corpus": "big", "classes": ["a", "b", "c"], "target": "t", "protocol": "p", "folds": [0]}
metadata |= {"card_hash": "0", "clips": clips}
columns = {"clip_id": ids, "corpus": pa.array(["big"] * clips), "speaker": speaker, "label": label}
table = pa.table(columns | {"split_0": split})
Manifest(table.replace_schema_metadata({b"vavl": json.dumps(metadata).encode()})).write(folder)
"""

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
        store = tmp_path / f"store_{clips}"
        run(WRITE, str(store), str(clips))
        found[clips] = int(run(TRAIN, str(store), str(tmp_path / f"run_{clips}")).split()[-1])
    print(f"private memory in KiB by clips: {found}")
    assert found[MANY] < 1.06 * found[FEW]


def run(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
