"""A model as files: weights (safetensors), configuration, feature statistics and label names (JSON)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vavl.config.base import FrozenConfig
from vavl.config.files import make_directory, read_json, sha256_of_file, write_json, written_beside
from vavl.data.batch import middle_frames
from vavl.errors import ConfigError, InputError
from vavl.features import FeatureStatistics, ModalityInfo, SpeakerNormalisation, SpeakerOrder
from vavl.models.clips import (
    CenteredClip,
    ClipFeatures,
    SpeakerMeans,
    TrainingProfile,
    batch_of,
    compare_clip,
    groups_of_like_length,
    logits_by_condition,
    logits_of_clips,
)
from vavl.models.cpu import use_onednn
from vavl.models.settings import AttributeTask, ClassTask, LadderShape, NetworkSettings, Task
from vavl.models.vavl import TRAINING_PREFIXES, Vavl, VavlOutput

__all__ = [
    "ClipFeatures",
    "ModalityDescription",
    "ModelDescription",
    "Prediction",
    "SavedModel",
    "build_network",
    "load_model",
    "save_model",
]

_WEIGHTS_FILE = "model.safetensors"
_DESCRIPTION_FILE = "model.json"
_CHECKSUM_KEY = "weights_sha256"
_FORMAT_VERSION = 2


class ModalityDescription(FrozenConfig):
    """What a model expects of one modality."""

    width: int = Field(ge=1, description="channels of a raw frame")
    layers: int = Field(1, ge=1, description="of a network, side by side in a frame, that the model weighs; else 1")
    statistics: dict[str, Any] = Field(description="FeatureStatistics of the training speakers; {} if not trained")
    trained: bool = Field(
        description="False when no labeled training clip had the modality; it cannot be predicted from"
    )
    extractor: dict[str, Any] = Field(description="name, version and settings of the feature extractor")
    profile: TrainingProfile | None = Field(
        None, description="of the training clips; None if not trained, and for a model of an earlier version"
    )


class ModelDescription(FrozenConfig):
    """Everything about a model but its weights."""

    format_version: int = _FORMAT_VERSION
    network: NetworkSettings
    task: Task = Field(discriminator="kind")
    audio: ModalityDescription
    video: ModalityDescription
    fusion_trained: bool
    speaker_normalisation: SpeakerNormalisation
    speaker_order: SpeakerOrder = "shuffled"
    max_frames: int
    provenance: dict[str, Any] = Field(description="corpus, card, store and configuration of the training run")
    class_shares: tuple[float, ...] | None = Field(
        None, description="of the labeled training clips, in the order of the classes; None as for profile"
    )

    @property
    def extractors(self) -> dict[str, dict[str, Any]]:
        """Provenance of the features by modality."""
        return {"audio": self.audio.extractor, "video": self.video.extractor}

    @property
    def profiles(self) -> dict[str, TrainingProfile | None]:
        """What is known of the training clips by modality."""
        return {"audio": self.audio.profile, "video": self.video.profile}


@dataclass(frozen=True)
class Prediction:
    """What a model says of one clip.

    Attributes:
        label: most probable class; empty for attributes.
        probabilities: of the classes; empty for attributes.
        attributes: by name; empty for classes.
        condition: modalities used: ``audio_video``, ``audio`` or ``video``.
        distance: from the training clips, see ``compare_clip``: above 1 the clip is out of their distribution; None
            where the model does not know.
        warning: what is unusual about the clip; empty if nothing is.
    """

    label: str
    probabilities: tuple[float, ...]
    attributes: Mapping[str, float]
    condition: str
    distance: float | None = None
    warning: str = ""

    @property
    def values(self) -> tuple[float, ...]:
        """Probabilities, or the values of the attributes, in the order of the task."""
        return self.probabilities or tuple(self.attributes.values())


class SavedModel:
    """A trained network that predicts from raw features, in float32 on the CPU unless moved.

    Args:
        network: with its weights.
        description: of the network and its inputs.
    """

    def __init__(self, network: Vavl, description: ModelDescription) -> None:
        self.network = network.eval()
        self.description = description
        self._statistics = {
            modality: FeatureStatistics.from_dict(part.statistics)
            for modality, part in (("audio", description.audio), ("video", description.video))
            if part.trained
        }

    def to(self, device: str) -> Self:
        """Move the network to "cpu" or "cuda"; clips follow it.

        Raises:
            ConfigError: there is no GPU here.
        """
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(
                "model", "device", "a GPU is asked for, and there is none here", "ask for none, or go to one"
            )
        self.network.to(device)
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the probabilities; empty for a model of attributes."""
        task = self.description.task
        return task.classes if isinstance(task, ClassTask) else ()

    def check_features(self, corpus: str, info: Mapping[str, ModalityInfo]) -> None:
        """Refuse features of a store that are not those the model was trained on.

        Args:
            corpus: of the store.
            info: what the store holds, by modality.

        Raises:
            StoreError: another corpus, extractor, settings or width.
        """
        for modality, statistics in self._statistics.items():
            if modality in info:
                statistics.check(corpus, info[modality])

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that it can predict from, each by itself."""
        return tuple(self._statistics)

    def check_single_clips(self) -> None:
        """Refuse a model that cannot predict clips by themselves.

        Raises:
            InputError: it needs other clips of each clip's speaker.
        """
        if self.description.speaker_normalisation != "none":
            raise _needs_speakers("model", "use a model trained with features.speaker_normalisation=none here")

    def speaker_means(self) -> SpeakerMeans | None:
        """Return what remembers the earlier clips of speakers, with none so far; None where the model needs none."""
        if self.description.speaker_normalisation != "causal_mean":
            return None
        priors = {name: one.normalisation.mean for name, one in self._statistics.items()}
        return SpeakerMeans(priors, self.description.max_frames)

    def predict(self, clips: Sequence[ClipFeatures]) -> list[Prediction]:
        """Predict clips from whatever modality each has; no prediction depends on the other clips.

        Raises:
            InputError: a clip has no modality that the model was trained on, the wrong number of
                channels, non-finite values, or the model needs other clips of its speaker.
        """
        found: list[Prediction] = []
        for number, one in enumerate(self.predict_each(clips)):
            if isinstance(one, InputError):
                raise InputError(f"clip {number}", one.field, one.problem, one.fix)
            found.append(one)
        return found

    def predict_each(self, clips: Sequence[ClipFeatures]) -> list[Prediction | InputError]:
        """Predict clips as ``predict`` does; the error of a clip stands in its place.

        A model of causal means takes clips that its ``speaker_means`` have centered.

        The clips go through the network in groups of like length, so that memory does not grow with their
        number. Another group changes a prediction by rounding alone (float32; up to 3e-7 of a probability with
        trained models).

        Raises:
            InputError: the model needs all clips of each speaker.
        """
        if self.description.speaker_normalisation in ("mean", "full"):
            self.check_single_clips()
        found: dict[int, Prediction | InputError] = {}
        usable: dict[int, ClipFeatures] = {}
        for place, clip in enumerate(clips):
            try:
                usable[place] = self._prepared(clip)
            except InputError as fault:
                found[place] = fault
        places, prepared = list(usable), list(usable.values())
        for group in groups_of_like_length(prepared):
            predictions = self._predict_group([prepared[member] for member in group])
            for member, one in zip(group, predictions, strict=True):
                place = places[member]
                found[place] = self._compared(one, clips[place], prepared[member])
        return [found[place] for place in range(len(clips))]

    def _compared(
        self, found: Prediction | InputError, clip: ClipFeatures, prepared: ClipFeatures
    ) -> Prediction | InputError:
        """Say next to a prediction how its clip compares with those of the training run."""
        if isinstance(found, InputError):
            return found
        frames = {name: len(values) for name, values in clip.by_modality.items()}
        distance, warning = compare_clip(self.description.profiles, frames, prepared.by_modality)
        return replace(found, distance=distance, warning=warning)

    @torch.inference_mode()
    def _predict_group(self, clips: Sequence[ClipFeatures]) -> list[Prediction | InputError]:
        """Predict prepared clips in one forward."""
        parts = self.description
        batch = batch_of(clips, parts.audio.width, parts.video.width, parts.task.outputs)
        device = next(self.network.parameters()).device
        output: VavlOutput = self.network(batch if device.type == "cpu" else batch.to(device))
        logits = logits_of_clips([clip.condition for clip in clips], logits_by_condition(output, batch))
        values = torch.softmax(logits, dim=-1) if isinstance(parts.task, ClassTask) else logits
        return [self._prediction(clip.condition, row) for clip, row in zip(clips, values.tolist(), strict=True)]

    def _prepared(self, clip: ClipFeatures) -> ClipFeatures:
        """Check, cut and normalize one clip; drop modalities that the model cannot use."""
        if self.description.speaker_normalisation == "causal_mean" and not isinstance(clip, CenteredClip):
            raise _needs_speakers("clip", "name the speaker of each clip, and give their clips in order")
        audio = self._normalised("audio", clip.audio, self.description.audio)
        video = self._normalised("video", clip.video, self.description.video)
        if audio is None and video is None:
            raise InputError(
                "clip", "audio, video", "has no modality that the model was trained on",
                "give at least one of them",
            )  # fmt: skip
        both_count = self.description.fusion_trained or audio is None
        return ClipFeatures(audio, video if both_count else None)

    def _normalised(
        self, modality: str, values: NDArray[np.float32] | None, part: ModalityDescription
    ) -> NDArray[np.float32] | None:
        if values is None or not part.trained:
            return None
        values = np.asarray(values, dtype=np.float32)
        if values.ndim != 2 or values.shape[1] != part.width or len(values) == 0:
            raise InputError(
                "clip", modality, f"has shape {values.shape}, expected (frames, {part.width})",
                f"extract it with {part.extractor.get('extractor', 'the extractor of the model')}",
            )  # fmt: skip
        if not np.isfinite(values).all():
            raise InputError("clip", modality, "holds NaN or infinite values", "check the extraction")
        return self._statistics[modality].normalisation.apply(middle_frames(values, self.description.max_frames))

    def _prediction(self, condition: str, values: list[float]) -> Prediction | InputError:
        if not all(map(math.isfinite, values)):
            return InputError(
                "clip", "", "its prediction is not finite: its features are far from those of the training run",
                "check the extraction",
            )  # fmt: skip
        match self.description.task:
            case ClassTask(classes=classes):
                return Prediction(classes[values.index(max(values))], tuple(values), {}, condition)
            case AttributeTask(attributes=names):
                return Prediction("", (), dict(zip(names, values, strict=True)), condition)


def _needs_speakers(what: str, fix: str) -> InputError:
    return InputError(what, "speaker_normalisation", "was trained on features normalized per speaker", fix)


def save_model(folder: Path, weights: Mapping[str, Tensor], description: ModelDescription) -> None:
    """Write a model without what only training needs; the description comes last and holds the checksum."""
    make_directory(folder)
    served = {name: value for name, value in weights.items() if not name.startswith(TRAINING_PREFIXES)}
    with written_beside(folder / _WEIGHTS_FILE) as partial:
        save_file({name: value.contiguous() for name, value in served.items()}, partial)
        checksum = sha256_of_file(partial)
    content = {**description.model_dump(mode="json"), _CHECKSUM_KEY: checksum}
    write_json(folder / _DESCRIPTION_FILE, content)


def load_model(folder: Path) -> SavedModel:
    """Read what ``save_model`` wrote.

    Raises:
        InputError: files missing, broken, of another format, or weights that do not fit.
    """
    description, checksum = _read_description(folder / _DESCRIPTION_FILE)
    weights = folder / _WEIGHTS_FILE
    network = build_network(description)
    try:
        if sha256_of_file(weights) != checksum:
            raise InputError(
                str(weights), "", f"cannot be used: not the file that {_DESCRIPTION_FILE} describes",
                "restore both files together, or export the model again",
            )  # fmt: skip
        network.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as fault:
        raise InputError(str(weights), "", f"cannot be used: {fault}", "export the model again") from None
    return SavedModel(network, description)


def _read_description(file: Path) -> tuple[ModelDescription, str]:
    """Return the description and the checksum of the weights."""
    content = read_json(file)
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != _FORMAT_VERSION:
        raise InputError(
            str(file), "format_version", f"is {version}, this version reads {_FORMAT_VERSION}",
            "use the version that wrote it",
        )  # fmt: skip
    checksum = str(content.pop(_CHECKSUM_KEY, ""))
    try:
        return ModelDescription.model_validate(content), checksum
    except ValidationError as fault:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}" for error in fault.errors()
        )
        raise InputError(str(file), "", f"not a model description: {faults}", "restore the file") from None


def build_network(
    description: ModelDescription,
    ladder: LadderShape | None = None,
    contrast_size: int = 0,
    *,
    activation_checkpointing: bool = False,
) -> Vavl:
    """Build the network that a description names, with fresh weights.

    Args:
        description: of the model.
        ladder: adds the decoders that train one.
        contrast_size: adds the projections that the contrastive objective compares; 0 for none.
        activation_checkpointing: how it trains, not what it computes; see ``Vavl``.
    """
    audio, video, outputs = description.audio.width, description.video.width, description.task.outputs
    layers = description.audio.layers, description.video.layers
    options: dict[str, Any] = {"activation_checkpointing": activation_checkpointing, "layers": layers}
    if ladder is None:
        network = Vavl(description.network, audio, video, outputs, **options)
    else:
        from vavl.models.ladder import LadderVavl  # no registered model carries it

        network = LadderVavl(description.network, audio, video, outputs, ladder, **options)
    if contrast_size:
        network.add_contrast(contrast_size)  # last, so that all other weights are drawn as without them
    use_onednn(network)
    return network
