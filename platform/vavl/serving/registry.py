"""Registers a model directory as an MLflow model that is code and files, without any pickle."""

from __future__ import annotations

import ast
import json
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.version import Version

import vavl
from vavl.config.files import read_json
from vavl.errors import TrackingError
from vavl.features import MODALITIES, parts_of
from vavl.serving.served_code import (
    CHECKSUMS_TAG,
    CODE_FILES_KEY,
    CODE_HASH_KEY,
    code_hash,
    write_checksums,
)
from vavl.serving.served_rows import INPUT_COLUMNS, SPEAKER_COLUMN, value_columns
from vavl.tracking.holdings import ModelNote, holds_files, version_of
from vavl.tracking.mlflow_writer import logged_model_of
from vavl.tracking.run import score_table

_NAME_IN_RUN = "model"
_TAG_LIMIT = 5000
_FACTS = ("corpus", "protocol", "fold", "label_set", "label_target", "speaker_normalisation", "waived_audit")
# What a prediction imports. Ray and DeepSpeed are absent on purpose: serving needs neither.
_SERVING_PACKAGES = (
    "av", "mlflow", "numpy", "opencv-python-headless", "pandas", "pyarrow",
    "pydantic", "pyyaml", "regex", "rich", "safetensors", "scipy", "soundfile", "torch",
)  # fmt: skip
# What some extractors need next to it: modules that are imported for them alone, and packages.
_EXTRACTOR_MODULES = {
    "combined": "vavl.extractors.combined",  # statistics of frames, several extractors
    "functionals": "vavl.extractors.functionals",
    "image_network": "vavl.extractors.image_network",
    "openface": "vavl.extractors.openface",
    "opensmile": "vavl.extractors.opensmile_features",
    "speech_transformer": "vavl.extractors.speech_transformer",
}
_ONLY_TRAINING = {"vavl.models.ladder", "vavl.models.triton_kernels"}
_EXTRACTOR_PACKAGES = {
    "image_network": ("transformers",), "speech_transformer": ("transformers",), "opensmile": ("opensmile",),
}  # fmt: skip


def register_model(client: Any, mlflow_run_id: str, note: ModelNote) -> str:
    """Log ``note.directory`` as a pyfunc model of the run and register a version of it.

    ``mlflow_run_id``: the run that trained the model.

    Returns:
        The version, as MLflow writes it ("1", "2", ...).

    Raises:
        TrackingError: the directory is no model directory.
        MlflowException: the store refused.
    """
    version = version_of(client, mlflow_run_id, note)
    if version is None:
        version = _make_version(client, mlflow_run_id, note)
    elif not holds_files(client, version, note):
        logged = client.get_logged_model(logged_model_of(version))
        checksums = _log_files(client, note, logged, mlflow_run_id)
        client.set_model_version_tag(note.name, version.version, CHECKSUMS_TAG, checksums)
    if not version.description:
        client.update_model_version(note.name, version.version, version_page(note, version.version))
    return str(version.version)


def _make_version(client: Any, mlflow_run_id: str, note: ModelNote) -> Any:
    logged, checksums = _log_model(client, mlflow_run_id, note)
    _make_registered_model(client, note.name)
    # A server finds the model by its id; without one MLflow would look it up in another store, its global one.
    over_http = client.tracking_uri.startswith("http")
    source = f"models:/{logged.model_id}" if over_http else logged.artifact_location
    facts = {key: str(value)[:_TAG_LIMIT] for key, value in note.tags.items()}
    made = client.create_model_version(
        note.name,
        source=source,
        run_id=mlflow_run_id,
        model_id=logged.model_id,
        tags={**note.marks, CHECKSUMS_TAG: checksums, **facts},
    )
    # MLflow's pages follow this tag from the run's model to its version.
    link = json.dumps([{"name": note.name, "version": made.version}])
    client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": link})
    return made


def version_page(note: ModelNote, version: str) -> str:
    """Return the description of a version, in Markdown: its scores, what it was trained on, how to load it."""
    scores = {name: value for name, value in note.tags.items() if name.count("/") == 2}
    facts = [f"- {name}: {note.tags[name]}" for name in _FACTS if note.tags.get(name) not in (None, "")]
    return "\n".join(
        [
            *score_table({name: float(value) for name, value in scores.items()}),
            "",
            *facts,
            "",
            *_loading(f"models:/{note.name}/{version}"),
        ]
    )


def _loading(address: str) -> list[str]:
    return [
        "```python",
        "import mlflow, pandas",
        "",
        f'model = mlflow.pyfunc.load_model("{address}")',
        'model.predict(pandas.DataFrame({"audio_path": ["clip.wav"], "video_path": ["clip.mp4"]}))',
        "```",
    ]


def _log_model(client: Any, mlflow_run_id: str, note: ModelNote) -> tuple[Any, str]:
    """Write the files of the model into the store, as an output of the run; see ``_log_files``."""
    from mlflow.entities import LoggedModelOutput

    experiment_id = client.get_run(mlflow_run_id).info.experiment_id
    logged = client.create_logged_model(
        experiment_id, name=_NAME_IN_RUN, source_run_id=mlflow_run_id, model_type="vavl"
    )
    try:
        checksums = _log_files(client, note, logged, mlflow_run_id)
    except Exception:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(mlflow_run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return logged, checksums


def _log_files(client: Any, note: ModelNote, logged: Any, mlflow_run_id: str) -> str:
    """Write the files of the model into the store; returns the SHA-256 of their list of checksums."""
    from mlflow.models import Model

    # The same files whenever they are written: a version that lost one gets it back under the same checksums.
    moment = datetime.fromtimestamp(logged.creation_timestamp / 1000, UTC)
    description = Model(
        artifact_path=logged.artifact_location,
        run_id=mlflow_run_id,
        model_id=logged.model_id,
        model_uuid=logged.model_id,
        utc_time_created=str(moment.replace(tzinfo=None)),
    )
    with tempfile.TemporaryDirectory(prefix="vavl-model-") as temporary:
        directory = Path(temporary) / "model"
        checksums = save_served_model(note.directory, directory, description)
        client.log_model_artifacts(logged.model_id, str(directory))
    return checksums


def save_served_model(model_directory: Path, target: Path, description: Any = None) -> str:
    """Write the MLflow form of a model directory: its files, the code that reads them, no pickle, and checksums.

    ``description``: ``mlflow.models.Model`` to complete; a new one by default.

    Returns:
        The SHA-256 of the list of checksums.

    Raises:
        TrackingError: the directory is no model directory.
    """
    import mlflow.pyfunc

    model = _model_description(model_directory)
    package = Path(vavl.__file__).parent
    with tempfile.TemporaryDirectory(prefix="vavl-code-") as temporary:
        code, files = Path(temporary) / package.name, Path(temporary) / _NAME_IN_RUN
        names = serving_code(model)
        for name in names:
            (code / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package / name, code / name)
        shutil.copytree(model_directory, files)
        mlflow.pyfunc.save_model(
            path=str(target),
            mlflow_model=description,
            python_model=str(package / "serving" / "served_model.py"),
            artifacts={_NAME_IN_RUN: str(files)},
            code_paths=[str(code)],
            pip_requirements=serving_requirements(model),
            signature=_signature(model),
            input_example=_example(model),
            model_config={CODE_HASH_KEY: code_hash(package, names), CODE_FILES_KEY: names},
        )
    for cache in list(target.rglob("__pycache__")):
        shutil.rmtree(cache)
    _forget_temporary_places(target)
    return write_checksums(target)


def _forget_temporary_places(target: Path) -> None:
    """Name no directory of this machine in MLmodel: nobody could find it, and it differs whenever files are written."""
    from mlflow.models import Model

    description = Model.load(str(target))
    description.flavors["python_function"]["artifacts"][_NAME_IN_RUN]["uri"] = _NAME_IN_RUN
    description.save(str(target / "MLmodel"))


def _model_description(model_directory: Path) -> dict[str, Any]:
    file = model_directory / "model.json"
    if not file.exists():
        raise TrackingError(str(file), "", "the file does not exist", "give the directory that training wrote")
    description: dict[str, Any] = read_json(file)
    return description


def _example(model: Mapping[str, Any]) -> Any:
    """Return a table of one clip of one silent frame; it shows callers the form of the input."""
    import pandas as pd  # comes with MLflow

    sides = {f"{modality}_features": [[[0.0] * model[modality]["width"]]] for modality in MODALITIES}
    more = {name: ["anna"] for name in _input_columns(model) if name == SPEAKER_COLUMN}
    return pd.DataFrame({**sides, **more})


def serving_code(model: Mapping[str, Any]) -> list[str]:
    """Return the files of the package that a prediction needs, relative to it.

    Args:
        model: its description, as in ``model.json``; it brings its own extractors and no others.
    """
    # A plug-in may import any of the extractors.
    used = set(_EXTRACTOR_MODULES) if _plugin_distributions_of(model) else _extractors_of(model)
    without = {module for name, module in _EXTRACTOR_MODULES.items() if name not in used} | _ONLY_TRAINING
    return import_closure(Path(vavl.__file__).parent, "vavl.serving.served_model", without)


def import_closure(package: Path, entry: str, without: Collection[str] = ()) -> list[str]:
    """Return the files of ``package`` that a module imports, itself, through others, and within functions.

    ``entry``: dotted name of the module, the name of the package included. ``without``: modules that are imported
    within functions and are known not to be needed.

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


def _extractors_of(model: Mapping[str, Any]) -> set[str]:
    parts = _parts_of(model)
    is_combined = len(parts) > len(MODALITIES) or any(part.get("settings", {}).get("pooling") for part in parts)
    return {str(part.get("extractor")) for part in parts} | ({"combined"} if is_combined else set())


def _plugin_distributions_of(model: Mapping[str, Any]) -> set[str]:
    settings = [part.get("settings", {}) for part in _parts_of(model)]
    return {str(one["distribution"]) for one in settings if "distribution" in one}


def _parts_of(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [part for modality in MODALITIES for part in parts_of(model[modality]["extractor"])]


def serving_requirements(model: Mapping[str, Any]) -> list[str]:
    """Return ``package==version`` for what a prediction needs, at the versions in use where it is installed.

    Args:
        model: its description, as in ``model.json``; some extractors need packages of their own.
    """
    more = {package for name in _extractors_of(model) for package in _EXTRACTOR_PACKAGES.get(name, ())}
    lines = []
    for name in sorted({*_SERVING_PACKAGES, *more, *_plugin_distributions_of(model)}):
        try:
            # "2.13.0+cpu" names a build that package indexes do not serve under that name.
            lines.append(f"{name}=={Version(version(name)).public}")
        except PackageNotFoundError:  # an extra that the training had and this machine has not
            lines.append(name)
    return lines


def _input_columns(model: Mapping[str, Any]) -> tuple[str, ...]:
    needs_speaker = model.get("speaker_normalisation") == "causal_mean"
    return (*INPUT_COLUMNS, SPEAKER_COLUMN) if needs_speaker else INPUT_COLUMNS


def _signature(model: Mapping[str, Any]) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Object, ParamSchema, ParamSpec, Property

    values, classes = value_columns(model["task"]), model["task"].get("classes") or ()
    # One refused cell would refuse the whole table. Columns of strings refuse an empty column of a CSV file, which is
    # one of NaN; columns of bytes the None of a row without them; nested arrays lists. A row says itself what is wrong.
    inputs = Schema([ColSpec(AnyType(), name, required=False) for name in _input_columns(model)])
    outputs = [ColSpec(DataType.string, "label", required=False)]
    outputs += [ColSpec(DataType.double, name, required=False) for name in values]
    outputs += [ColSpec(DataType.string, name, required=False) for name in ("condition", "error")]
    outputs += [ColSpec(DataType.boolean, "out_of_distribution", required=False)]
    outputs += [ColSpec(DataType.double, "distance", required=False)]
    outputs += [ColSpec(DataType.string, "warning", required=False)]
    if not classes:
        return ModelSignature(inputs=inputs, outputs=Schema(outputs))
    shares = Object([Property(name, DataType.double, required=False) for name in classes])
    params = ParamSchema(
        [
            ParamSpec("classes", DataType.string, [], (-1,)),
            ParamSpec("abstain_below", DataType.double, None),
            ParamSpec("class_shares", shares, {}),
            ParamSpec("training_shares", shares, {}),
        ]
    )
    return ModelSignature(inputs=inputs, outputs=Schema(outputs), params=params)


def _make_registered_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        page = ["What people load has the alias `champion`, once a version has been promoted:", ""]
        client.create_registered_model(name, description="\n".join([*page, *_loading(f"models:/{name}@champion")]))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
