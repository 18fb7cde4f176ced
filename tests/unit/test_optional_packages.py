"""Tests run in the environment of `make test`: what that one lacks is skipped with a reason, not failed."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Programs of their own, which pytest does not collect: none of them can skip.
PROGRAMS = {"benchmarks", "chaos", "equality"}
TEST_FILES = sorted(path for path in (ROOT / "tests").rglob("*.py") if path.relative_to(ROOT).parts[1] not in PROGRAMS)


def packages(requirements: list[str]) -> set[str]:
    """Return the packages of requirements by the name that they are imported by, extras of this project followed."""
    found = set()
    for requirement in requirements:
        match = re.match(r"([\w.-]+)(?:\[([^]]*)\])?", requirement)
        assert match is not None
        if match[1] == PROJECT["name"]:
            for extra in match[2].split(","):
                found |= packages(PROJECT["optional-dependencies"][extra.strip()])
        else:
            found.add(match[1].replace("-", "_").lower())
    return found


def absent_packages() -> set[str]:
    """Return the packages of those extras that `.[dev]`, the environment of the README, does not install."""
    extras = PROJECT["optional-dependencies"]
    every = set().union(*map(packages, extras.values()))
    return every - packages(extras["dev"]) - packages(PROJECT["dependencies"])


def unguarded_uses(source: str, package: str) -> Iterator[int]:
    """Yield the lines of a test file that need a package no ``importorskip`` asks for.

    A use is an import of the package, or a call of what bears its name, such as ``OpensmileSettings(...)``. It is
    guarded by an ``importorskip`` of the file, or of its own function or class.
    """
    statements = ast.parse(source).body
    if any(isinstance(one, ast.Expr | ast.Assign) and asks_for(one, package) for one in statements):
        return
    for statement in statements:
        if not asks_for(statement, package):
            yield from (node.lineno for node in ast.walk(statement) if needs(node, package))


def asks_for(statement: ast.stmt, package: str) -> bool:
    return any(
        isinstance(node, ast.Call)
        and ast.unparse(node.func) == "pytest.importorskip"
        and ast.literal_eval(node.args[0]).partition(".")[0] == package
        for node in ast.walk(statement)
    )


def needs(node: ast.AST, package: str) -> bool:
    match node:
        case ast.Import(names=names):
            return any(alias.name.partition(".")[0] == package for alias in names)
        case ast.ImportFrom(module=str(module), level=0):
            return module.partition(".")[0] == package
        case ast.Call(func=called):
            return package in ast.unparse(called).rpartition(".")[2].lower()
    return False


def test_the_environment_of_the_tests_lacks_what_nobody_gets_without_asking():
    assert "opensmile" in absent_packages()
    assert {"transformers", "h5py", "psycopg", "onnx"} <= packages(PROJECT["optional-dependencies"]["dev"])


@pytest.mark.parametrize("package", sorted(absent_packages()))
def test_a_test_that_needs_an_absent_package_skips_without_it(package):
    seen = [path for path in TEST_FILES if asks_for(ast.parse(path.read_text(encoding="utf-8")), package)]
    assert seen, f"no test needs {package}"
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in TEST_FILES
        for line in unguarded_uses(path.read_text(encoding="utf-8"), package)
    ]
    assert not found, f'call pytest.importorskip("{package}", reason=...) first: {found}'


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import opensmile", [1]),
        ("from opensmile.core import Smile", [1]),
        ("def test():\n    import opensmile.core", [2]),
        ("@parametrize('settings', [OpensmileSettings()])\ndef test(settings): ...", [1]),
        ("def test():\n    pytest.importorskip('opensmile')\ndef other():\n    make(a.OpensmileSettings())", [4]),
        ("pytest.importorskip('opensmile')\nimport opensmile", []),
        ("smile = pytest.importorskip('opensmile.core')\ndef test():\n    OpensmileSettings()", []),
        ("def test():\n    pytest.importorskip('opensmile')\n    OpensmileSettings()", []),
        ("from vavl.features import opensmile_features\nassert opensmile_features.NAME == 'opensmile'", []),
    ],
)
def test_unguarded_uses_are_found(source, lines):
    assert list(unguarded_uses(source, "opensmile")) == lines
