"""A saved model as an ONNX file, and a gate: onnxruntime has to say what the model says.

The graph takes raw features, as a store holds them or an extractor gives them, and holds normalization and softmax.
With N clips, T frames and C channels its inputs are, for every modality that was trained, ``<modality>`` (N, T, C),
float32, and ``<modality>_frames`` (N,), int64: how many of the T are real. Outputs are, for every condition that was
trained, ``audio_video_prediction``, ``audio_prediction`` and ``video_prediction`` (N, outputs), float32: probabilities
of the classes, or attributes. A clip that lacks a modality gets one frame of anything, and counts by the condition of
the other alone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from vavl.config.base import FrozenConfig
from vavl.config.files import make_directory, written_beside
from vavl.errors import ConfigError, PredictionError
from vavl.features import AUDIO, AUDIO_VIDEO, VIDEO, FeatureStatistics
from vavl.models.cpu import use_onednn
from vavl.models.saved_model import ClipFeatures, ModelDescription, SavedModel, load_model
from vavl.models.settings import ClassTask

OPSET = 18
"""Of the file: the first with LayerNormalization in one operator that onnxruntime has on every platform."""
MODEL_FILE = "model.onnx"
_LENGTHS = (1, 2, 7, 40, 150)
"""Frames of the clips that are compared, no more than the model takes."""
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class ExportSettings(FrozenConfig):
    """Which model is exported, and how exact the file has to be."""

    model: str = Field(description="models:/NAME@ALIAS, models:/NAME/VERSION, or a directory of a run or a model")
    tolerance: float = Field(
        1e-4, gt=0, description="largest difference of a probability or an attribute from the model's own"
    )
    seed: int = Field(0, ge=0, description="of the random clips that are compared")


class ExportGraph(nn.Module):
    """The network from raw padded features to predictions by condition; its forward is what is exported.

    Args:
        model: whose network has torch's own linear layers from now on.
    """

    def __init__(self, model: SavedModel) -> None:
        super().__init__()
        self.network = model.network
        use_onednn(self.network, on=False)
        description = model.description
        self.modalities = model.modalities
        self.is_classes = isinstance(description.task, ClassTask)
        self.conditions = conditions_of(description)
        for name in self.modalities:
            statistics = FeatureStatistics.from_dict(getattr(description, name).statistics).normalisation
            self.register_buffer(f"{name}_mean", torch.from_numpy(statistics.mean))
            self.register_buffer(f"{name}_std", torch.from_numpy(statistics.std))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Predict; values and frames of each modality in turn, see the module."""
        found: dict[str, Tensor] = {}
        representations: list[Tensor] = []
        for name, values, frames in zip(self.modalities, inputs[::2], inputs[1::2], strict=True):
            normalized = (values - self.get_buffer(f"{name}_mean")) / self.get_buffer(f"{name}_std")
            is_real = torch.arange(values.shape[1]) < frames.unsqueeze(1)
            path = getattr(self.network, f"{name}_path")
            representation = self.network.encode(path, normalized, is_real, None).representation
            representations.append(representation)
            found[name] = path.head(representation)
        if AUDIO_VIDEO in self.conditions:
            found[AUDIO_VIDEO] = self.network.fusion_head(torch.cat(representations, dim=-1))
        logits = [found[condition] for condition in self.conditions]
        return tuple(torch.softmax(one, dim=-1) for one in logits) if self.is_classes else tuple(logits)


def conditions_of(description: ModelDescription) -> tuple[str, ...]:
    """Return the conditions that a model was trained for, in the order of the outputs."""
    trained = [name for name in (AUDIO, VIDEO) if getattr(description, name).trained]
    return (*([AUDIO_VIDEO] if description.fusion_trained and len(trained) == 2 else []), *trained)


def output_names(description: ModelDescription) -> list[str]:
    """Return the names of the outputs; those of the inputs are the modalities themselves."""
    return [f"{condition}_prediction" for condition in conditions_of(description)]


def check_packages() -> None:
    """Refuse to begin without the packages of the extra. Raises ConfigError if one of them cannot be imported."""
    for name in _PACKAGES:
        try:
            __import__(name)
        except ImportError as error:
            fix = "pip install --constraint constraints.txt --editable '.[export]'"
            raise ConfigError("environment", name, f"{name} cannot be imported: {error}", fix) from None


def export_onnx(directory: Path, settings: ExportSettings, output_dir: Path) -> dict[str, Any]:
    """Write ``model.onnx`` and compare it; nothing is left there that failed.

    Returns:
        What ``summary.json`` holds of it: file, opset, inputs, outputs, tolerance, largest difference by condition.

    Raises:
        InputError: no model, or one that needs statistics of each clip's speaker.
        ConfigError: a package is missing.
        PredictionError: the file differs from the model by more than the tolerance.
    """
    check_packages()
    model = load_model(directory)
    model.check_single_clips()
    # Before the graph takes the network off its fast paths: what is compared is the model as every job runs it.
    clips = _random_clips(model, settings.seed)
    expected = model.predict(clips)
    target, start = make_directory(output_dir) / MODEL_FILE, time.monotonic()
    target.unlink(missing_ok=True)
    with written_beside(target) as partial:
        _write(model, partial)
        found = _run(partial, model.description, clips)
        differences: dict[str, float] = {}
        for prediction, values in zip([*expected, *expected], found, strict=True):
            largest = float(np.abs(np.array(prediction.values) - values[prediction.condition]).max())
            differences[prediction.condition] = max(differences.get(prediction.condition, 0.0), largest)
        worst = max(differences.values())
        if not worst <= settings.tolerance:
            problem = f"differs from the model by {worst:.2g}, {settings.tolerance:g} is allowed"
            fix = "raise tolerance if that is enough for its use; the file was not kept"
            raise PredictionError(MODEL_FILE, "tolerance", problem, fix)
    return {
        "file": str(target),
        "bytes": target.stat().st_size,
        "opset": OPSET,
        "inputs": [one for name in model.modalities for one in (name, f"{name}_frames")],
        "outputs": output_names(model.description),
        "classes": list(model.classes),
        "tolerance": settings.tolerance,
        "largest_difference": differences,
        "compared_clips": len(clips),
        "seconds": time.monotonic() - start,
        "versions": {name: version(name) for name in ("torch", *_PACKAGES)},
    }


def result_rows(exported: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the table that the job prints."""
    differences = exported["largest_difference"].items()
    return [
        ("file", f"{exported['file']}, opset {exported['opset']}, {exported['bytes'] / 1e6:.1f} MB"),
        ("inputs", ", ".join(exported["inputs"])),
        ("outputs", ", ".join(exported["outputs"])),
        *((f"largest difference, {name}", f"{one:.1e}") for name, one in differences),
        ("allowed", f"{exported['tolerance']:g}, over {exported['compared_clips']} random clips"),
    ]


def _write(model: SavedModel, target: Path) -> None:
    """Write the file, with its facts in its metadata."""
    import onnx

    graph, parts = ExportGraph(model).eval(), model.description
    clips = torch.export.Dim("clips")
    example: list[Tensor] = []
    shapes: list[Mapping[int, Any]] = []
    for name in graph.modalities:
        example += [torch.zeros(2, 5, getattr(parts, name).width), torch.tensor([5, 3])]
        shapes += [{0: clips, 1: torch.export.Dim(f"{name}_time")}, {0: clips}]
    with _quiet():
        program = torch.onnx.export(
            graph,
            tuple(example),
            input_names=[one for name in graph.modalities for one in (name, f"{name}_frames")],
            output_names=output_names(parts),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(tuple(shapes),),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    facts = {
        "task": parts.task.model_dump_json(),
        "max_frames": str(parts.max_frames),
        "extractors": json.dumps(parts.extractors),
        "provenance": json.dumps(parts.provenance),
    }
    onnx.helper.set_model_props(proto, {f"vavl.{name}": value for name, value in facts.items()})
    onnx.checker.check_model(proto)
    target.write_bytes(proto.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter says of itself: hundreds of lines."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _random_clips(model: SavedModel, seed: int) -> list[ClipFeatures]:
    """Draw raw features around the training's, of every length and condition."""
    parts, generator = model.description, np.random.default_rng(seed)

    def draw(name: str, frames: int) -> NDArray[np.float32]:
        statistics = FeatureStatistics.from_dict(getattr(parts, name).statistics).normalisation
        noise = generator.normal(size=(frames, getattr(parts, name).width))
        return (statistics.mean + statistics.std * noise).astype(np.float32)

    lengths = sorted({min(frames, parts.max_frames) for frames in _LENGTHS})
    clips: list[ClipFeatures] = []
    for condition in conditions_of(parts):
        if condition == AUDIO_VIDEO:
            clips += [ClipFeatures(draw(AUDIO, one), draw(VIDEO, other)) for one, other in product(lengths, lengths)]
        else:
            clips += [ClipFeatures(**{condition: draw(condition, frames)}) for frames in lengths]
    return clips


def _run(
    file: Path, description: ModelDescription, clips: Sequence[ClipFeatures]
) -> list[dict[str, NDArray[np.float32]]]:
    """Return what onnxruntime says of each clip by condition: each by itself, then all of them in one padded batch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    names = conditions_of(description)

    def predict(batch: Sequence[ClipFeatures]) -> list[dict[str, NDArray[np.float32]]]:
        inputs: dict[str, NDArray[Any]] = {}
        for modality in (name for name in (AUDIO, VIDEO) if getattr(description, name).trained):
            nothing = np.zeros((1, getattr(description, modality).width), np.float32)
            values = [nothing if one is None else one for one in (getattr(clip, modality) for clip in batch)]
            longest = max(map(len, values))
            inputs[modality] = np.stack([np.pad(one, ((0, longest - len(one)), (0, 0))) for one in values])
            inputs[f"{modality}_frames"] = np.array([len(one) for one in values])
        rows = session.run(None, inputs)
        return [dict(zip(names, row, strict=True)) for row in zip(*rows, strict=True)]

    return [*(predict([clip])[0] for clip in clips), *predict(clips)]
