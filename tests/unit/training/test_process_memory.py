"""The most memory that a process has taken."""

from __future__ import annotations

import psutil

from vavl.training.throughput import peak_memory_bytes


def test_the_peak_is_that_of_this_process_and_stays():
    now = psutil.Process().memory_info().rss
    before = peak_memory_bytes()
    assert before >= 0.9 * now
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    with_block = peak_memory_bytes()
    del block
    assert with_block >= before
    assert peak_memory_bytes() >= with_block
