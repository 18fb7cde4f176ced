"""Five real faults, on forked processes and on a cluster of Ray nodes: `make chaos` in short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from own_process import ROOT, run_program

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FAULTS = 5


def test_five_faults_change_nothing(tmp_path: Path) -> None:
    run_program(ROOT / "tests/chaos/run_chaos.py", "--faults", str(FAULTS), "--output-dir", tmp_path / "c")
    summary = json.loads((tmp_path / "c/summary.json").read_text())
    assert (summary["injected"], summary["lost"]) == (FAULTS, 0)
    faults = summary["faults"]
    assert {fault["run"] for fault in faults} == {"one-process", "ray-spread"}
    assert {"driver killed", "killed while writing a checkpoint", "worker killed"} <= {
        fault["kind"] for fault in faults
    }
    for fault in faults:
        assert fault["at_step"] > 0
        assert fault["recovery_seconds"] > 0
        assert fault["steps_repeated"] >= 0
        assert fault["final_difference"] == 0, fault  # bitwise
    # A killed process cannot have saved its last step every time.
    assert sum(fault["steps_repeated"] for fault in faults) > 0
