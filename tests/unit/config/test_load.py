"""Reading settings: YAML, overrides, variables; every fault is reported, and at once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from pydantic import Field, ValidationError

from vavl.config.base import FrozenConfig
from vavl.config.load import (
    flat_settings,
    leaves,
    parse_yaml,
    read_config,
    read_yaml_mapping,
    save_config,
    validate,
    with_changes,
)
from vavl.data.partitions import Partition
from vavl.data.settings import DataSettings
from vavl.errors import ConfigError
from vavl.models.settings import NetworkSettings
from vavl.training.settings import TrainingPlan


class Wave(FrozenConfig):
    kind: Literal["wave"] = "wave"
    hop_ms: float = Field(10.0, gt=0)


class Picture(FrozenConfig):
    kind: Literal["picture"] = "picture"
    frame_rate_hz: float = Field(25.0, gt=0)


class Optimizer(FrozenConfig):
    learning_rate: float = Field(1e-3, gt=0)
    warmup_steps: int = Field(0, ge=0)


class Settings(FrozenConfig):
    folder: Path
    fold: int = Field(0, ge=0)
    seed: int | None = None
    optimizer: Optimizer = Optimizer()
    sources: tuple[Wave | Picture, ...] = ()


@pytest.fixture
def file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


def test_a_file_with_overrides_is_read(file):
    path = file("folder: runs\noptimizer:\n  warmup_steps: 5\n")
    settings = read_config(Settings, path, ["fold=3", "optimizer.learning_rate=1e-4", "seed=null"])
    assert settings == Settings(folder=Path("runs"), fold=3, optimizer=Optimizer(learning_rate=1e-4, warmup_steps=5))


def test_an_override_reaches_a_section_that_the_file_leaves_out(file):
    settings = read_config(Settings, file("folder: runs\noptimizer:\n"), ["optimizer.warmup_steps=7"])
    assert settings.optimizer.warmup_steps == 7


def test_an_override_may_be_a_list(file):
    settings = read_config(Settings, file("folder: runs"), ["sources=[{kind: picture, frame_rate_hz: 5}]"])
    assert settings.sources == (Picture(frame_rate_hz=5),)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fold", "not of the form dotted.key=value"),
        ("=3", "not of the form dotted.key=value"),
        ("fold.deeper=3", "`fold` is not a section"),
        ("fold=[1", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_named(file, override, message):
    with pytest.raises(ConfigError, match=message):
        read_config(Settings, file("folder: runs\nfold: 1\n"), [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("folder: runs\nfodl: 1", r"fodl: unknown key; did you mean `fold`\?"),
        ("folder: runs\noptimizer: {learning_rat: 1}", r"optimizer\.learning_rat: .* you mean `learning_rate`\?"),
        ("folder: runs\nzzz: 1", "zzz: unknown key; known here: fold, folder, optimizer, seed, sources"),
        ("folder: runs\nsources: [{kind: picture, frame_rat_hz: 1}]", "did you mean `frame_rate_hz`"),
        ("folder: runs\nfold: many", r"fold: .*integer.*\(found 'many'\)"),
        ("folder: runs\nfold: -1", r"fold: .*greater than or equal to 0 \(found -1\)"),
        ("folder: runs\noptimizer: {learning_rate: .nan}", r"optimizer\.learning_rate: .*finite"),
        ("folder: runs\noptimizer: 3", r"optimizer: .*Optimizer.*\(found 3\)"),
        ("fold: 1", "folder: Field required"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_its_key_and_what_would_be_right(file, text, message):
    with pytest.raises(ConfigError, match=message):
        read_config(Settings, file(text))


def test_all_faults_are_reported_at_once(file):
    path = file("fold: many\nsed: 1\noptimizer: {learning_rate: 0, warmup_step: 1}\n")
    with pytest.raises(ConfigError) as caught:
        read_config(Settings, path)
    text = str(caught.value)
    assert text.startswith(f"{path}: 5 wrong settings")
    for part in ("folder: ", "fold: ", "sed: ", "optimizer.learning_rate: ", "optimizer.warmup_step: "):
        assert f"\n  - {part}" in text


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read"):
        read_config(Settings, tmp_path / "nothing.yaml")


def test_variables_come_from_the_environment(file, monkeypatch):
    monkeypatch.setenv("VAVL_TEST_ROOT", "/somewhere")
    monkeypatch.delenv("VAVL_TEST_FOLD", raising=False)
    settings = read_config(Settings, file("folder: ${VAVL_TEST_ROOT}/runs\nfold: ${VAVL_TEST_FOLD:-2}\n"))
    assert (settings.folder, settings.fold) == (Path("/somewhere/runs"), 2)


def test_a_set_variable_wins_over_its_default(file, monkeypatch):
    monkeypatch.setenv("VAVL_TEST_FOLD", "4")
    assert read_config(Settings, file("folder: runs\nfold: ${VAVL_TEST_FOLD:-2}\n")).fold == 4


def test_variables_that_are_not_set_are_all_named(file, monkeypatch):
    for name in ("VAVL_TEST_A", "VAVL_TEST_B"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="VAVL_TEST_A, VAVL_TEST_B: environment variable not set"):
        read_config(Settings, file("folder: ${VAVL_TEST_B}\nsources: [{kind: '${VAVL_TEST_A}'}]\n"))


def test_settings_cannot_change():
    settings = Settings(folder=Path("runs"))
    with pytest.raises(ValidationError, match="frozen"):
        settings.fold = 1
    assert validate(Settings, {"folder": "runs"}, "here") == settings


class OfFolder(FrozenConfig):
    directory_key: ClassVar[str | None] = "folder"

    folder: Path
    many: int = 1


def test_a_folder_may_stand_for_a_file_where_the_settings_say_so(tmp_path, monkeypatch):
    (tmp_path / "here" / "runs").mkdir(parents=True)
    (tmp_path / "root" / "other").mkdir(parents=True)
    (tmp_path / "file.yaml").write_text("folder: x\nmany: 3\n")
    monkeypatch.chdir(tmp_path / "here")
    assert read_config(OfFolder, Path("runs"), ["many=2"]) == OfFolder(folder=tmp_path / "here/runs", many=2)
    assert read_config(OfFolder, tmp_path / "file.yaml").many == 3
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(OfFolder, Path("other"))
    monkeypatch.setenv("VAVL_ROOT", str(tmp_path / "root"))
    assert read_config(OfFolder, Path("other")).folder == tmp_path / "root/other"


class OfPlace(FrozenConfig):
    directory_key: ClassVar[str | None] = "place"

    place: str


def test_an_address_may_stand_for_a_file_too():
    assert read_config(OfPlace, "s3://bucket/stores").place == "s3://bucket/stores"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(FrozenConfig, "s3://bucket/stores")


def test_a_folder_is_no_configuration_of_other_jobs(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(FrozenConfig, tmp_path)


def bomb(levels: int = 12) -> str:
    """Nine to the power of ``levels`` values in a few lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join(lines)


def test_plain_values_and_small_anchors_are_read():
    assert parse_yaml("a: &x [1, 2]\nb: *x\nc: {d: null}") == {"a": [1, 2], "b": [1, 2], "c": {"d": None}}
    assert parse_yaml("base: &b {a: 1}\nown: {<<: *b, c: 2}")["own"] == {"a": 1, "c": 2}
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (bomb(), "more than 100000 values"),
        ("a: &a [*a]", "an anchor refers to itself in line 1"),
        ("a: &a {b: {c: *a}}", "an anchor refers to itself"),
        ("a: 1\nb: 2\na: 3", "the key `a` stands twice in line 3"),
        ("b:\n  {c: 1, c: 1}", "the key `c` stands twice in line 2"),
        ("[" * 3000, "nested too deeply"),
        ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("a: !other 1", "could not determine a constructor"),
        ("a: 2026-13-45", "month must be"),
        ("a: " + "9" * 5000, "Exceeds the limit"),
        ("a: [", "expected the node content"),
        ("a: 1\n--- \nb: 2", "another document"),
        ("{[1, 2]: 3}", "unhashable key"),
        ("a: b\0c", "special characters"),
    ],
)
def test_what_no_card_needs_is_refused(text, problem):
    with pytest.raises(ValueError, match=re.escape(problem)):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("name: Björn".encode("latin-1"), "not UTF-8 text"),
        ("name: x".encode("utf-16"), "not UTF-8 text"),
        (b"name: x\n" + b"#" * (4 << 20), "larger than 4194304 bytes"),
        (b"- a", "holds list, not a mapping"),
        (b"", "holds NoneType, not a mapping"),
        (b"a: [1", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_of_text_is_refused_by_its_name(tmp_path, content, problem):
    path = tmp_path / "card.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_yaml_mapping(path)
    assert caught.value.file == str(path)


def test_a_pipe_named_like_a_card_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "card.yaml")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_yaml_mapping(tmp_path / "card.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "card.yaml").write_bytes(b"\xef\xbb\xbfname: x\r\n")
    assert read_yaml_mapping(tmp_path / "card.yaml") == {"name": "x"}


BASE = {"a": {"b": 1, "c": {"d": 2}}, "e": None}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"a.b": 5}, {"a": {"b": 5, "c": {"d": 2}}, "e": None}),
        ({"a": {"c.d": 3}}, {"a": {"b": 1, "c": {"d": 3}}, "e": None}),
        ({"a.c": None}, {"a": {"b": 1, "c": None}, "e": None}),
        ({"a.c": {}}, {"a": {"b": 1, "c": {}}, "e": None}),
        ({"e.f": 1}, {"a": {"b": 1, "c": {"d": 2}}, "e": {"f": 1}}),
        ({"a.b": 5, "a": {"b": 6}}, {"a": {"b": 6, "c": {"d": 2}}, "e": None}),
        ({}, BASE),
    ],
)
def test_dotted_keys_and_sections_mean_the_same(changes: dict[str, object], wanted: dict[str, object]) -> None:
    assert with_changes(BASE, changes, "here") == wanted
    assert BASE == {"a": {"b": 1, "c": {"d": 2}}, "e": None}


def test_a_value_is_no_section() -> None:
    with pytest.raises(ConfigError, match="`b` is not a section"):
        with_changes(BASE, {"a.b.c": 1}, "objective_sets.x")


def test_leaves_name_every_value() -> None:
    found = dict(leaves({"a.b": 1, "c": {"d": {"e.f": None}}}))
    assert found == {("a", "b"): 1, ("c", "d", "e", "f"): None}


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
