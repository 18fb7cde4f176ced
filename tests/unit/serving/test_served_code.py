"""What a registered model carries: the code that its prediction imports, measured and whole."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

import vavl
from vavl.serving.registry import import_closure, serving_code
from vavl.serving.served_code import code_hash

PACKAGE = Path(vavl.__file__).parent
ENTRY = PACKAGE / "serving/served_model.py"
MOST_FILES, MOST_LINES = 39, 6720
FOREIGN = {"fsspec", "yaml", "ray", "deepspeed", "datasets", "optuna", "matplotlib", "rich"}
EXTRACTORS = (
    ("log_mel", "face_descriptor"),
    ("functionals", "image_network"),
    ("opensmile", "openface"),
    ("speech_transformer", "face_descriptor"),
    ("table:0123", "csd:0123"),
)


def code_of(audio: str, video: str) -> list[str]:
    parts = {"audio": audio, "video": video}
    return serving_code({name: {"extractor": {"extractor": extractor}} for name, extractor in parts.items()})


def imported_at_once(file: Path) -> set[str]:
    """Return the dotted names that a file imports when it is imported, not within functions."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_a_model_of_the_default_extractors_carries_little() -> None:
    files = [ENTRY, *(PACKAGE / name for name in code_of("log_mel", "face_descriptor"))]
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    assert len(files) <= MOST_FILES
    assert lines <= MOST_LINES


def test_it_carries_every_extractor_whose_channels_are_joined() -> None:
    parts = [{"extractor": "functionals"}, {"extractor": "speech_transformer"}]
    audio = {"extractor": "functionals+speech_transformer", "settings": {"parts": parts}}
    names = serving_code({"audio": {"extractor": audio}, "video": {"extractor": {"extractor": "table:0123"}}})
    assert {"extractors/functionals.py", "extractors/speech_transformer.py", "extractors/combined.py"} <= set(names)
    assert "extractors/opensmile_features.py" not in names
    pooled = {"extractor": "log_mel", "settings": {"pooling": "statistics"}}
    for extractor, is_carried in ((pooled, True), ({"extractor": "log_mel", "settings": {}}, False)):
        names = serving_code({"audio": {"extractor": extractor}, "video": {"extractor": {}}})
        assert ("extractors/combined.py" in names) == is_carried


@pytest.mark.parametrize("extractors", EXTRACTORS, ids="-".join)
def test_it_carries_no_store_no_card_and_no_engine(extractors: tuple[str, str]) -> None:
    names = code_of(*extractors)
    assert {name.split("/")[0] for name in names if "/" in name} == {
        "config", "data", "extractors", "media", "models", "serving",
    }  # fmt: skip
    imported = {name.split(".")[0] for file in names for name in imported_at_once(PACKAGE / file)}
    assert "torch" in imported
    assert not imported & FOREIGN


@pytest.mark.parametrize("extractors", EXTRACTORS, ids="-".join)
def test_whatever_its_files_import_at_once_is_there(extractors: tuple[str, str]) -> None:
    names = set(code_of(*extractors))
    assert all((PACKAGE / name).is_file() for name in names)
    for name in names:
        for module in imported_at_once(PACKAGE / name):
            if module.split(".")[0] == "vavl":
                path = "/".join(module.split(".")[1:])
                assert {f"{path}.py", f"{path}/__init__.py".lstrip("/")} & names, (name, module)


@pytest.mark.parametrize(
    ("name", "module"),
    [("functionals", "functionals"), ("opensmile", "opensmile_features"), ("speech_transformer", "speech_transformer")],
)
def test_it_carries_the_extractors_that_it_was_trained_with(name: str, module: str) -> None:
    file = f"extractors/{module}.py"
    assert file in code_of(name, "face_descriptor")
    assert file not in code_of("log_mel", "face_descriptor")


def test_imports_are_followed_through_packages_and_functions(tmp_path: Path) -> None:
    package = tmp_path / "made"
    (package / "inner").mkdir(parents=True)
    content = {
        "__init__.py": "", "inner/__init__.py": "", "entry.py": "from made import one\nimport os\n",
        "one.py": "def f():\n    from made.inner.two import g\n    import made.skipped\n",
        "inner/two.py": "import made.entry\n", "skipped.py": "", "other.py": "",
    }  # fmt: skip
    for name, text in content.items():
        (package / name).write_text(text)
    found = import_closure(package, "made.entry", {"made.skipped"})
    assert found == ["__init__.py", "inner/__init__.py", "inner/two.py", "one.py"]


def test_only_a_change_of_what_it_carries_is_another_code(tmp_path: Path) -> None:
    names = code_of("log_mel", "face_descriptor")
    copy = tmp_path / "vavl"
    shutil.copytree(PACKAGE, copy)
    made_with = code_hash(copy, names)
    assert made_with == code_hash(PACKAGE, names)
    (copy / "training/loop.py").write_text("# a comment\n")
    assert code_hash(copy, names) == made_with
    (copy / "models/vavl.py").write_text("# a comment\n")
    assert code_hash(copy, names) != made_with
    (copy / "models/vavl.py").unlink()
    assert code_hash(copy, names) != made_with
