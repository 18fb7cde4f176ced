"""A handful of the ways of computing a training run that have to give one loss curve; ``make equality`` has all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from equality_cases import PLAIN, PLAIN_BF16, Case, few_runs, is_kept, resumed_runs, whole_runs
from equality_runs import Curve
from own_process import ROOT, run_program


@pytest.mark.slow
def test_workers_stages_precision_and_resumes_give_one_loss_curve(tmp_path: Path) -> None:
    """4 workers of ZeRO 3, bf16, a resume 4 -> 2 on another stage, and one in the same way, on real processes."""
    out = tmp_path / "summary.json"
    run_program(ROOT / "tests/equality/run_equality.py", "--few", "--out", out, seconds=1200)
    summary = json.loads(out.read_text())
    assert summary["broken"] == 0
    rows = summary["rows"]
    assert len(rows) == len(list(few_runs()))
    for row, case in zip(rows, few_runs(), strict=True):
        assert is_kept(row), row
        assert {"largest_relative_difference", "promise"} | case.described().keys() <= row.keys()
        # A run of its own, not the reference once more.
        is_elsewhere = case not in (PLAIN, PLAIN_BF16) and not case.is_same_again
        assert (row["largest_relative_difference"] > 0) == is_elsewhere


@pytest.mark.parametrize(
    ("case", "promise"),
    [
        (PLAIN, 0), (Case(4, 3), 1e-5), (Case(4, 3, resumed_from=Case(4, 3)), 0), (Case(2, 2, "bf16"), 2e-3),
        (Case(2, 1, resumed_from=Case(4, 1)), 1e-4), (Case(2, 1, resumed_from=Case(2, 1, clips_per_forward=4)), 1e-4),
    ],
)  # fmt: skip
def test_a_promise_is_broken_by_a_larger_difference_and_by_none_at_all(case: Case, promise: float) -> None:
    row = {"promise": case.promise}
    assert case.promise == promise
    assert is_kept({**row, "largest_relative_difference": promise})
    for worse in (promise * 1.01 + 1e-12, float("nan"), float("inf")):
        assert not is_kept({**row, "largest_relative_difference": worse})


def test_differences_are_those_of_the_steps_that_both_have() -> None:
    reference = Curve(np.array([9.0, 1.0, 2.0, 4.0]))
    assert Curve(np.array([2.2, 6.0])).largest_relative_difference(reference) == pytest.approx(0.5)


def test_every_number_of_workers_stage_and_precision_is_there_and_every_resume_has_its_checkpoint() -> None:
    whole, resumed = list(whole_runs()), list(resumed_runs())
    names = {case.name for case in (*whole, *resumed)}
    assert len(names) == len(whole) + len(resumed)
    grid = {(case.workers, case.zero_stage, case.precision) for case in whole if case.engine == "deepspeed"}
    assert len(grid) == 3 * 4 * 2
    assert all(case.resumed_from in whole for case in resumed)
