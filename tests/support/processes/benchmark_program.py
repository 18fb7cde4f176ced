"""What the benchmarks have in common: their arguments, the table on the screen, and the JSON."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vavl.config.files import write_json


def read_arguments(
    description: str, name: str, argv: Sequence[str] | None = None, parser: argparse.ArgumentParser | None = None
) -> argparse.Namespace:
    """Read the arguments that every benchmark has, and prepare the process: threads, warnings, directory.

    Args:
        description: of the program; its first line is a sentence.
        name: of the JSON under ``runs/bench``.
        argv: arguments; None for those of the command line.
        parser: with more arguments of the program's own.
    """
    parser = parser or argparse.ArgumentParser()
    parser.description = description
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, its figures mean nothing")
    parser.add_argument("--repeats", type=int, default=None, help="turns of every comparison")
    parser.add_argument("--threads", type=int, default=None, help="of torch; default: one per processor")
    parser.add_argument(
        "--clock", choices=("wall", "processor"), default="wall",
        help="clock of the ratios: wall, or the processors' time, which other programs disturb less",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path(f"runs/bench/{name}.json"))
    words = parser.parse_args(argv)
    words.out.parent.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if words.threads is not None:
        torch.set_num_threads(words.threads)
    return words


def conditions(words: argparse.Namespace) -> dict[str, Any]:
    """Describe what the figures hold for."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": os.getloadavg()[0],
        "torch": torch.__version__,
        "clock": words.clock,
        "quick": words.quick,
    }


def finish(words: argparse.Namespace, result: Mapping[str, Any], lines: Sequence[str]) -> None:
    """Print the lines and write the JSON."""
    for line in lines:
        print(line)
    write_json(words.out, result)
    print(f"written to {words.out}", flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in (header, *rows)
    ]  # fmt: skip


def in_words(found: Mapping[str, float], factor: float = 1.0, unit: str = "", digits: int = 2) -> str:
    """Write a median with its range, e.g. ``2.41 (2.38 to 2.50)``."""
    median, least, most = (f"{factor * found[name]:.{digits}f}" for name in ("median", "least", "most"))
    return f"{median}{unit} ({least} to {most})"


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
