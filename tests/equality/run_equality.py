"""One loss curve for every number of workers, ZeRO stage and precision, and after every resume.

    python tests/equality/run_equality.py [--few] [--out runs/equality/summary.json]

Trains a small network with all objectives, averaged weights and dropout on real processes (gloo, no Ray) and
compares the loss of every step with that of a reference: one worker with torch alone, in the same precision.
A resumed run began in another way up to its middle; one that goes on in the way in which it began is compared
with its own undisturbed run, and must not differ at all.

Prints a table, writes the summary, and exits with 1 when a promise is broken. Keys of the summary:

    steps, batch_size, seconds
    broken      number of rows whose promise does not hold
    rows        list of
        engine, workers, zero_stage, precision, clips_per_forward, offload, activation_checkpointing
        resumed_from                 null, or engine, workers, zero_stage and clips_per_forward of the run before
        largest_relative_difference  of a step's loss to that of the reference
        promise                      largest difference that holds it
        difference_to_fp32           bf16 only: to one worker in fp32
        seconds                      the run took
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.extend(str(path) for path in (Path(__file__).parents[1] / "support").iterdir())

from equality_cases import PLAIN, Case, few_runs, is_kept, resumed_runs, whole_runs
from equality_runs import BATCH, CaseRunner, Curve
from forked_ranks import warm_up

from vavl.config.files import write_json

STEPS, FEW_STEPS = 32, 16
AT_ONCE = 2
_COLUMNS = ("workers", "zero_stage", "precision", "clips_per_forward", "offload", "activation_checkpointing")
_TABLE = "{:>7} {:>4}  {:<9} {:>5}  {:<21} {:<9} {:<16} {:>10}  {:>7}  {:>7}  {}"


def main() -> int:
    """Train all cases, print the table, write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", action="store_true", help="a handful of the cases")
    parser.add_argument("--out", type=Path, default=Path("runs/equality/summary.json"))
    words = parser.parse_args()
    started = time.monotonic()
    steps = FEW_STEPS if words.few else STEPS
    rows = compare(list(few_runs() if words.few else [*whole_runs(), *resumed_runs()]), steps)
    failed = sum(not is_kept(row) for row in rows)
    summary = {
        "steps": steps,
        "batch_size": BATCH,
        "seconds": round(time.monotonic() - started, 1),
        "broken": failed,
        "rows": rows,
    }
    write_json(words.out, summary)
    print(f"{len(rows)} rows in {summary['seconds']} s, {failed} promises broken; {words.out}")
    return 1 if failed else 0


def compare(cases: list[Case], steps: int) -> list[dict[str, Any]]:
    """Train the cases, two at once, references and what others resume from first; print a line for each."""
    warm_up()
    curves: dict[Case, Curve] = {}
    rows = []
    print(
        _TABLE.format(
            "workers", "ZeRO", "precision", "clips", "offload", "recompute", "resumed from", "difference",
            "promise", "to fp32", "",
        )
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        runner = CaseRunner(Path(folder), steps)
        # Forked, as the ranks are; a case of one worker leaves a core to the other one.
        with ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("fork")) as pool:
            for group in (
                [case for case in cases if case.resumed_from is None],
                [case for case in cases if case.resumed_from is not None],
            ):
                for case, (curve, seconds) in zip(group, pool.map(runner.timed_curve, group), strict=True):
                    curves[case] = curve
                    rows.append({**row_of(case, curves), "seconds": round(seconds, 1)})
                    print(line_of(rows[-1]), flush=True)
    return rows


def row_of(case: Case, curves: Mapping[Case, Curve]) -> dict[str, Any]:
    """Describe a case and how far its curve lies from the one that it has to repeat."""
    curve, reference = curves[case], curves[case.reference]
    row = {
        **case.described(),
        "largest_relative_difference": curve.largest_relative_difference(reference),
        "promise": case.promise,
    }
    if case.precision == "bf16":
        row["difference_to_fp32"] = curve.largest_relative_difference(curves[PLAIN])
    return row


def line_of(row: dict[str, Any]) -> str:
    """Return a row as a line of the table."""
    values = [row[name] for name in _COLUMNS]
    values[1] = "-" if row["engine"] == "torch" else values[1]
    values[3] = values[3] or "all"
    values[-1] = "yes" if values[-1] else "no"
    differences = [
        f"{row[name]:.1e}" if name in row else "" for name in ("largest_relative_difference", "difference_to_fp32")
    ]
    return _TABLE.format(
        *values,
        how(row["resumed_from"]) if row["resumed_from"] else "-",
        differences[0],
        f"{row['promise']:.0e}",
        *differences[1:],
        "holds" if is_kept(row) else "BROKEN",
    )


def how(before: Mapping[str, Any]) -> str:
    """Return the workers and the stage of an earlier run in short."""
    stage = "torch" if before["engine"] == "torch" else f"ZeRO {before['zero_stage']}"
    return f"{before['workers']}, {stage}"


if __name__ == "__main__":
    raise SystemExit(main())
