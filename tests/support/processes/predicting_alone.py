"""Program: loads a registered model and predicts, in an environment of the model's own requirements.

    python predicting_alone.py MODEL_FOLDER TABLE.json ANSWER.json [--hide]

TABLE.json holds the rows. With ``--hide`` every package that the model's requirements.txt does not ask for, itself
or through another package, is hidden first, and so is the project: what is left is what a fresh environment has.
Uses nothing of the project but what the model brings along.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from pathlib import Path

ABSENT = ("ray", "deepspeed", "optuna", "transformers", "datasets")


def main() -> int:
    folder, table, answer = (Path(word) for word in sys.argv[-3:])
    if "--hide" in sys.argv:
        hide_all_but(required_packages(folder / "requirements.txt"))
    for name in ABSENT:
        try:
            __import__(name)
        except ModuleNotFoundError:
            continue
        raise SystemExit(f"{name} is installed here")

    import mlflow.pyfunc
    import pandas as pd

    model = mlflow.pyfunc.load_model(str(folder))
    found = model.predict(pd.DataFrame(json.loads(table.read_text())))
    import vavl

    if not Path(vavl.__file__).is_relative_to(folder):
        raise SystemExit(f"{vavl.__file__} is not the model's own code")
    answer.write_text(found.to_json(orient="records"))
    return 0


def required_packages(file: Path) -> set[str]:
    """Return the installed packages that a requirements file asks for, and those that they ask for."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [Requirement(line) for line in file.read_text().split()]
    while waiting:
        one = waiting.pop()
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        if _plain(one.name) not in found:
            found.add(_plain(one.name))
            waiting += [Requirement(line) for line in importlib.metadata.requires(one.name) or ()]
    return found


def hide_all_but(packages: set[str]) -> None:
    """Let the modules of all other packages be missing."""
    owners = importlib.metadata.packages_distributions()
    hidden = {module for module, names in owners.items() if not {_plain(name) for name in names} & packages}
    sys.path = [entry for entry in sys.path if not (entry.endswith("platform") or "support" in entry)]
    sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
    sys.meta_path.insert(0, _Absent(hidden - {"pip", "setuptools", "pkg_resources"}))


class _Absent:
    """Says of some modules that there are none."""

    def __init__(self, modules: set[str]) -> None:
        self._modules = modules

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self._modules and name not in sys.modules:
            raise ModuleNotFoundError(f"No module named {name!r}: hidden by the test", name=name)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    raise SystemExit(main())
