"""Every text of an error that the package can raise, read from the source and rendered with its arguments.

A value known at run time only stands in guillemets. Where an argument is one of several literals, a constant, a local
variable or a parameter, all texts that it can have are rendered.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import NamedTuple

import pytest

from vavl.config.setting_list import list_settings
from vavl.corpora.card import CorpusCard
from vavl.job_config import JOB_SETTINGS
from vavl.submission.submission import SubmitJob

ROOT = Path(__file__).parents[2]
VALUE = re.compile("«[^»]*»")
WRONG = {
    "a letter in place of a number": r"(?<![\w/.=:@?«-])[B-HJ-Z](?![\w.:/»-])",
    "left unformatted": r"\{[a-z_.]+(![rs])?(:[^}\s]*)?\}|%[sdrf](?!\w)|%\(",
    "dots in place of a value": r"(?<!>)\.\.\.",  # not in (?P<clip>...)
}
KEY = r"(?<![\w/.»-])(?:[a-z_]+(?:\.[a-z_0-9]+)+(?![\w/(«])|[a-z_]+(?==\S))"
FILES = "arrow|csv|html|jsonl?|mp4|onnx|parquet|toml|txt|yaml"
NO_KEY = re.compile(rf"(e\.g|dotted\.key|deepspeed\.zero_optimization|vavl\.(objectives|extractors)|.*\.({FILES}))$")
NO_VERB = re.compile(r"[A-Z]|(an?|are|is|it|its|known|none?|not|nothing|the|there|this|your)\b")
DEEPEST, MOST_TEXTS = 8, 60


class Module:
    """A source file: its nodes, and the parent of each."""

    def __init__(self, path: Path) -> None:
        self.path, self.tree = path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))
        self.nodes = list(ast.walk(self.tree))
        self.parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}


class Text(NamedTuple):
    """One text that one part of an error can have, and where the error is made."""

    place: str
    part: str
    text: str


@cache
def modules() -> list[Module]:
    return [Module(path) for part in ("platform", "jobs") for path in sorted((ROOT / part).rglob("*.py"))]


@cache
def calls_by_name() -> dict[str, list[tuple[Module, ast.Call]]]:
    found = defaultdict(list)
    for module, node in ((one, node) for one in modules() for node in one.nodes):
        if isinstance(node, ast.Call):
            found[getattr(node.func, "id", "") or getattr(node.func, "attr", "")].append((module, node))
    return found


@cache
def error_kinds() -> set[str]:
    kinds, classes = {"VavlError"}, [n for m in modules() for n in m.nodes if isinstance(n, ast.ClassDef)]
    for _ in range(4):  # generations
        kinds |= {one.name for one in classes if kinds & {getattr(base, "id", "") for base in one.bases}}
    return kinds


@cache
def assigned(name: str, scope: ast.AST) -> tuple[ast.expr, ...]:
    given: list[ast.expr] = []
    for line in scope.body if isinstance(scope, ast.Module) else ast.walk(scope):
        match line:
            case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                given.append(value)
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                given += [v for n, v in zip(names, values, strict=True) if getattr(n, "id", "") == name]
    return tuple(given)


def given(name: str, node: ast.AST, module: Module) -> Iterator[tuple[Module, ast.expr]]:
    """Yield what a name stands for: assigned in a function around it, handed to that, or a constant."""
    around: ast.AST | None = node
    while (around := module.parents.get(around)) is not None:
        if not isinstance(around, ast.FunctionDef):
            continue
        if values := assigned(name, around):
            yield from ((module, value) for value in values)
            return
        arguments = [argument.arg for argument in around.args.args]
        if name in arguments:
            place = arguments.index(name) - (arguments[0] in ("self", "cls"))
            for caller, call in calls_by_name()[around.name]:
                if caller is module or (isinstance(call.func, ast.Name) and not around.name.startswith("_")):
                    yield from ((caller, value) for value in call.args[place : place + 1])
            return
    for where in [module, *(modules() if name.isupper() and not assigned(name, module.tree) else ())]:
        yield from ((where, value) for value in assigned(name, where.tree))


def texts(node: ast.expr, module: Module, depth: int = 0) -> list[str]:
    """Return the texts that an expression can have, at most ``MOST_TEXTS``."""
    return list(dict.fromkeys(islice(all_texts(node, module, depth), MOST_TEXTS)))


def all_texts(node: ast.expr, module: Module, depth: int) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=values):
            yield from map("".join, product(*(texts(value, module, depth) for value in values)))
        case ast.FormattedValue(value=value, format_spec=None, conversion=-1) if depth < DEEPEST:
            yield from texts(value, module, depth + 1)
        case ast.FormattedValue(format_spec=ast.JoinedStr(values=[ast.Constant(value=specification)])):
            yield f"«{format(7, specification)}»"  # a wrong specification fails here
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            yield from map("".join, product(texts(left, module, depth), texts(right, module, depth)))
        case ast.IfExp(body=body, orelse=other):
            yield from [*texts(body, module, depth), *texts(other, module, depth)]
        case ast.Name(id=name) if depth < DEEPEST and (values := list(given(name, node, module))):
            yield from (text for where, value in values for text in texts(value, where, depth + 1))
        case _:
            yield f"«{VALUE.sub('', ast.unparse(node))}»"


@cache
def error_texts() -> list[Text]:
    found = []
    for kind in sorted(error_kinds() | {"ValueError"}):
        parts = ("problem",) if kind == "ValueError" else ("file", "field", "problem", "fix")
        for module, call in calls_by_name()[kind]:
            place = f"{module.path}:{call.lineno}"
            for part, argument in zip(parts, call.args, strict=False):
                found += [Text(place, part, text) for text in texts(argument, module)]
    return found


@cache
def known_keys() -> set[str]:
    """Return all dotted keys of the jobs and of cards, and each part of them."""
    keys: set[str] = set()
    for settings in (*JOB_SETTINGS.values(), SubmitJob, CorpusCard):
        rows = list_settings(settings)
        own = {row.key for row in rows}
        for same in (row for row in rows if row.same_as is not None):
            above, other = f"{same.key}.", f"{same.same_as}."
            own |= {above + key.removeprefix(other) for key in own if key.startswith(other)}
        keys |= own
    parts = [key.split(".") for key in keys]
    return {".".join(part[a:b]) for part in parts for b in range(len(part) + 1) for a in range(b)}


def errors_of(text: Text) -> list[str]:
    """Return what is wrong with a text, in words."""
    plain = VALUE.sub("«»", text.text)
    found = [f"{what}: {bad[0]}" for what, pattern in WRONG.items() for bad in re.finditer(pattern, plain)]
    keys = set(re.findall(KEY, plain)) - known_keys()
    found += [f"no setting: {key}" for key in keys if not NO_KEY.match(key)]
    found += [f"no job: {job}" for job in re.findall(r"jobs/\w+\.py", plain) if not (ROOT / job).is_file()]
    if text.part in ("problem", "fix") and (not plain.strip() or plain.rstrip().endswith(".")):
        found.append("empty, or ends in a period")
    if text.part == "fix" and NO_VERB.match(plain):
        found.append("a fix begins with what to do")
    return found


def test_every_error_is_seen_and_gives_all_its_parts():
    assert {"VavlError", "ConfigError", "NoSignalError", "SubmissionError"} <= error_kinds()
    made = [(module, call) for kind in error_kinds() for module, call in calls_by_name()[kind]]
    assert len(made) > 300
    assert [f"{module.path}:{call.lineno}" for module, call in made if len(call.args) != 4] == []
    read = [text for text in error_texts() if text.part in ("problem", "fix")]
    unread = [text for text in read if not VALUE.sub("", text.text).strip()]
    assert len(unread) < len(read) / 20, unread
    assert "cannot be decoded: «error»" in {text.text for text in read}, "a parameter is followed"


def test_every_text_reads_as_one_that_helps():
    assert [f"{text} {found}" for text in error_texts() if (found := errors_of(text))] == []


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("problem", "longer than N s"), ("problem", "has {count} clips"), ("problem", "has %d clips"),
        ("problem", ""), ("problem", "cannot be read."), ("fix", "export «name»=..."), ("fix", "is it the right file?"),
        ("fix", "set training.optimiser.seed"), ("fix", "set training.resumed=never"), ("fix", "start jobs/train.py"),
    ],
)  # fmt: skip
def test_a_text_that_does_not_help_is_noticed(part, text):
    assert errors_of(Text("here", part, text)) != []
