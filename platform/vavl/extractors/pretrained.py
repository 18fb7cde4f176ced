"""Load pretrained networks, and keep in the provenance of features which weights made them.

Weights are safetensors, never pickles; a network whose weights are not all there is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vavl.config.base import FrozenConfig
from vavl.config.places import portable, root_folder
from vavl.errors import ConfigError, StoreError
from vavl.extractors.pretrained_files import ModelFiles, PretrainedModel, transformers_module
from vavl.features import ModalityInfo

if TYPE_CHECKING:  # torch takes seconds to import, and settings are read without it
    import torch


def load_model(
    files: ModelFiles, model: PretrainedModel, key: str, may_lack: str = "", **options: Any
) -> torch.nn.Module:
    """Return the network on its device, in evaluation mode and without gradients.

    Args:
        files: of ``find_model``.
        model: the settings.
        key: of the settings, for messages.
        may_lack: expression for the names of weights that need not be in the files, because nothing
            that is computed depends on them.
        options: for ``AutoModel.from_pretrained``.

    Raises:
        ConfigError: transformers is not installed, the files do not fit together, weights are missing
            (they would be drawn at random), or the device is not there.
    """
    device = choose_device(model, key)
    auto_model = transformers_module().AutoModel
    try:
        with _quiet():
            network, loading = auto_model.from_pretrained(
                files.folder, output_loading_info=True, use_safetensors=True, local_files_only=True,
                trust_remote_code=False, **options,
            )  # fmt: skip
    except Exception as fault:
        # What a damaged or foreign file raises in there is not one type.
        raise ConfigError(
            str(files.folder), key, f"cannot be loaded: {type(fault).__name__}: {fault}", "get the model's files again"
        ) from fault  # fmt: skip
    missing = sorted(
        name for name in loading["missing_keys"] if not (may_lack and re.fullmatch(may_lack, name))
    )
    wrong = missing + sorted(str(entry) for entry in loading["mismatched_keys"])
    if wrong:
        raise ConfigError(
            str(files.folder), key, f"{len(wrong)} weights of {type(network).__name__} are missing or of another "
            f"shape, e.g. {wrong[0]}", "use weights and config.json of one model",
        )  # fmt: skip
    frozen: torch.nn.Module = network.eval().requires_grad_(requires_grad=False).to(device)
    return frozen


def choose_device(model: PretrainedModel, key: str) -> torch.device:
    """Return the device that the settings mean on this machine.

    Raises:
        ConfigError: cuda is asked for and absent.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if model.device == "cuda" and not has_gpu:
        raise ConfigError(
            key, "device", "cuda is asked for, and there is no GPU here", "set device: auto or cpu"
        )
    return torch.device("cuda" if has_gpu and model.device != "cpu" else "cpu")


@contextmanager
def inference(model: PretrainedModel, device: torch.device) -> Iterator[None]:
    """Compute without gradients and in the precision of the settings.

    With bf16 only products and convolutions are rounded; weights and statistics stay in float32.
    """
    import torch

    is_rounded = model.precision == "bf16"
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=is_rounded):
        yield


def recorded_settings(settings: FrozenConfig, files: Mapping[str, ModelFiles]) -> dict[str, Any]:
    """Return settings as provenance keeps them, with the SHA-256 of the files of every model.

    Left out is what no number depends on beyond rounding: the device, and how many inputs run at once.

    Args:
        settings: of an extractor.
        files: key of the settings that holds a model -> its files.
    """
    kept = portable(settings, root_folder()).model_dump(mode="json", exclude={"batch_size"})
    for key, found in files.items():
        kept[key] = {name: value for name, value in kept[key].items() if name != "device"}
        kept[f"{key}_sha256"] = found.sha256()
    return kept


def without_sha256(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return recorded settings as a settings class takes them."""
    return {
        key: without_sha256(value) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if not key.endswith("_sha256")
    }


def check_same_files(recorded: Mapping[str, Any], here: ModalityInfo, modality: str) -> None:
    """Refuse to go on with other weights than the recorded ones.

    Args:
        recorded: settings as ``recorded_settings`` gave them.
        here: the provenance of the same settings on this machine.
        modality: for messages.

    Raises:
        StoreError: a file of the model differs.
    """
    _check_hashes(recorded, here.settings, modality)


def _check_hashes(recorded: Mapping[str, Any], here: Mapping[str, Any], modality: str) -> None:
    for key, value in here.items():
        if not key.endswith("_sha256"):
            if isinstance(value, Mapping):
                _check_hashes(recorded.get(key) or {}, value, modality)
            continue
        old, new = _by_file(key, recorded.get(key)), _by_file(key, value)
        if old == new:
            continue
        differing = ", ".join(
            name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)
        )
        raise StoreError(
            f"{modality} features", key, f"made with other files of the model, different here: {differing}",
            "put the files there that the features were made with (their SHA-256 is in the store)",
        )  # fmt: skip


def _by_file(key: str, hashes: Any) -> dict[str, Any]:
    """Return file -> SHA-256, also where a setting names a single file."""
    return dict(hashes) if isinstance(hashes, Mapping) else {key.removesuffix("_sha256"): hashes}


@contextmanager
def _quiet() -> Iterator[None]:
    """Load without the library's bars and its report of weights that are not used."""
    from transformers.utils import logging

    level, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bar:
            logging.enable_progress_bar()
