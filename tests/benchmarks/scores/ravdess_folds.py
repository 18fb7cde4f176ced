"""Accuracy on RAVDESS over its published folds and several seeds, with intervals over speakers.

    RAVDESS_ROOT=/folder/of/ravdess python tests/benchmarks/scores/ravdess_folds.py [--seeds 2] [dotted.key=value ...]

Trains jobs/configs/ravdess.yaml once per fold and seed (in one process each, several at a time), measures
the test split of each once, prints a table and writes runs/bench/ravdess_folds.json. A training that is
there already is not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from vavl.config.files import read_json, write_json
from vavl.config.load import read_config
from vavl.data.manifest import Manifest
from vavl.job_config import TrainModelJob
from vavl.metrics.intervals import nested_interval
from vavl.metrics.names import CONDITIONS

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "jobs" / "configs" / "ravdess.yaml"
SINGLE = (
    "training.launcher=in_process",
    "training.engine=torch",
    "training.workers=1",
    "training.zero_stage=0",
)


def main() -> int:
    """Train, collect, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="dotted.key=value")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="trainings side by side")
    parser.add_argument(
        "--name", default="ravdess_folds", help="of the folder of the runs and of the JSON file"
    )
    words = parser.parse_args()
    job = read_config(TrainModelJob, CONFIG, words.overrides)
    runs = list(itertools.product(Manifest.read(job.data.store).folds, range(words.seeds)))
    folder = ROOT / "runs" / words.name
    with ThreadPoolExecutor(words.at_once) as pool:
        list(pool.map(lambda run: train(folder, run, words.overrides), runs))
    table = pd.concat([accuracies(folder, *run) for run in runs])
    result = summarise(table)
    print(f"RAVDESS, {job.data.target}, folds x seeds: {len(runs)}, overrides: {words.overrides or 'none'}")
    for condition, row in result.items():
        folds = "  ".join(f"fold {fold}: {value:.1f}" for fold, value in row["folds"].items())
        low, high = row["interval"]
        print(f"{condition:<12} {row['mean']:.1f} % [{low:.1f}, {high:.1f}]   {folds}")
    write_json(
        ROOT / "runs" / "bench" / f"{words.name}.json", {"overrides": words.overrides, "accuracy": result}
    )
    return 0


def train(folder: Path, run: tuple[int, int], overrides: list[str]) -> None:
    """Train one fold and seed in a process of its own, unless its summary is there."""
    output = folder / f"fold_{run[0]}_seed_{run[1]}"
    if (output / "summary.json").exists():
        return
    output.mkdir(parents=True, exist_ok=True)
    words = [
        f"output_dir={output}", f"data.fold={run[0]}", f"training.seed={run[1]}", "evaluation.test=true",
        "tracking.model_name=null", f"tracking.uri=sqlite:///{output}/mlflow.db", "tracking.system_metrics=false",
    ]  # fmt: skip
    with (output.parent / f"{output.name}.log").open("w") as log:
        command = [
            sys.executable,
            str(ROOT / "jobs" / "train_model.py"),
            str(CONFIG),
            *SINGLE,
            *overrides,
            *words,
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=log, stderr=log, cwd=ROOT, env=environment)
    metrics = read_json(output / "summary.json")["metrics"]
    scores = {condition: round(100 * metrics[f"test/{condition}/accuracy"], 1) for condition in CONDITIONS}
    print(f"fold {run[0]} seed {run[1]}: {json.dumps(scores)}", flush=True)


def accuracies(folder: Path, fold: int, seed: int) -> pd.DataFrame:
    """Return the accuracy of each test speaker under each condition, in percent."""
    rows = pd.read_parquet(folder / f"fold_{fold}_seed_{seed}" / "predictions" / "test.parquet")
    target = rows.filter(like="target_").to_numpy().argmax(axis=1)
    rows["right"] = 100.0 * (target == rows.filter(like="predicted_").to_numpy().argmax(axis=1))
    means = rows.groupby(["condition", "speaker"], as_index=False)["right"].mean()
    return means.assign(fold=fold, seed=seed)


def summarise(table: pd.DataFrame) -> dict[str, dict[str, object]]:
    """Return by condition: mean over folds and seeds, its 95 % interval, and the mean of each fold."""
    found: dict[str, dict[str, object]] = {}
    for condition in CONDITIONS:
        rows = table[table["condition"] == condition]
        scores = rows.pivot_table(index="speaker", columns="seed", values="right").to_numpy()
        by_fold = rows.groupby("fold")["right"].mean()
        found[condition] = {
            "mean": float(by_fold.mean()),
            "interval": nested_interval(scores, np.random.default_rng(0)),
            "folds": {int(fold): float(value) for fold, value in by_fold.items()},
        }
    return found


if __name__ == "__main__":
    raise SystemExit(main())
