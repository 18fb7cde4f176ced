"""The benchmarks run: all can be imported, the cheapest are run with tiny sizes, and their arithmetic is right."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path

import pytest
import torch
from measured import Timings, count_operations, in_turn, ratio
from step_profile import group_of

from vavl.config.files import read_json

FOLDER = Path(__file__).parents[1] / "benchmarks"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py"))
CHEAP = {
    "lengths": ("clips_per_second_ratio", "bucketing_ratio", "padded_share"),
    "objectives": ("ratio_to_plain",),
}


@pytest.fixture(autouse=True)
def _undisturbed(monkeypatch):
    """A program is a process of its own: it puts folders on the path and silences logs."""
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
    assert {"step", "lengths", "objectives", "loader", "platform_overhead"} <= set(PROGRAMS)
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


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("aten::mm", "matrix products"),
        ("aten::addmm", "matrix products"),
        ("aten::convolution_backward", "convolution"),
        ("aten::_fused_adamw_", "optimizer and clipping"),
        ("aten::comm", "other elementwise and reductions"),
        ("MulBackward0", "autograd and Python"),
    ],
)
def test_operators_are_grouped(operator, group):
    assert group_of(operator) == group
