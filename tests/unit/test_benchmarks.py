"""The benchmarks run: all can be imported, the cheapest are run with tiny sizes, and their arithmetic is right."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from measured import Timings, count_operations, in_turn, ratio
from own_process import run_program
from repeated_store import write_repeated_store
from step_profile import attention_kernels, group_of
from synthetic_store import write_synthetic_store
from torch.nn.attention import SDPBackend, sdpa_kernel

from vavl.config.files import read_json
from vavl.corpora.manifest import Manifest
from vavl.models import cpu
from vavl.store.store import FeatureStore

FOLDER = Path(__file__).parents[1] / "benchmarks"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py"))
CHEAP = {"lengths": ("clips_per_second_ratio", "bucketing_ratio", "padded_share"), "objectives": ("ratio_to_plain",)}


@pytest.fixture(autouse=True)
def _undisturbed(monkeypatch):
    """A program is a process of its own: it puts directories on the path and silences logs."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    logging.disable(logging.NOTSET)


def program(name: str):
    """Import a program without making it findable: one of them might shadow a library."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_program_can_be_imported_and_shadows_no_library():
    assert {"step", "lengths", "objectives", "loader", "platform_overhead", "gpu"} <= set(PROGRAMS)
    assert not set(PROGRAMS) & set(sys.stdlib_module_names)
    for name in PROGRAMS:
        assert callable(program(name).main)


@pytest.mark.parametrize("name", sorted(CHEAP))
def test_a_cheap_one_runs_and_writes_what_others_read(name, tmp_path, capsys):
    file = tmp_path / "found.json"
    assert program(name).main(["--quick", "--repeats", "1", "--out", str(file)]) == 0
    found = read_json(file)
    assert found["conditions"]["quick"]
    assert set(CHEAP[name]) <= set(found)
    assert "(" in capsys.readouterr().out


def test_a_rank_spends_no_private_memory_on_clips_and_shares_the_rest(tmp_path):
    """The loader's benchmark with small sizes, in a process of its own: it forks."""
    file = tmp_path / "found.json"
    run_program(FOLDER / "loader.py", "--quick", "--repeats", "1", "--out", file)
    found = read_json(file)
    assert [one["clips"] for one in found["stores"]] == [4_000, 400_000]
    assert found["private_bytes_per_clip"] <= 16
    assert found["memory_growth"] <= 1.1
    assert all(one["shared"] > 0.45 for one in found["stores"])
    mapped = [one["again"]["mapped"]["Rss"] for one in found["stores"]]
    assert 0 < mapped[0] < mapped[1]
    assert found["open_seconds"].keys() == {"4000", "400000"}


def test_a_repeated_store_is_a_store(tmp_path):
    real = FeatureStore.open(write_synthetic_store(tmp_path / "real", 20, speakers=20))
    large = FeatureStore.open(write_repeated_store(tmp_path / "large", tmp_path / "real", 2**21 + 68))
    clips = len(large.lengths("audio"))
    manifest = Manifest.read(large.directory)
    assert clips == len(manifest) == 2**21 + 68
    for row in (0, 19, 20, 2**20 + 1, clips - 1):
        for modality in ("audio", "video"):
            np.testing.assert_array_equal(large.features(modality, row), real.features(modality, row % 20))
        assert manifest.table["clip_id"][row].as_py() == large.clip_ids("audio")[row].as_py() == f"clip{row:09d}"
        assert manifest.table["speaker"][row].as_py() == f"s{row % 20:03d}"
    assert sorted(np.bincount(manifest.split(0)).tolist()) == [clips // 5] * 2 + [clips // 5 * 3]
    large.verify()


GPU_ON_CPU = ["--device", "cpu", "--quick", "--repeats", "1"]


def test_the_one_for_a_gpu_runs_on_a_cpu_too_without_ray_and_deepspeed(tmp_path):
    file = tmp_path / "gpu.json"
    story = (
        f"import runpy, sys; sys.argv = ['gpu.py', *{GPU_ON_CPU}, '--out', {str(file)!r}]\n"
        f"try: runpy.run_path({str(FOLDER / 'gpu.py')!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0, end\n"
        "assert not {'ray', 'deepspeed'} & set(sys.modules)\n"
    )
    printed = run_program("-c", story)
    found = read_json(file)
    assert found["conditions"]["device"] == "cpu"
    # In bf16 a CPU attends by plain products; which precision is compared depends on the machine's load.
    assert found["attention_is_fused"] or "bf16" in str(found["compared"])
    assert found["host_waits_of_a_step"] == 1
    assert found["memory_ratio"] is None
    assert {"clips_per_second_ratio", "matrix_peak_share", "clips_per_second", "compared"} <= found.keys()
    assert "host waits of platform" in printed


@pytest.mark.slow
def test_the_one_for_a_gpu_goes_through_deepspeed_when_asked_to(tmp_path, capsys):
    file = tmp_path / "gpu.json"
    assert program("gpu").main([*GPU_ON_CPU, "--engine", "deepspeed", "--out", str(file)]) == 0
    assert read_json(file)["conditions"]["engine"] == "deepspeed"
    assert capsys.readouterr().out.startswith("engine deepspeed on cpu")


def test_without_a_gpu_the_one_for_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert program("gpu").main(["--out", str(tmp_path / "gpu.json")]) == program("gpu").NO_GPU
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("left out: no GPU")
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.parametrize(
    ("codes", "code", "line"),
    [
        ({"gpu.py": 2}, 0, "failed: none, left out: gpu.py (no GPU)"),
        ({"gpu.py": 2, "step.py": 1}, 1, "failed: step.py, left out: gpu.py (no GPU)"),
        ({"step.py": 2}, 1, "failed: step.py, left out: none"),
        ({}, 0, "failed: none, left out: none"),
    ],
)
def test_a_program_without_its_gpu_is_left_out_and_has_not_failed(codes, code, line, monkeypatch, capsys):
    def run(command, check):
        return subprocess.CompletedProcess(command, codes.get(command[1].name, 0))

    monkeypatch.setattr(subprocess, "run", run)
    assert program("run_all").main() == code
    assert capsys.readouterr().out.splitlines()[-1].endswith(line)


def test_the_kernel_of_the_attention_is_named():
    query = torch.randn(2, 2, 5, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert attention_kernels(lambda: attend(query, query, query)) == ["_scaled_dot_product_flash_attention_for_cpu"]
    with sdpa_kernel(SDPBackend.MATH):
        assert "_scaled_dot_product_attention_math" in attention_kernels(lambda: attend(query, query, query))


def test_ways_are_timed_in_turn_and_the_first_round_does_not_count():
    calls: list[str] = []
    found = in_turn({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=3)
    assert "".join(calls) == "abbaabba"
    assert {name: len(timing.seconds["wall"]) for name, timing in found.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_of_neighbouring_turns():
    slow, quick = Timings(), Timings()
    slow.seconds["wall"], quick.seconds["wall"] = [4.0, 40.0, 9.0], [2.0, 10.0, 3.0]
    assert ratio(slow, quick, "wall") == {"median": 3.0, "least": 2.0, "most": 4.0}


def test_operations_of_a_forward_and_backward_are_three_times_those_of_the_forward(tiny_network, batches):
    network, batch = tiny_network().train(False), batches.of(batches.clips("av av av"))
    forward = count_operations(lambda: network(batch))
    both = count_operations(lambda: network(batch).audio.logits.sum().backward())
    assert forward > 100_000
    assert 1.2 * forward < both < 3.1 * forward  # one head's backward leaves the other modality out


def test_the_backward_of_a_depthwise_convolution_counts_twice_its_forward():
    convolve = torch.nn.Conv1d(16, 16, 5, padding=2, groups=16)
    clips = torch.randn(2, 16, 9, requires_grad=True)
    assert count_operations(lambda: convolve(clips)) == 2 * 2 * 16 * 9 * 5
    assert count_operations(lambda: convolve(clips).sum().backward()) == 3 * 2 * 2 * 16 * 9 * 5


@pytest.mark.parametrize("kind", [torch.nn.Linear, cpu.Linear])
def test_the_operations_of_a_linear_layer_do_not_depend_on_the_library(kind, monkeypatch):
    monkeypatch.setattr(cpu, "_LEAST_PRODUCTS", 1)
    layer, values = kind(6, 4), torch.randn(2, 5, 6, requires_grad=True)
    assert count_operations(lambda: layer(values).sum().backward()) == 3 * 2 * 10 * 6 * 4


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("aten::mm", "matrix products"),
        ("aten::addmm", "matrix products"),
        ("mkldnn::_linear_pointwise", "matrix products"),
        ("aten::convolution_backward", "convolution"),
        ("aten::_fused_adamw_", "optimizer and clipping"),
        ("aten::comm", "other elementwise and reductions"),
        ("MulBackward0", "autograd and Python"),
    ],
)
def test_operators_are_grouped(operator, group):
    assert group_of(operator) == group
