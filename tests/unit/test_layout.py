"""The layout of the repository: names that may not shadow others, and sizes that stay readable."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_process import run_program

ROOT = Path(__file__).parents[2]
FOLDERS = ("platform", "jobs", "tests")


def source_files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", ["platform", "datasets"])
def test_a_folder_that_shares_its_name_with_a_package_is_none(folder):
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


def test_platform_and_datasets_are_the_libraries_from_the_root():
    story = (
        "import platform, datasets, vavl\n"
        "print(platform.python_version(), datasets.Dataset.__module__, vavl.__file__, sep='\\n')\n"
    )
    version, dataset_module, vavl_file = run_program("-c", story, cwd=ROOT).split()
    assert version == sys.version.split()[0]
    assert dataset_module.startswith("datasets.")
    assert Path(vavl_file) == ROOT / "platform/vavl/__init__.py"


def test_the_loops_over_files_see_them():
    seen = {path.relative_to(ROOT).as_posix() for path in source_files()}
    assert {"platform/vavl/errors.py", "platform/vavl/corpora/manifest.py", "tests/unit/test_layout.py"} <= seen
    assert {path.split("/")[0] for path in seen} == {"platform", "jobs", "tests"}
    functions = [name for path in source_files() for name, _ in function_lengths(path)]
    assert "build_manifest" in functions
    assert "test_no_function_is_longer_than_60_lines" in functions


def test_no_file_is_longer_than_400_lines():
    long_files = {path: count for path in source_files() if (count := line_count(path)) > 400}
    assert not long_files


def test_no_job_is_longer_than_60_lines():
    long_jobs = {path: count for path in (ROOT / "jobs").glob("*.py") if (count := line_count(path)) > 60}
    assert not long_jobs


def test_no_function_is_longer_than_60_lines():
    long_functions = {
        f"{path.relative_to(ROOT)}:{name}": lines
        for path in source_files()
        for name, lines in function_lengths(path)
        if lines > 60
    }
    assert not long_functions


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process runs every file whole")
def test_the_processes_of_make_test_get_whole_files(request):
    """Else every fixture of a module is made in both of them, and both start Ray."""
    assert request.node.nodeid.endswith(f"@{__file__}")


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def function_lengths(path: Path) -> Iterator[tuple[str, int]]:
    """Yield name and number of lines of every function in a file, its docstring included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1
