"""Where the paths of a configuration count from, and which files it may name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from pydantic import BaseModel

from vavl.config.addresses import StoreAddress
from vavl.config.base import FrozenConfig
from vavl.config.command_line import run_job
from vavl.config.load import flat_settings, read_config, save_config
from vavl.config.places import (
    FROM_PROJECT,
    FROM_ROOT,
    anchored,
    check_project_files,
    is_lost_with_the_job,
    marked_settings,
    portable,
    root_directory,
)
from vavl.errors import ConfigError
from vavl.job_config import JOB_SETTINGS, TrainModelJob


class Data(FrozenConfig):
    store: Annotated[str, FROM_ROOT] = "runs/store"


class Job(FrozenConfig):
    output_dir: Annotated[Path, FROM_ROOT] = Path("runs/here")
    root: Annotated[Path | None, FROM_ROOT] = None
    card: Annotated[Path, FROM_PROJECT] = Path("card.yaml")
    data: Data = Data()


ROOT = Path("/shared")


def test_results_and_stores_count_from_the_root_and_project_files_do_not():
    job = anchored(Job(root=Path("corpora/a")), ROOT)
    assert job == Job(output_dir=ROOT / "runs/here", root=ROOT / "corpora/a", data=Data(store="/shared/runs/store"))
    assert anchored(Job(), None) == Job()


@pytest.mark.parametrize("place", ["/elsewhere/store", "s3://bucket/store", "memory://store"])
def test_absolute_places_and_addresses_stay(place):
    assert anchored(Job(data=Data(store=place)), ROOT).data.store == place


class ManyStores(FrozenConfig):
    stores: Annotated[tuple[StoreAddress, ...], FROM_ROOT]


def test_each_of_several_places_counts_from_the_root():
    stores = ManyStores(stores=["runs/a", "s3://bucket/b", "/elsewhere/c"])
    here = anchored(stores, ROOT)
    assert here.stores == (ROOT / "runs/a", "s3://bucket/b", Path("/elsewhere/c"))
    assert portable(here, ROOT) == stores


def test_what_is_saved_does_not_name_the_root():
    job = Job(root=Path("/elsewhere"), data=Data(store="s3://bucket/store"))
    assert portable(anchored(job, ROOT), ROOT) == job


def test_the_root_must_be_absolute():
    assert root_directory({}) is None
    assert root_directory({"VAVL_ROOT": ""}) is None
    assert root_directory({"VAVL_ROOT": "/shared"}) == ROOT
    with pytest.raises(ConfigError, match="VAVL_ROOT: shared/runs is not absolute"):
        root_directory({"VAVL_ROOT": "shared/runs"})


def test_a_job_works_below_the_root_and_saves_the_same_configuration_and_hash(tmp_path, monkeypatch):
    file = tmp_path / "job.yaml"
    file.write_text("output_dir: runs/here\ndata: {store: runs/store}\n")
    saved, hashes, parameters = [], [], []

    def story(job: TrainModelJob) -> None:
        save_config(job, tmp_path / "saved.yaml")
        saved.append((tmp_path / "saved.yaml").read_text())
        hashes.append(job.config_hash)
        parameters.append(flat_settings(job))
        places.append((str(job.output_dir), str(job.data.store)))

    places: list[tuple[str, str]] = []
    for root in (None, tmp_path / "shared"):
        if root is not None:
            monkeypatch.setenv("VAVL_ROOT", str(root))
        assert run_job("Do a thing.", TrainModelJob, story, lambda job: None, [str(file)]) == 0
    assert places == [
        ("runs/here", "runs/store"),
        (str(tmp_path / "shared/runs/here"), str(tmp_path / "shared/runs/store")),
    ]
    assert saved[0] == saved[1]
    assert parameters[0] == parameters[1]
    assert hashes[0] == hashes[1]


def test_a_submitted_job_without_a_root_is_warned_that_its_results_go(tmp_path, monkeypatch, caplog):
    file = tmp_path / "job.yaml"
    file.write_text("{}\n")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert run_job("Do a thing.", Job, lambda job: None, lambda job: None, [str(file), "card=x.yaml"]) == 0
    assert "VAVL_ROOT is not set: relative results go into" in caplog.text


def test_ray_names_a_submitted_job_as_we_expect():
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    assert is_lost_with_the_job({RAY_JOB_CONFIG_JSON_ENV_VAR: "{}"})


def places_of(annotation: Any) -> bool:
    return annotation is Path or any(places_of(part) for part in get_args(annotation))


def unmarked(settings: type[BaseModel], above: str = "") -> list[str]:
    found = []
    for name, field in settings.model_fields.items():
        if places_of(field.annotation) and not {FROM_ROOT, FROM_PROJECT} & set(field.metadata):
            found.append(f"{above}{name}")
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += unmarked(field.annotation, f"{above}{name}.")
    return found


def test_every_path_of_every_job_says_what_it_counts_from():
    marked = {
        name: set(marked_settings(settings, FROM_ROOT)) | set(marked_settings(settings, FROM_PROJECT))
        for name, settings in JOB_SETTINGS.items()
    }
    assert {"output_dir", "data.store"} <= marked["train_model"]
    assert {"output_dir", "card", "root"} <= marked["prepare_corpus"]
    assert {"output_dir", "training"} <= marked["compare_objectives"]
    assert not {name: keys for name, settings in JOB_SETTINGS.items() if (keys := unmarked(settings))}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("project", "configs", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.yaml").write_text("name: x\n")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


def refusal(folders: Path, card: str, *overrides: str) -> str:
    """Return why a configuration may not name a card, "" where it may."""
    file = folders / "configs/job.yaml"
    file.write_text(f"card: {card}\n")
    try:
        check_project_files(read_config(Job, file, overrides), file, overrides, folders / "shared")
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "card", ["card.yaml", "./card.yaml", "../project/card.yaml", "{}/configs/card.yaml", "{}/shared/a"]
)
def test_a_configuration_names_files_of_the_project_its_own_directory_and_the_root(folders, card):
    assert refusal(folders, card.format(folders)) == ""


@pytest.mark.parametrize("card", ["../elsewhere/card.yaml", "{}/elsewhere/card.yaml", "/etc/passwd", "link.yaml"])
def test_a_configuration_cannot_name_a_file_outside_even_through_a_link(folders, card):
    (folders / "project/link.yaml").symlink_to(folders / "elsewhere/card.yaml")
    said = refusal(folders, card.format(folders))
    assert re.search(r"card: .* leads to .*, outside the directories that a configuration may", said)


def test_the_command_line_may_name_any_file(folders):
    assert refusal(folders, "card.yaml", f"card={folders}/elsewhere/card.yaml") == ""
