"""Settings of the network: presets, and sizes that fit together."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from vavl.config.load import validate
from vavl.errors import ConfigError
from vavl.models.settings import AttributeTask, ClassTask, NetworkSettings, Task


def test_the_defaults_are_the_sizes_of_the_paper():
    settings = NetworkSettings()
    assert (settings.width, settings.modality_blocks, settings.shared_blocks) == (512, 3, 2)
    assert (settings.attention_heads, settings.convolution_kernel, settings.head_widths) == (8, 31, (512, 256))
    assert (settings.dropout, settings.head_dropout, settings.feed_forward_expansion) == (0.1, 0.2, 4)


def test_the_resolved_small_preset_shows_its_sizes():
    resolved = NetworkSettings(preset="small").model_dump()
    assert resolved["width"] < 512
    assert resolved["modality_blocks"] < 3
    assert {"width", "modality_blocks", "shared_blocks", "attention_heads", "head_widths"} <= resolved.keys()


def test_a_key_beside_the_preset_wins_over_it():
    settings = NetworkSettings.model_validate({"preset": "small", "width": 32})
    assert settings.width == 32
    assert settings.shared_blocks == NetworkSettings(preset="small").shared_blocks


def test_resolved_settings_read_back_equal():
    for settings in (NetworkSettings(), NetworkSettings(preset="small", width=32)):
        assert NetworkSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"width": 100}, r"width 100 must be a multiple of 2 \* attention_heads 8"),
        ({"convolution_kernel": 30}, "convolution_kernel 30 must be odd"),
        ({"dropout": 1.0}, "dropout: .*less than 1"),
        ({"preset": "large"}, "preset: .*'paper' or 'small'"),
        ({"preset": "small", "heads": 4}, "heads: unknown key"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(content, message):
    with pytest.raises(ConfigError, match=message):
        validate(NetworkSettings, content, "here")


def test_a_task_is_read_by_its_kind():
    adapter = TypeAdapter(Task)
    for task in (ClassTask(classes=("calm", "mad")), AttributeTask(attributes=("valence",))):
        assert adapter.validate_python(task.model_dump(mode="json")) == task
    assert ClassTask(classes=("a", "b", "c")).outputs == 3
    assert AttributeTask().outputs == 3


def test_one_class_is_no_task():
    with pytest.raises(ValidationError, match="at least 2"):
        ClassTask(classes=("calm",))
