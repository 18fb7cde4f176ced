"""Injects real faults into real training runs and compares each run with the undisturbed one: make chaos."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

sys.path.extend(str(path) for path in (Path(__file__).parents[1] / "support").iterdir())

from faults import FaultLog
from forked_ranks import warm_up
from ray_nodes import RayNodes, ray_nodes
from ray_schedule import ray_scenarios
from schedule import Runs, forked_scenarios
from selection import PlannedRun, choose
from table import Teller
from tracking_runs import tracking_scenario

_SMALL_DISK_MIB = 16
_NODES = 2


def main() -> int:
    """Inject the faults; returns 1 if a run was lost or a fault could not be injected."""
    given = _command_line().parse_args()
    signal.signal(signal.SIGTERM, _leave)
    folder: Path = given.output_dir.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    warm_up()
    with small_disk(folder / "small_disk") as disk, ray_nodes() as cluster:
        schedule = whole_schedule(Runs(folder), cluster, disk)
        chosen = choose(schedule, given.faults, given.only, given.runs)
        log = FaultLog(sum(len(run.faults) for run in chosen))
        teller = Teller(log)
        for run in chosen:
            if run.name.startswith("ray") and cluster.head is None:
                start_cluster(cluster, teller.say)
            run.make(run.name, run.faults).play(log, given.seed, teller, given.patience)
            log.write(folder / "summary.json", teller.seconds, given.seed)
    teller.table()
    lost = sum(fault.is_lost for fault in log.faults)
    print(f"{len(log.faults)} faults injected, {lost} lost, {teller.seconds:.0f} s; {folder}/summary.json")
    return int(lost > 0 or len(log.faults) < log.wanted)


def whole_schedule(runs: Runs, cluster: RayNodes, disk: Path | None) -> list[PlannedRun]:
    """Return all runs; a few faults hit the first ones."""
    first, *forked = forked_scenarios(runs, disk)
    return [first, *ray_scenarios(runs, cluster), *forked, tracking_scenario(runs, disk)]


def start_cluster(cluster: RayNodes, say: Callable[[str], None]) -> None:
    """Start the head and the nodes."""
    cluster.start_head()
    for _ in range(_NODES):
        cluster.add()
    cluster.wait_for_newest()
    how = "network namespaces with addresses of their own" if cluster.separate else "plain raylets"
    say(f"Ray at {cluster.address}, {_NODES} nodes: {how}")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Mount a file system of a few MiB; None where the machine does not allow it."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SMALL_DISK_MIB}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        shutil.copytree(folder, folder.with_name("small_disk_kept"), dirs_exist_ok=True)
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(f"stopped by signal {number}")


def _command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, metavar="N", help="how many; default: the whole schedule")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the faults")
    parser.add_argument("--only", metavar="KIND", help="inject this kind alone")
    parser.add_argument("--runs", metavar="PART", help="only runs with this in their name")
    parser.add_argument("--patience", type=float, default=1.0, help="longer waits, on a machine that has other work")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/chaos"))
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
