"""Features of the face per frame from a pretrained image network: EfficientNet, ViT, MobileNet V1 and V2."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from vavl.errors import ConfigError
from vavl.extractors.extracted import Extracted
from vavl.extractors.face_detectors import with_detector_hash
from vavl.extractors.faces import FaceCutter, FaceFinder, FaceTrack, face_frames, require_kept
from vavl.extractors.pretrained import (
    AGAIN,
    ModelFiles,
    find_model,
    inference,
    load_model,
    recorded_settings,
    transformers_module,
)
from vavl.extractors.settings import ImageNetworkSettings
from vavl.features import ModalityInfo
from vavl.media.media import Pictures

NAME = "image_network"
VERSION = "1"
KEY = "features.video.backbone"
KINDS = ("efficientnet", "vit", "mobilenet_v1", "mobilenet_v2")
_PREPROCESSING = "preprocessor_config.json"


@dataclass(frozen=True)
class Preprocessing:
    """What a network is fed with: (value * factor - offset - mean) / std, channel by channel."""

    side_px: int  # of its square input; the face is cut out at this size, nothing is cropped off again
    factor: float  # on values 0 .. 255
    offset: float  # subtracted after the factor
    mean: tuple[float, ...]  # of red, green, blue
    std: tuple[float, ...]  # of red, green, blue

    @classmethod
    def of(cls, files: ModelFiles) -> Self:
        """Read the values of a model's preprocessor_config.json.

        Raises:
            ConfigError: a value is missing, or the input is not square.
        """
        content = files.read_json(_PREPROCESSING)
        try:
            is_normalised = bool(content.get("do_normalize", True))
            mean = tuple(map(float, content["image_mean"])) if is_normalised else (0.0,) * 3
            std = tuple(map(float, content["image_std"])) if is_normalised else (1.0,) * 3
            if _divides_twice(content):
                # EfficientNet's classifiers were trained on pictures divided once more by the deviation.
                std = tuple(value * float(again) for value, again in zip(std, content["image_std"], strict=True))
            factor = float(content.get("rescale_factor", 1 / 255)) if content.get("do_rescale", True) else 1.0
            if len(mean) != 3 or len(std) != 3 or not all(std):
                raise ValueError("image_mean and image_std need three values, deviations not 0")
            side = _side(content)
        except (KeyError, TypeError, ValueError) as error:
            problem = f"not that of an image network: {error!r}"
            raise ConfigError(str(files.directory / _PREPROCESSING), "", problem, AGAIN) from None
        return cls(side, factor, float(bool(content.get("rescale_offset", False))), mean, std)

    def __call__(self, crops: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
        """Return crops (crop, row, column, RGB) as (crop, RGB, row, column), float32 on the device."""
        values = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(row, device=device).view(1, 3, 1, 1) for row in (self.mean, self.std))
        return (values * self.factor - self.offset - mean) / std


class ImageNetworkExtractor:
    """Decodes a video, follows the face and runs the network on the crop of every frame.

    The video is decoded twice, once to follow the face and once to cut it out at full size: memory does
    not grow with the clip. Holds the network, so make one and use it for many clips.

    Args:
        settings: network, frame rate, faces and crop.

    Raises:
        ConfigError: a file of the network or of the face detector is missing or broken.
    """

    def __init__(self, settings: ImageNetworkSettings) -> None:
        self.settings = settings
        self._finder = FaceFinder(settings.faces, settings.frame_rate_hz)
        files = _find(settings)
        self._preprocessing = Preprocessing.of(files)
        self._network = load_model(files, settings.backbone, KEY, **_options(files))
        self._device = next(self._network.parameters()).device

    def extract(self, path: Path, known: FaceTrack | None = None) -> Extracted:
        """Return the pooled output of the network for every frame: of the face that is followed, or of a known track.

        Raises:
            ClipError: the video cannot be read (see ``vavl.media.media``), or no frame of it is kept.
        """
        pictures = self._pictures(path)
        times: list[float] = []
        track = self._finder.track(_noting(pictures, times), known)
        require_kept(path, track)
        values = np.concatenate([self.describe(crops) for crops in self._crops(path, track)])
        return face_frames(path, values, np.array(times), track, pictures.facts)

    def describe(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the pooled output (crop, channel), float32, for crops (crop, row, column, RGB)."""
        inputs = self._preprocessing(crops, self._device)
        with inference(self.settings.backbone, self._device):
            pooled = _pooled(self._network(pixel_values=inputs))
        values: NDArray[np.float32] = pooled.float().cpu().numpy()
        return values

    def _pictures(self, path: Path) -> Pictures:
        return Pictures(path, self.settings.frame_rate_hz, self.settings.longest_clip_s)

    def _crops(self, path: Path, track: FaceTrack) -> Iterator[NDArray[np.uint8]]:
        """Yield batches of the crops of all kept frames."""
        cutter = FaceCutter(track, self.settings.crop_scale, self._preprocessing.side_px, from_reduced=False)
        batch: list[NDArray[np.uint8]] = []
        for number, (_, picture) in enumerate(self._pictures(path)):
            if track.is_kept[number]:
                batch.append(cutter.cut(number, picture))
            if len(batch) == self.settings.batch_size:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)


def check_image_network(settings: ImageNetworkSettings) -> None:
    """Raise before any file is read what would fail at each; loads no weights.

    Raises:
        ConfigError: a file is missing (the message says which directory to fill), or the network is of another kind.
    """
    files = _find(settings)
    Preprocessing.of(files)
    _width(files)


def image_network_info(settings: ImageNetworkSettings) -> ModalityInfo:
    """Return the provenance of the features, with the SHA-256 of the network's files.

    Raises:
        ConfigError: a file is missing.
    """
    files = _find(settings)
    kept = recorded_settings(settings, {"backbone": files})
    return ModalityInfo(
        extractor=NAME,
        version=VERSION,
        settings=with_detector_hash(kept, settings.faces),
        frame_rate_hz=settings.frame_rate_hz,
        width=_width(files),
    )


def _find(settings: ImageNetworkSettings) -> ModelFiles:
    files = find_model(settings.backbone, KEY, also=(_PREPROCESSING,))
    kind = files.read_json("config.json").get("model_type")
    if kind not in KINDS:
        problem = f"{kind}, not one of {', '.join(KINDS)}"
        raise ConfigError(
            str(files.directory / "config.json"), "model_type", problem, "give the directory of such a model"
        )
    return files


def _options(files: ModelFiles) -> dict[str, Any]:
    # The pooling layer of ViT is missing in most published weights; the class token serves in its place.
    return {"add_pooling_layer": False} if files.read_json("config.json")["model_type"] == "vit" else {}


@functools.lru_cache(maxsize=8)
def _width(files: ModelFiles) -> int:
    """Return the channels of the pooled output, from the configuration alone: no weight is made."""
    library = transformers_module()
    side = Preprocessing.of(files).side_px
    try:
        config = library.AutoConfig.from_pretrained(files.directory, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"), torch.no_grad():
            network = library.AutoModel.from_config(config, **_options(files)).eval()
            return int(_pooled(network(pixel_values=torch.zeros(1, 3, side, side))).shape[1])
    except Exception as error:
        # What a configuration that fits no network raises in there is not one type.
        problem = f"config.json and {_PREPROCESSING} do not fit together: {error}"
        raise ConfigError(str(files.directory), KEY, problem, AGAIN) from error


def _pooled(output: Any) -> torch.Tensor:
    """Return (picture, channel): the mean over places of a convolutional network, the class token of ViT."""
    pooled: torch.Tensor | None = output.pooler_output
    return output.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)


def _noting(pictures: Pictures, times: list[float]) -> Iterator[NDArray[np.uint8]]:
    for time, picture in pictures:
        times.append(time)
        yield picture


def _divides_twice(content: dict[str, Any]) -> bool:
    is_efficientnet = str(content.get("image_processor_type", "")).startswith("EfficientNet")
    return bool(content.get("include_top", is_efficientnet))


def _side(content: dict[str, Any]) -> int:
    size = content["crop_size"] if content.get("do_center_crop") and "crop_size" in content else content["size"]
    if isinstance(size, dict):
        sides = set(size.values())
        if len(sides) != 1:
            raise ValueError(f"the input is not square: {size}")
        size = sides.pop()
    if not 8 <= int(size) <= 4096:
        raise ValueError(f"an input of {size} pixels")
    return int(size)
