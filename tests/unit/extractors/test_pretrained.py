"""Loading pretrained networks: complete, frozen, on the device asked for, and with weights that are on record."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_networks import save_tiny

from vavl.config.base import FrozenConfig
from vavl.errors import ConfigError, StoreError
from vavl.extractors.extractor import check_same_files, without_sha256
from vavl.extractors.pretrained import choose_device, find_model, inference, load_model, recorded_settings
from vavl.extractors.settings import PretrainedModel
from vavl.features import ModalityInfo

KEY = "features.video.backbone"


class Settings(FrozenConfig):
    backbone: PretrainedModel
    batch_size: int = 4
    frame_rate_hz: float = 25


def loaded(folder, **change):
    model = PretrainedModel(folder=folder, **change)
    return load_model(find_model(model, KEY), model, KEY)


def info_of(folder, **change):
    settings = Settings(backbone=PretrainedModel(folder=folder), **change)
    kept = recorded_settings(settings, {"backbone": find_model(settings.backbone, KEY)})
    return ModalityInfo("image_network", "1", kept, 25, 16)


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def tiny(tmp_path):
    return save_tiny(tmp_path / "tiny")


def test_a_loaded_network_is_frozen_and_in_evaluation(tiny, capfd):
    network = loaded(tiny)
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())
    assert capfd.readouterr() == ("", "")


def test_weights_that_are_missing_or_of_another_shape_are_refused(tiny):
    change_weights(tiny, lambda weights: weights.pop("layernorm.weight"))
    with pytest.raises(ConfigError, match=r"1 weights of ViTModel are missing .*layernorm\.weight"):
        loaded(tiny)
    model = PretrainedModel(folder=tiny)
    assert load_model(find_model(model, KEY), model, KEY, may_lack=r"layernorm\..*") is not None
    change_weights(tiny, lambda weights: weights.update({"layernorm.weight": torch.ones(3)}))
    with pytest.raises(ConfigError, match=r"cannot be loaded|another shape"):
        loaded(tiny)


def test_damaged_weights_are_named(tiny):
    (tiny / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match=r"cannot be loaded"):
        loaded(tiny)


def test_code_in_a_models_folder_is_not_run(tiny):
    """A configuration may name a Python file of its directory; it is text of a stranger."""
    (tiny / "evil.py").write_text("raise SystemExit('ran')\n")
    text = (tiny / "config.json").read_text()
    own = '"model_type": "evil", "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Config"}'
    (tiny / "config.json").write_text(text.replace('"model_type": "vit"', own))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        loaded(tiny)


def test_the_device_is_a_gpu_if_there_is_one(monkeypatch):
    settings = {"folder": "a"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(PretrainedModel(**settings), KEY) == torch.device("cpu")
    with pytest.raises(ConfigError, match="no GPU here"):
        choose_device(PretrainedModel(**settings, device="cuda"), KEY)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(PretrainedModel(**settings), KEY) == torch.device("cuda")
    assert choose_device(PretrainedModel(**settings, device="cpu"), KEY) == torch.device("cpu")


def test_bf16_rounds_products_and_no_gradient_is_kept():
    linear, frames = torch.nn.Linear(8, 8), torch.randn(3, 8)
    with inference(PretrainedModel(folder="a", precision="bf16"), torch.device("cpu")):
        rounded = linear(frames)
    with inference(PretrainedModel(folder="a"), torch.device("cpu")):
        exact = linear(frames)
    assert (rounded.dtype, exact.dtype) == (torch.bfloat16, torch.float32)
    assert not exact.requires_grad
    torch.testing.assert_close(rounded.float(), exact, atol=0.03, rtol=0.03)


def test_provenance_is_the_weights_not_their_place(tmp_path, tiny):
    elsewhere = save_tiny(tmp_path / "elsewhere")
    assert info_of(tiny).settings["backbone_sha256"]["model.safetensors"]
    assert info_of(tiny).provenance == info_of(elsewhere).provenance
    assert info_of(tiny).provenance == info_of(tiny, batch_size=7).provenance
    assert info_of(tiny).provenance != info_of(tiny, frame_rate_hz=10).provenance
    assert info_of(tiny).provenance != info_of(save_tiny(tmp_path / "other", seed=1)).provenance


def test_recorded_settings_can_be_read_again(tiny):
    kept = info_of(tiny, batch_size=9).settings
    assert Settings.model_validate(without_sha256(kept)) == Settings(backbone=PretrainedModel(folder=tiny))


def test_a_folder_below_the_root_is_recorded_relative(tiny, monkeypatch):
    monkeypatch.setenv("VAVL_ROOT", str(tiny.parent))
    assert info_of(tiny).settings["backbone"]["folder"] == "tiny"
    assert find_model(PretrainedModel(folder="tiny"), KEY).directory == tiny


def test_other_weights_than_the_recorded_ones_are_refused(tmp_path, tiny):
    recorded = info_of(tiny)
    check_same_files(recorded.settings, info_of(tiny).settings, "video")
    other = info_of(save_tiny(tmp_path / "other", seed=1))
    with pytest.raises(StoreError, match=r"different here: model\.safetensors\n"):
        check_same_files(recorded.settings, other.settings, "video")
