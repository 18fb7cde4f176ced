"""The program that checks training on GPUs, run on the CPU: all but the name of the device."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import gpu_checks
import pytest
import torch
from gpu_check_list import all_checks
from gpu_checks import Bench, Call, Check, Difference, read_outcomes, relative_difference, run_group
from own_process import run_program

from vavl.config.files import read_json

PROGRAM = Path(__file__).parents[1] / "benchmarks/gpu_check.py"
ON_CPU = (
    "collectives, one rank", "a group for CUDA alone", "step on the meta device", "training, engine torch, fp32",
    "speed, engine torch, fp32",
)  # fmt: skip
LONG_ONES = (
    "training, ZeRO 3, fp32", "checkpoint through all engines", "resume after kill -9, engine torch, fp32",
    "kill -9 of a worker of Ray, ZeRO 3, fp32",
)  # fmt: skip


def test_the_checks_of_this_process_pass_on_a_cpu(tmp_path):
    out = tmp_path / "checks"
    run_program(PROGRAM, "--on-cpu", "--quick", "--out", out, "--only", *ON_CPU, seconds=1200)
    summary = read_json(out / "summary.json")
    assert (set(summary["passed"]), summary["failed"], summary["not_run"]) == (set(ON_CPU), [], [])
    assert summary["launches_per_micro_batch"]["engine torch, fp32"] > 100
    assert summary["launches_are"] == "operators of the CPU"
    assert summary["speed"][0]["step_seconds"] > 0
    assert summary["figures"]["training, engine torch, fp32"]["largest_relative_difference"] == 0
    assert torch.__version__.startswith(summary["versions"]["torch"])  # which may lack the build, +cu130


@pytest.mark.ray
@pytest.mark.slow
def test_the_checks_that_shard_and_kill_pass_too(tmp_path):
    out = tmp_path / "checks"
    run_program(PROGRAM, "--on-cpu", "--quick", "--out", out, "--only", *LONG_ONES, seconds=1200)
    assert set(read_json(out / "summary.json")["passed"]) == set(LONG_ONES)


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("gpu_check", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec.loader.exec_module(program)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert program.main(["--out", str(tmp_path / "checks")]) == program.NO_GPU == 2
    assert capsys.readouterr().out.startswith("not run: no GPU")
    assert not (tmp_path / "checks").exists()


def test_every_check_has_its_function_and_a_name_of_its_own():
    checks = all_checks()
    assert len({check.name for check in checks}) == len(checks) > 30
    for check in checks:
        assert callable(check.work.load())


def check_of(function: str, **more) -> Check:
    return Check(function, "group", Call("checks_that_end_oddly", function), **more)


@pytest.fixture
def _odd_checks(tmp_path, monkeypatch):
    (tmp_path / "checks_that_end_oddly.py").write_text(
        "import os\n"
        "from gpu_checks import NotRun\n"
        "def passes(bench): return {'figure': 1}\n"
        "def fails(bench): raise ValueError('what is wrong')\n"
        "def cannot(bench): raise NotRun('for want of luck')\n"
        "def dies(bench): os._exit(9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("_odd_checks")
def test_a_check_that_fails_or_cannot_run_leaves_its_reason_and_the_others_run(tmp_path):
    checks = [check_of(name) for name in ("fails", "cannot", "passes")]
    results = tmp_path / "results.jsonl"
    run_group(checks, Bench(tmp_path, on_gpu=False), results)
    failed, missing, passed = read_outcomes(results, checks, "ended")
    assert (failed.state, failed.reason) == ("failed", "ValueError: what is wrong")
    assert (missing.state, missing.reason) == ("not_run", "for want of luck")
    assert (passed.state, passed.figures) == ("passed", {"figure": 1})


@pytest.mark.usefixtures("_odd_checks")
def test_a_check_that_takes_its_process_along_has_failed_and_so_have_those_after_it(tmp_path):
    checks = [check_of(name) for name in ("passes", "dies", "cannot")]
    results = tmp_path / "results.jsonl"
    story = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(Path(gpu_checks.__file__).parent)!r}]\n"
        "from pathlib import Path\n"
        "from gpu_checks import *\n"
        "checks = [Check(n, 'group', Call('checks_that_end_oddly', n)) for n in ('passes', 'dies', 'cannot')]\n"
        f"run_group(checks, Bench(Path('.'), False), Path({str(results)!r}))\n"
    )
    assert subprocess.run([sys.executable, "-c", story], check=False).returncode == 9
    outcomes = read_outcomes(results, checks, "exit code 9")
    assert [(one.state, one.reason) for one in outcomes] == [
        ("passed", ""), ("failed", "exit code 9"), ("failed", "not reached: exit code 9"),
    ]  # fmt: skip


def test_what_a_machine_lacks_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    cpu, gpu = (Bench(tmp_path, on_gpu=on_gpu, quick=True) for on_gpu in (False, True))
    lacking = check_of("passes", needs=("numpy", "no_such_package"))
    assert lacking.obstacle(cpu) == "missing: no_such_package (python -m pip install no_such_package)"
    assert check_of("passes", where="gpu").obstacle(cpu) == "needs a GPU"
    assert check_of("passes", where="gpus").obstacle(gpu) == "needs two GPUs, this machine has 1"
    assert check_of("passes", where="cpu").obstacle(gpu) == "a stand-in for a GPU, run with --on-cpu"
    assert check_of("passes", is_long=True).obstacle(cpu) == "left out by --quick"
    assert check_of("passes").obstacle(gpu) is None


def test_curves_are_compared_by_their_largest_relative_difference():
    assert relative_difference([1.0, 2.02], [1.0, 2.0], 0.02) == pytest.approx(0.01)
    with pytest.raises(Difference, match=r"differ by 1.00e-02 at step 1, 1e-03 is allowed"):
        relative_difference([1.0, 2.02], [1.0, 2.0], 1e-3)
    with pytest.raises(Difference, match="nan"):
        relative_difference([float("nan")], [1.0], 1.0)
    with pytest.raises(Difference, match="1 steps instead of 2"):
        relative_difference([1.0], [1.0, 2.0], 1.0)
