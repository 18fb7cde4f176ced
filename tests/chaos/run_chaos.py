"""Injects real faults into real trainings and compares each with the undisturbed run: make chaos."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from faults import FaultLog
from forked import warm_up
from schedule import Runs, forked_scenarios
from table import Teller

SMALL_DISK_MIB = 16


def main() -> int:
    """Inject the faults; returns 1 if a run was lost or too few faults were injected."""
    given = _command_line().parse_args()
    shutil.rmtree(given.output_dir, ignore_errors=True)
    folder = given.output_dir.absolute()
    folder.mkdir(parents=True)
    warm_up()
    with small_disk(folder / "small_disk") as disk:
        runs = Runs(folder)
        wanted = forked_scenarios(runs, disk)
        log = FaultLog(sum(len(faults) for _, faults, _ in wanted))
        teller = Teller(log)
        for name, faults, make in wanted:
            if given.runs and given.runs not in name:
                continue
            if given.only:
                faults = [one for one in faults if one.kind == given.only]
            if not faults:
                continue
            make(name, faults).play(log, given.seed, teller)
            log.write(folder / "summary.json", teller.seconds, given.seed)
    teller.table()
    lost = sum(fault.is_lost for fault in log.faults)
    print(f"{len(log.faults)} faults injected, {lost} runs lost, {teller.seconds:.0f} s; {folder}/summary.json")
    return int(lost > 0)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Mount a file system of a few MiB; None where the machine does not allow it."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MIB}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        kept = folder.with_name("small_disk_kept")
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/chaos"))
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the faults")
    parser.add_argument("--only", metavar="KIND", help="inject this kind alone")
    parser.add_argument("--runs", help="part of the names of the runs")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
