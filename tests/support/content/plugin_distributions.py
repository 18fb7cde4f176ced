"""Distributions that bring plug-ins, as pip leaves them: a module and a dist-info directory on ``sys.path``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def install_plugin(
    folder: Path, patch: pytest.MonkeyPatch, group: str, example: str, *names: str, distribution: str = "own-plugin"
) -> None:
    """Install a module of ``tests/examples`` whose entry points are objects of it, for the time of a test.

    Args:
        folder: that ``sys.path`` then names first.
        patch: undoes it.
        group: of the entry points.
        example: name of the module.
        names: of the entry points, each that of an object of the module too.
        distribution: that brings them, version 1.2.
    """
    notes = folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
    notes.mkdir(parents=True)
    (notes / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    lines = [f"{name} = {example}:{name}\n" for name in names]
    (notes / "entry_points.txt").write_text(f"[{group}]\n{''.join(lines)}")
    (folder / f"{example}.py").write_text((EXAMPLES / f"{example}.py").read_text())
    patch.syspath_prepend(folder)
    # Another test may have imported the copy of its own directory.
    patch.delitem(sys.modules, example, raising=False)
