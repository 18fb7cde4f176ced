"""Private names of the engines: each that is used is listed in PRIVATE_API.md, and each that is listed is used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIST = ROOT / "platform/vavl/PRIVATE_API.md"
LIBRARIES = {"torch", "ray", "deepspeed", "optuna", "mlflow"}
MOST = 7
# Without a leading underscore, and yet no part of the public API.
INTERNAL_MODULES = ("ray.core.generated", "torch.ops.mkldnn")
PUBLIC_UNDERSCORES = {"_replace", "_asdict", "_fields", "_make", "_value_", "_exit"}  # named tuples, enums, os
PUBLIC_DUNDERS = {
    "__version__", "__name__", "__file__", "__module__", "__cause__", "__traceback__", "__init__", "__enter__",
    "__exit__", "__setattr__", "__dict__", "__class__",
}  # fmt: skip
VARIABLE = re.compile(r"(RAY|TUNE|TORCH|DS|DEEPSPEED|OPTUNA|MLFLOW)_\w+")
# Each stands on a page of its library's documentation or, the migration warnings, in the message that it silences.
DOCUMENTED_VARIABLES = re.compile(
    "RAY_(ADDRESS|AIR_NEW_OUTPUT|AUTH_MODE|AUTH_TOKEN|AUTH_TOKEN_PATH|TRAIN_[A-Z0-9_]+)"
    "|TUNE_(DISABLE_[A-Z_]+|MAX_PENDING_TRIALS_PG)|MLFLOW_[A-Z_]+"
    "|TORCH_EXTENSIONS_DIR|DS_ACCELERATOR"
)


@dataclass
class Reader(ast.NodeVisitor):
    """Collects the private names of the engines that one module uses."""

    tree: ast.Module
    found: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.aliases: dict[str, str] = {}
        nodes = list(ast.walk(self.tree))
        for node in nodes:
            self._note_import(node)
        # What the module itself defines is its own, whatever object it is read from.
        self.own = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        self.own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and _is_self(node.value)}
        self.own |= {
            node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        self.annotations = {
            argument.arg: self._chain(argument.annotation)
            for node in nodes
            if isinstance(node, ast.FunctionDef)
            for argument in (*node.args.args, *node.args.kwonlyargs)
            if argument.annotation is not None
        }
        roots = {name.split(".")[0] for name in self.aliases.values()}
        self.has_deepspeed, self.has_library = "deepspeed" in roots, bool(roots & LIBRARIES)
        self.docstrings = {id(text) for node in nodes for text in _docstring(node)}
        self.visit(self.tree)

    def _note_import(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for name in node.names:
                root = name.name if name.asname else name.name.split(".")[0]
                self.aliases[name.asname or root] = root
                self._judge(name.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                self.aliases[name.asname or name.name] = f"{node.module}.{name.name}"
                self._judge(f"{node.module}.{name.name}")

    def _judge(self, dotted: str) -> None:
        """Note a dotted name of a library from its root to its last private part."""
        parts = dotted.split(".")
        private = [place for place, part in enumerate(parts) if part.startswith("_") and part not in PUBLIC_DUNDERS]
        if parts[0] not in LIBRARIES:
            return
        if private:
            self.found.add(".".join(parts[: private[-1] + 1]))
        elif dotted.startswith(INTERNAL_MODULES):
            self.found.add(dotted)

    def _chain(self, node: ast.expr | None) -> str:
        """Return the dotted name of an expression from the root of its import, "" for anything else."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id, "")
        if isinstance(node, ast.Attribute):
            above = self._chain(node.value)
            return f"{above}.{node.attr}" if above else ""
        return ""

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Look at ``x.y``: of an import by its whole name, of any other object by the attribute alone."""
        chain = self._chain(node)
        if chain.split(".")[0] in LIBRARIES:
            self._judge(chain)
            return
        is_private = node.attr.startswith("_") and node.attr not in PUBLIC_DUNDERS | PUBLIC_UNDERSCORES
        if is_private and not _is_self(node.value) and node.attr not in self.own:
            self.found.add(node.attr)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Look at what is set on an object of a library."""
        for target in node.targets:
            self._look_at_target(target, node.value)
        self.generic_visit(node)

    def _look_at_target(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Subscript) and ast.unparse(target.value).endswith("sys.modules"):
            self.found.add(f"sys.modules[{ast.unparse(target.slice)}]")
        if not isinstance(target, ast.Attribute) or _is_self(target.value):
            return
        annotation = self.annotations.get(target.value.id, "") if isinstance(target.value, ast.Name) else ""
        if annotation.split(".")[0] in LIBRARIES:
            self.found.add(f"{annotation}.{target.attr}")
        elif isinstance(value, ast.Lambda) or self._chain(target).split(".")[0] in LIBRARIES:
            self.found.add(self._chain(target) or target.attr)
        elif self.has_deepspeed and isinstance(target.value, ast.Attribute):
            self.found.add(target.attr)

    def visit_Call(self, node: ast.Call) -> None:
        """Look at probes of DeepSpeed's objects, and at names in ``getattr`` and ``setattr``."""
        if isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr", "setattr"):
            name = node.args[1]
            is_probe = self.has_deepspeed or (node.func.id == "hasattr" and self.has_library)
            if isinstance(name, ast.Constant) and (is_probe or str(name.value).startswith("_")):
                self.found.add(str(name.value))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Look at names in texts: of loggers and modules, and of environment variables."""
        if isinstance(node.value, str) and id(node) not in self.docstrings:
            self.found |= {
                match[0] for match in re.finditer(rf"\b({'|'.join(LIBRARIES)})(\.\w+)*\._\w+(\.\w+)*", node.value)
            }
            if VARIABLE.fullmatch(node.value) and not DOCUMENTED_VARIABLES.fullmatch(node.value):
                self.found.add(node.value)


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _docstring(node: ast.AST) -> Iterator[ast.Constant]:
    # A text that stands alone explains something.
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield node.value


def private_names(source: str) -> set[str]:
    """Return the private names of the engines that a module's source uses."""
    return Reader(ast.parse(source)).found


def listed() -> dict[str, Path]:
    """Return the names of the list with the file that each is used in."""
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", LIST.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: ROOT / "platform/vavl" / file for name, file in rows}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import torch\ntorch._softmax_backward_data(1)", {"torch._softmax_backward_data"}),
        ("import torch\ntorch.ops.mkldnn._linear_pointwise(1)", {"torch.ops.mkldnn._linear_pointwise"}),
        ("from torch._C._distributed_c10d import HashStore", {"torch._C._distributed_c10d"}),
        ("from ray.train.torch.config import _shutdown_torch as stop", {"ray.train.torch.config._shutdown_torch"}),
        ("import ray\ndef f():\n    ray._private.state.state.nodes()", {"ray._private"}),
        ("from ray.core.generated import gcs_pb2", {"ray.core.generated.gcs_pb2"}),
        ("import deepspeed as d\nd.ops.__compatible_ops__['x'] = False", {"deepspeed.ops.__compatible_ops__"}),
        ("def f(study): return study._storage", {"_storage"}),
        ("import deepspeed\ngetattr(x, 'ds_id', None)", {"ds_id"}),
        ("import torch\nhasattr(x, 'fp32_groups')", {"fp32_groups"}),
        ("import json\nhasattr(x, 'tolist')", set()),
        ("import deepspeed\nclass A:\n    def f(self): self.engine.fallback = self.g", {"fallback"}),
        ("import torch\ndef f(o: torch.optim.Optimizer): o.found_inf = 1", {"torch.optim.Optimizer.found_inf"}),
        ("import torch\ntorch.load = print", {"torch.load"}),
        ("def f(checker): checker.check = lambda: 0", {"check"}),
        ("import sys\nsys.modules['mlflow'] = None", {"sys.modules['mlflow']"}),
        ("names = ('ray._private.packaging', 'ray.data')", {"ray._private.packaging"}),
        ("import os\nos.environ['RAY_prestart_worker'] = '0'", {"RAY_prestart_worker"}),
        ("import os\nos.environ['RAY_TRAIN_COLLECTIVE_TIMEOUT_S'] = '0'", set()),
        ("import torch\ntorch.__version__\nclass A:\n    def __init__(self, o: 'A'): self._x = o._x", set()),
        ('"""Like ``torch._C`` and RAY_x."""\nfrom torch import nn\nnn.functional.linear(1)', set()),
        ("from numpy import _core\npoint._replace(x=1)", set()),
    ],
)  # fmt: skip
def test_private_names_are_recognised(source, names):
    assert private_names(source) == names


def test_each_private_name_is_listed_and_each_listed_one_is_used():
    files = [*(ROOT / "platform").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]
    assert len(files) > 100
    used = {(name, file) for file in files for name in private_names(file.read_text(encoding="utf-8"))}
    assert used == set(listed().items())


def test_the_list_is_short_and_names_tests_that_are_there():
    tests = re.findall(r"`(tests/[\w/]+\.py)`", LIST.read_text(encoding="utf-8").partition("|---|")[2])
    assert 0 < len(listed()) <= MOST
    assert len(tests) == len(listed())
    assert all((ROOT / test).is_file() for test in tests)
