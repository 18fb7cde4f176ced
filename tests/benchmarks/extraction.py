"""How fast and with how much memory features are extracted: python tests/benchmarks/extraction.py

Log-mel spectra of RAVDESS (RAVDESS_ROOT) with its table of action units, into a new store each time, by this process
alone and by workers of Ray. Seconds are those of the whole job, the start of Ray included; the rate is that between
the first finished part and the last. Memory is the peak of the private pages (RssAnon) of the job and of its
largest worker, looked at every 50 ms: the pages of a store that is mapped belong to nobody.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "platform"))

CASES = [(100, 0), (1140, 0), (100, 1), (1140, 1), (1140, 2)]
_MB = 2**20


def extract(clips: int, workers: int, folder: Path) -> dict[str, Any]:
    """Extract the first clips of RAVDESS and return what was measured inside."""
    from vavl.corpora.card import read_card
    from vavl.corpora.manifest import Manifest, build_manifest
    from vavl.extraction import extract as pipeline
    from vavl.extraction.plan import plan_extraction
    from vavl.extraction.settings import ExtractionRun, FeatureSettings

    finished: list[tuple[float, int]] = []

    class Clock(pipeline.Progress):
        def advance(self, count: int = 1, note: str | None = None) -> None:
            finished.append((time.monotonic(), count))
            super().advance(count, note)

    pipeline.Progress = Clock  # type: ignore[misc]
    start = time.monotonic()
    card = read_card(ROOT / "datasets/ravdess.yaml")
    manifest = build_manifest(card, None)
    some = Manifest(manifest.table.slice(0, clips))
    plan = replace(plan_extraction(card, manifest, None, FeatureSettings(), folder), manifest=some)
    done = pipeline.extract_features(plan, ExtractionRun(workers=workers))
    seconds = time.monotonic() - start
    assert done.added == 2 * clips
    # The rows of the table, which come last, take no time: only the sound counts.
    sounds = finished[: len(plan.layout["audio"])]
    rate = sum(count for _, count in sounds[1:]) / max(sounds[-1][0] - sounds[0][0], 1e-6)
    return {
        "seconds": round(seconds, 1),
        "clips_per_second": round(rate, 1),
        "first_part_after_s": round(sounds[0][0] - start, 1),
        "store_hash": done.store.hash,
    }


def private_mb(pid: int) -> float:
    """Return the private memory of a process; 0 while it ends."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / _MB
    return 0.0


class Watch(threading.Thread):
    """Notes the peak memory of a process and of its workers until it ends."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.job_mb, self.worker_mb = pid, 0.0, 0.0

    def run(self) -> None:
        with suppress(psutil.Error, OSError):
            job = psutil.Process(self.pid)
            while job.is_running():
                self.job_mb = max(self.job_mb, private_mb(job.pid))
                for child in job.children(recursive=True):
                    with suppress(psutil.Error, IndexError, OSError):
                        if child.cmdline()[0].startswith("ray::MapWorker"):
                            self.worker_mb = max(self.worker_mb, private_mb(child.pid))
                time.sleep(0.05)


def measured(clips: int, workers: int) -> dict[str, Any]:
    """Run one case in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        job = subprocess.Popen(
            [sys.executable, __file__, str(clips), str(workers), folder], stdout=subprocess.PIPE, text=True
        )
        watch = Watch(job.pid)
        watch.start()
        text = job.communicate()[0]
        if job.returncode:
            raise SystemExit(f"{clips} clips with {workers} workers failed")
    memory = {"job_peak_mb": round(watch.job_mb), "worker_peak_mb": round(watch.worker_mb)}
    return {"clips": clips, "workers": workers, **json.loads(text.splitlines()[-1]), **memory}


def main() -> int:
    """Measure every case, print the table, write the JSON; returns 1 if memory grows with the clips."""
    if not os.environ.get("RAVDESS_ROOT"):
        print("RAVDESS_ROOT is not set: nothing is measured")
        return 0
    print("clips  workers  seconds  clips/s  first part  job MB  worker MB", flush=True)
    rows = []
    for clips, workers in CASES:
        row = measured(clips, workers)
        rows.append(row)
        print(
            f"{clips:5}  {workers:7}  {row['seconds']:7}  {row['clips_per_second']:7}  "
            f"{row['first_part_after_s']:8} s  {row['job_peak_mb']:6}  {row['worker_peak_mb']:9}",
            flush=True,
        )
    by_case = {(row["clips"], row["workers"]): row for row in rows}
    growth = {
        "job_alone_mb": by_case[1140, 0]["job_peak_mb"] - by_case[100, 0]["job_peak_mb"],
        "job_with_ray_mb": by_case[1140, 1]["job_peak_mb"] - by_case[100, 1]["job_peak_mb"],
        "worker_mb": by_case[1140, 1]["worker_peak_mb"] - by_case[100, 1]["worker_peak_mb"],
    }
    is_same = len({row["store_hash"] for row in rows if row["clips"] == 1140}) == 1
    is_flat = max(growth.values()) < 50
    print(f"memory from 100 to 1,140 clips: {growth}; the stores are {'the same' if is_same else 'NOT the same'}")
    path = ROOT / "runs/bench/extraction.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cases": rows, "growth": growth, "same_store": is_same}, indent=2) + "\n")
    return 0 if is_same and is_flat else 1


if __name__ == "__main__":
    if len(sys.argv) == 4:
        logging.basicConfig(level=logging.WARNING)
        print(json.dumps(extract(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
        raise SystemExit(0)
    raise SystemExit(main())
