"""Where the files of a pretrained network are: in a directory or, at a fixed commit, on the Hugging Face hub."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vavl.config.base import FrozenConfig
from vavl.config.files import sha256_of_file
from vavl.config.places import portable, root_directory
from vavl.errors import ConfigError, InputError
from vavl.extractors.settings import PretrainedModel

if TYPE_CHECKING:  # torch takes seconds to import, and settings are read without it
    import torch

INSTALL = "pip install --constraint constraints.txt '.[backbones]'"
AGAIN = "get the model's files again"
WEIGHTS, SHARDED_WEIGHTS = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class ModelFiles:
    """The files of a pretrained network, all present."""

    directory: Path  # absolute
    names: tuple[str, ...]  # config.json, the weights and what else was asked for, sorted

    def sha256(self) -> dict[str, str]:
        """Return the SHA-256 of every file; computed once per process and state of a file."""
        return {name: _sha256(self.directory / name, *_state(self.directory / name)) for name in self.names}

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of one of the files. Raises ConfigError if it is not a JSON object."""
        try:
            content = json.loads((self.directory / name).read_text(encoding="utf-8"))
        except ValueError as error:
            content = error
        if not isinstance(content, dict):
            raise ConfigError(str(self.directory / name), "", "does not hold a JSON object", AGAIN)
        return content


def find_model(model: PretrainedModel, key: str, also: Sequence[str] = ("preprocessor_config.json",)) -> ModelFiles:
    """Return the files of a model, downloaded if it is one of the hub and not here yet.

    ``key``: dotted key of the settings, for messages, e.g. "features.video.backbone". ``also``: files that the caller
    reads beside config.json and the weights.

    Raises:
        ConfigError: the directory or a file is missing, the weights are pickles, or the hub cannot be
            reached; names the directory to fill.
    """
    if model.folder is not None:
        directory = (root_directory() or Path.cwd()) / model.folder
        if not directory.is_dir():
            fix = f"fill it with {', '.join(('config.json', WEIGHTS, *also))}, e.g. by "
            fix += f"`hf download ORGANISATION/NAME --revision COMMIT --local-dir {directory}`"
            raise ConfigError(key, "folder", f"{directory} does not exist", fix)
        return _complete(directory, key, also)
    return _complete(_hub_directory(model, key, also), key, also)


def transformers_module() -> Any:
    """Import transformers. Raises ConfigError if it is not installed; names the command."""
    try:
        import transformers
    except ImportError as error:
        problem = f"pretrained networks need the package transformers: {error}"
        raise ConfigError("environment", "transformers", problem, INSTALL) from None
    return transformers


def _complete(directory: Path, key: str, also: Sequence[str]) -> ModelFiles:
    missing = _missing(directory, also)
    if missing == WEIGHTS and any(directory.glob("*.bin")):
        problem = f"{missing} is missing: the weights are pickles (.bin), which can run any code"
        fix = "save the model again with save_pretrained of transformers, which writes safetensors"
        raise ConfigError(str(directory), key, problem, fix)
    if missing is not None:
        fix = f"fill the directory with {', '.join(('config.json', WEIGHTS, *also))} of the model"
        raise ConfigError(str(directory), key, f"{missing} is missing", fix)
    return ModelFiles(directory.resolve(), tuple(sorted({"config.json", *_weight_names(directory), *also})))


def _missing(directory: Path, also: Sequence[str]) -> str | None:
    """Return the first file that a model lacks."""
    return next(
        (name for name in ("config.json", *_weight_names(directory), *also) if not (directory / name).is_file()), None
    )


def _weight_names(directory: Path) -> list[str]:
    """Return the names that the weights have or should have; sharded ones are listed in an index."""
    index = directory / SHARDED_WEIGHTS
    if (directory / WEIGHTS).is_file() or not index.is_file():
        return [WEIGHTS]
    try:
        names = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(str(index), "weight_map", f"not readable: {error!r}", AGAIN) from None
    if any(Path(name).name != name for name in names):
        raise ConfigError(str(index), "weight_map", "names a file in another directory", AGAIN)
    return [SHARDED_WEIGHTS, *sorted(names)]


def _hub_directory(model: PretrainedModel, key: str, also: Sequence[str]) -> Path:
    """Return the directory of the model in the hub's cache; what is missing there is downloaded."""
    transformers_module()
    from huggingface_hub import constants, snapshot_download

    assert model.hub is not None
    wanted = ["config.json", WEIGHTS, SHARDED_WEIGHTS, "model-*.safetensors", *also]
    reason = ""
    for is_offline in (True, False):
        try:
            directory = Path(
                snapshot_download(
                    model.hub, revision=model.revision, allow_patterns=wanted, local_files_only=is_offline
                )
            )
        except OSError as error:
            # The hub's own messages run over many lines; the first says what it is.
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            continue
        # Without network the library gives what its cache holds, also if that is not all.
        missing = _missing(directory, also)
        if missing is None:
            return directory
        reason = f"{missing} is not there"
    cache = Path(constants.HF_HUB_CACHE) / f"models--{model.hub.replace('/', '--')}"
    problem = f"{model.hub} at {model.revision} is not on this machine and cannot be downloaded ({reason})"
    fix = (
        f"on a machine with network: `hf download {model.hub} --revision {model.revision} --local-dir DIRECTORY`; "
        f"bring DIRECTORY here and set {key}.folder to it ({key}.hub and .revision to null), or fill the hub's "
        f"cache {cache}; a model that is published without safetensors is to be saved again with save_pretrained"
    )
    raise ConfigError(key, "hub", problem, fix)


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified_ns: int) -> str:  # noqa: ARG001  the state of the file is the cache's key
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise InputError(str(path), "", f"cannot be read: {error.strerror}", "change its permissions") from None


def load_model(
    files: ModelFiles, model: PretrainedModel, key: str, may_lack: str = "", kind: Any = None, **options: Any
) -> torch.nn.Module:
    """Return the network on its device, in evaluation mode and without gradients.

    Args:
        files: of ``find_model``.
        model: the settings.
        key: of the settings, for messages.
        may_lack: expression for the names of weights that need not be in the files, because nothing
            that is computed depends on them.
        kind: class of the network; None: the one that config.json names.
        options: for its ``from_pretrained``.

    Raises:
        ConfigError: transformers is not installed, the files do not fit together, weights are missing
            (they would be drawn at random), or the device is not there.
    """
    device = choose_device(model, key)
    kind = kind or transformers_module().AutoModel
    try:
        with _quiet():
            safely = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
            network, loading = kind.from_pretrained(files.directory, output_loading_info=True, **safely, **options)
    except Exception as error:
        # What a damaged or foreign file raises in there is not one type.
        problem = f"cannot be loaded: {type(error).__name__}: {error}"
        raise ConfigError(str(files.directory), key, problem, AGAIN) from error
    missing = sorted(name for name in loading["missing_keys"] if not (may_lack and re.fullmatch(may_lack, name)))
    wrong = missing + sorted(str(entry) for entry in loading["mismatched_keys"])
    if wrong:
        problem = f"{len(wrong)} weights of {type(network).__name__} are missing or of another shape, e.g. {wrong[0]}"
        raise ConfigError(str(files.directory), key, problem, "use weights and config.json of one model")
    frozen: torch.nn.Module = network.eval().requires_grad_(requires_grad=False).to(device)
    return frozen


def choose_device(model: PretrainedModel, key: str) -> torch.device:
    """Return the device that the settings mean on this machine. Raises ConfigError if cuda is asked for and absent."""
    import torch

    has_gpu = torch.cuda.is_available()
    if model.device == "cuda" and not has_gpu:
        raise ConfigError(key, "device", "cuda is asked for, and there is no GPU here", "set device: auto or cpu")
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

    ``files``: key of the settings that holds a model -> its files.
    """
    kept = portable(settings, root_directory()).model_dump(mode="json", exclude={"batch_size"})
    for key, found in files.items():
        kept[key] = {name: value for name, value in kept[key].items() if name != "device"}
        kept[f"{key}_sha256"] = found.sha256()
    return kept


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
