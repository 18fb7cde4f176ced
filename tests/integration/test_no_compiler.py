"""DeepSpeed trains on a machine without compiler and ninja."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_plans import tiny_plan

PROGRAM = """
import logging, sys
from pathlib import Path
from vavl.config.files import read_json
from vavl.training.settings import TrainingPlan
from vavl.training.worker import train_on_worker

logging.basicConfig(level=logging.INFO)
train_on_worker(TrainingPlan.model_validate(read_json(Path(sys.argv[1]))), print)
"""


def test_training_with_deepspeed_needs_no_compiler(
    small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path: Path
) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in {"CC", "CXX"}}
    environment |= {"PATH": str(empty), "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    assert shutil.which("gcc", path=environment["PATH"]) is None
    plan = tiny_plan(
        tmp_path / "run", small_store(small_corpus()), training={"engine": "deepspeed", "zero_stage": 2, "max_steps": 3}
    )
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    words = [sys.executable, "-c", PROGRAM, tmp_path / "plan.json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "shared-memory operation is off" in done.stderr
    assert (tmp_path / "run" / "outcome.json").exists()
    assert not list(tmp_path.glob("extensions/**/*.so"))
