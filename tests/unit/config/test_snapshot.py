"""The resolved configuration of a run: saved, read back, hashed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from vavl.config.base import FrozenConfig
from vavl.config.load import flat_settings, read_config, save_config
from vavl.data.partitions import Partition
from vavl.data.settings import DataSettings
from vavl.models.settings import NetworkSettings
from vavl.training.settings import TrainingPlan


class Inner(FrozenConfig):
    betas: tuple[float, float] = (0.9, 0.999)
    names: dict[str, int] = Field(default_factory=dict)


class Outer(FrozenConfig):
    text: str = Field("größer: 1 # no comment")
    rate: float = 1e-5
    maybe: int | None = None
    inner: Inner = Inner()


@pytest.fixture
def plan() -> TrainingPlan:
    return TrainingPlan(
        output_dir=Path("runs/a"),
        data=DataSettings(
            store=Path("stores/a"), composition={"rows_per_step": {"paired_labelled": 8, "video_only_unlabelled": 4}}
        ),
        model={"preset": "small", "width": 64},
    )


def test_a_saved_configuration_reads_back_equal(tmp_path, plan):
    for number, config in enumerate((Outer(inner=Inner(names={"a b": 1})), plan)):
        path = tmp_path / f"{number}.yaml"
        save_config(config, path)
        assert read_config(type(config), path) == config


def test_the_saved_small_preset_shows_every_size(tmp_path, plan):
    save_config(plan, tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    for line in ("width: 64", "modality_blocks: 2", "shared_blocks: 1", "attention_heads: 4"):
        assert f"\n  {line}\n" in text


def test_the_hash_depends_on_values_not_on_how_they_were_given(plan):
    again = TrainingPlan.model_validate(plan.model_dump(mode="json"))
    assert again.config_hash == plan.config_hash
    other = plan.model_copy(update={"model": NetworkSettings(preset="small", width=96)})
    assert other.config_hash != plan.config_hash


def test_the_hash_of_a_plan_ignores_where_things_lie(plan):
    moved = plan.model_copy(update={"output_dir": Path("b"), "data": plan.data.model_copy(update={"store": Path("c")})})
    assert moved.config_hash == plan.config_hash
    assert moved.with_absolute_paths().config_hash == plan.config_hash


def test_the_hash_of_a_plan_follows_every_section(plan):
    changed = {
        "data": plan.data.model_copy(update={"fold": 1}),
        "features": plan.features.model_copy(update={"speaker_normalisation": True}),
        "model": NetworkSettings(preset="small", width=32),
        "objectives": plan.objectives.model_copy(
            update={"reconstruction": plan.objectives.reconstruction.model_copy(update={"weight": 0.5})}
        ),
        "training": plan.training.model_copy(update={"seed": 1}),
        "evaluation": plan.evaluation.model_copy(update={"test": True}),
    }
    assert changed.keys() == TrainingPlan.model_fields.keys() - {"output_dir"}
    hashes = {plan.model_copy(update={name: value}).config_hash for name, value in changed.items()}
    assert len(hashes | {plan.config_hash}) == len(changed) + 1


def test_flat_settings_have_dotted_keys(plan):
    flat = flat_settings(plan)
    assert flat["training.optimizer.learning_rate"] == 5e-5
    assert flat[f"data.composition.rows_per_step.{Partition.PAIRED_LABELLED}"] == 8
    assert flat["model.width"] == 64
    assert not any(isinstance(value, dict) and value for value in flat.values())
