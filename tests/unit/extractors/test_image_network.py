"""Image networks on face crops: every kind, from tiny random weights saved as the hub's models are."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from rendered_media import moving_square, write_mp4
from talking_face import talking_face
from tiny_networks import BACKBONES, PREPROCESSING, SIDE_PX, save_network, save_tiny, tiny_config

from vavl.errors import ClipError, ConfigError, StoreError
from vavl.extractors.extractor import check_features, extractor_of, video_extractor, video_info
from vavl.extractors.image_network import KINDS, ImageNetworkExtractor, Preprocessing
from vavl.extractors.pretrained import ModelFiles
from vavl.extractors.settings import ImageNetworkSettings, PretrainedModel

PROCESSORS = {
    "efficientnet": "EfficientNetImageProcessor",
    "vit": "ViTImageProcessor",
    "mobilenet_v1": "MobileNetV1ImageProcessor",
    "mobilenet_v2": "MobileNetV2ImageProcessor",
}


@pytest.fixture(scope="module", params=BACKBONES)
def tiny(request, tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(scope="module")
def face_file(tmp_path_factory):
    return write_mp4(tmp_path_factory.mktemp("video") / "a.mp4", talking_face(7))


def settings_of(folder, **change):
    model = {"folder": folder, "device": "cpu", **change.pop("model", {})}
    return ImageNetworkSettings(extractor="image_network", backbone=PretrainedModel(**model), **change)


def test_all_kinds_are_tried_here():
    assert set(BACKBONES) == set(KINDS)


def test_batched_and_single_frames_agree(tiny, face_file):
    """A BatchNorm that used the batch would tell frames apart by their neighbors."""
    whole = video_extractor(settings_of(tiny))(face_file)
    assert whole.values.shape == (7, video_info(settings_of(tiny)).width)
    assert (whole.values.dtype, whole.tally["video_frames"]) == (np.float32, 7)
    np.testing.assert_allclose(whole.frame_times, (np.arange(7) + 0.5) / 25, rtol=1e-5)
    assert np.abs(np.diff(whole.values, axis=0)).max() > 1e-6
    for size in (1, 3):
        parts = video_extractor(settings_of(tiny, batch_size=size))(face_file)
        # Sums in another order, through up to 27 layers of random weights; values are about 1.
        np.testing.assert_allclose(parts.values, whole.values, rtol=1e-4, atol=1e-4)


def test_bf16_is_near_fp32(tiny, face_file):
    exact = video_extractor(settings_of(tiny))(face_file).values
    rounded = video_extractor(settings_of(tiny, model={"precision": "bf16"}))(face_file).values
    assert rounded.dtype == np.float32
    assert not np.array_equal(rounded, exact)
    assert np.abs(rounded - exact).mean() < 0.1 * np.abs(exact).mean() + 1e-3


def test_pooled_output_is_that_of_the_network_itself(tiny):
    import transformers

    crops = np.random.default_rng(0).integers(0, 256, (3, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    extractor = ImageNetworkExtractor(settings_of(tiny))
    inputs = (crops / 255 - PREPROCESSING["image_mean"]) / PREPROCESSING["image_std"]
    network = transformers.AutoModel.from_pretrained(tiny).eval()
    with torch.no_grad():
        output = network(pixel_values=torch.from_numpy(inputs).permute(0, 3, 1, 2).float())
    wanted = output.last_hidden_state[:, 0] if "vit" in tiny.name else output.last_hidden_state.mean(dim=(2, 3))
    np.testing.assert_allclose(extractor.describe(crops), wanted.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("change", [{}, {"rescale_offset": True, "include_top": False}, {"do_normalize": False}])
def test_inputs_are_those_of_the_librarys_processor(tmp_path, kind, change):
    import transformers

    if change and "rescale_offset" in change and kind != "efficientnet":
        change = {"rescale_factor": 1 / 127.5}
    content = {**PREPROCESSING, "image_processor_type": PROCESSORS[kind], **change, "do_resize": False}
    content["do_center_crop"] = False
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    processor = getattr(transformers, f"{PROCESSORS[kind]}Pil").from_pretrained(tmp_path)
    crops = np.random.default_rng(0).integers(0, 256, (2, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    wanted = np.stack(processor(list(crops), return_tensors="np")["pixel_values"])
    found = Preprocessing.of(ModelFiles(tmp_path, ()))(crops, torch.device("cpu")).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "side"),
    [({"size": 40}, 40), ({"size": {"shortest_edge": 48}}, 48),
     ({"size": {"shortest_edge": 48}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}, 32)],
)  # fmt: skip
def test_the_input_has_the_size_that_the_network_was_trained_with(tmp_path, change, side):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**PREPROCESSING, **change}))
    assert Preprocessing.of(ModelFiles(tmp_path, ())).side_px == side


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"size": {"height": 32, "width": 48}}, "not square"), ({"size": 0}, "an input of 0 pixels"),
     ({"image_mean": [0.5]}, "three values"), ({"image_std": [0, 1, 1]}, "deviations not 0"),
     ({"size": None}, "TypeError"), ({"image_mean": "x"}, "not that of an image network")],
)  # fmt: skip
def test_preprocessing_that_fits_no_network_is_refused(tmp_path, change, problem):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**PREPROCESSING, **change}))
    with pytest.raises(ConfigError, match=problem):
        Preprocessing.of(ModelFiles(tmp_path, ()))


def test_a_classifiers_weights_serve_without_its_head(tmp_path, face_file):
    import transformers

    torch.manual_seed(0)
    classifier = transformers.ViTForImageClassification(tiny_config("vit"))
    save_network(tmp_path / "a", classifier)
    found = video_extractor(settings_of(tmp_path / "a"))(face_file)
    assert found.values.shape == (7, 16)


def test_networks_of_another_kind_or_size_are_refused_before_any_file_is_read(tmp_path, vit):
    import transformers

    save_network(
        tmp_path / "a",
        transformers.ResNetModel(transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])),
    )
    with pytest.raises(ConfigError, match="resnet, not one of efficientnet, vit"):
        check_features(settings_of(tmp_path / "a"), "video")
    small = tmp_path / "b"
    small.mkdir()
    for name in ("config.json", "model.safetensors"):
        (small / name).write_bytes((vit / name).read_bytes())
    (small / "preprocessor_config.json").write_text(json.dumps({**PREPROCESSING, "size": 48}))
    with pytest.raises(ConfigError, match="do not fit together"):
        check_features(settings_of(small), "video")
    with pytest.raises(ConfigError, match="fill it with"):
        check_features(settings_of(tmp_path / "absent"), "video")


def test_provenance_gives_back_the_extractor_and_refuses_other_weights(tmp_path, vit, face_file):
    settings = settings_of(vit, frame_rate_hz=10, batch_size=2)
    recorded = asdict(video_info(settings))
    assert len(recorded["settings"]["backbone_sha256"]["model.safetensors"]) == 64
    again = extractor_of(recorded, "video")(face_file)
    np.testing.assert_allclose(again.values, video_extractor(settings)(face_file).values, rtol=1e-4, atol=1e-5)
    recorded["settings"]["backbone"]["folder"] = str(save_tiny(tmp_path / "other", seed=1))
    with pytest.raises(StoreError, match=r"different here: model\.safetensors"):
        extractor_of(recorded, "video")


@pytest.mark.parametrize("change", [{"frame_rate_hz": 10}, {"crop_scale": 1.0}, {"faces": {"smoothing_ms": 0}}])
def test_every_setting_changes_the_features(vit, face_file, change):
    usual = video_extractor(settings_of(vit))(face_file).values
    other = video_extractor(settings_of(vit, **change))(face_file).values
    assert usual.shape != other.shape or not np.allclose(usual, other, atol=1e-6)
    assert video_info(settings_of(vit)).provenance != video_info(settings_of(vit, **change)).provenance


def test_frames_without_a_face_are_left_out_if_wanted(tmp_path, vit):
    pictures = talking_face(6)
    pictures[2:4] = 128
    found = video_extractor(settings_of(vit, faces={"missed": "mask"}))(write_mp4(tmp_path / "a.mp4", pictures))
    assert (len(found.values), found.tally["masked_frames"], found.facts["width_px"]) == (4, 2, 160)
    with pytest.raises(ClipError, match="no face found"):
        video_extractor(settings_of(vit, faces={"missed": "mask"}))(write_mp4(tmp_path / "b.mp4", moving_square(4)))
