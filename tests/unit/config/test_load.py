"""Reading settings: YAML, overrides, variables; every fault is reported, and at once."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest
from pydantic import Field, ValidationError

from vavl.config.base import FrozenConfig
from vavl.config.load import read_config, validate
from vavl.errors import ConfigError


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


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not valid YAML"), ("- 1", "holds list, not a mapping"), ("", "holds NoneType, not a mapping")],
)
def test_a_file_that_is_no_mapping_is_refused(file, text, message):
    with pytest.raises(ConfigError, match=message):
        read_config(Settings, file(text))


def test_yaml_that_would_build_an_object_is_refused(file):
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_config(Settings, file("folder: !!python/object/apply:os.getcwd []"))


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
    folder_key: ClassVar[str | None] = "folder"

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
    folder_key: ClassVar[str | None] = "place"

    place: str


def test_an_address_may_stand_for_a_file_too():
    assert read_config(OfPlace, "s3://bucket/stores").place == "s3://bucket/stores"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(FrozenConfig, "s3://bucket/stores")


def test_a_folder_is_no_configuration_of_other_jobs(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(FrozenConfig, tmp_path)
