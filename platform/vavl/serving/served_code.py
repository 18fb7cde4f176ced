"""The code that a registered model carries: what its prediction imports, and nothing else of the package."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

CODE_HASH_KEY = "vavl_code_hash"
CODE_FILES_KEY = "vavl_code_files"


def import_closure(package: Path, entry: str, without: Collection[str] = ()) -> list[str]:
    """Return the files of ``package`` that a module imports, itself, through others, and within functions.

    Args:
        package: directory of the package.
        entry: dotted name of the module, the name of the package included.
        without: modules that are imported within functions and are known not to be needed.

    Returns:
        Names relative to ``package``, with ``/``, sorted; without the file of ``entry``.
    """
    found: dict[str, Path] = {}
    waiting = [entry]
    while waiting:
        module = waiting.pop()
        file = _file_of(package, module)
        if file is None or module in found or module in without:
            continue
        found[module] = file
        above = module.rpartition(".")[0]
        waiting += [*([above] if above else []), *_imports(file)]
    del found[entry]
    return sorted(file.relative_to(package).as_posix() for file in found.values())


def code_hash(package: Path, files: Sequence[str] | None = None) -> str:
    """Return a hash over Python files of ``package``: which code a model was made with.

    Args:
        package: directory of the package.
        files: names relative to it; all of its Python files by default. One that is absent changes the hash.
    """
    names = files or [file.relative_to(package).as_posix() for file in package.rglob("*.py")]
    total = hashlib.sha256()
    for name in sorted(names):
        total.update(f"{name}\0".encode())
        if (package / name).is_file():
            total.update((package / name).read_bytes())
    return total.hexdigest()


def _file_of(package: Path, module: str) -> Path | None:
    root, _, rest = module.partition(".")
    if root != package.name:
        return None
    place = package / rest.replace(".", "/")
    candidates = (place / "__init__.py", place.with_suffix(".py")) if rest else (package / "__init__.py",)
    return next((file for file in candidates if file.is_file()), None)


def _imports(file: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports; of ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
