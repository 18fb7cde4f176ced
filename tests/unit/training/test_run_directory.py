"""The directory of a run: continued, or put aside; nothing is deleted."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from copied_store import copy_store, relabelled_copy

from vavl.config.load import read_config
from vavl.errors import InputError
from vavl.store.store_versions import push_store
from vavl.training.run_directory import claim_run_directory, is_finished, resolved
from vavl.training.settings import TrainingPlan


def state(plan) -> dict:
    return json.loads((plan.output_dir / "run.json").read_text())


def test_a_new_folder_belongs_to_a_new_run(plan):
    chosen = plan()
    folder = claim_run_directory(chosen)
    assert not folder.is_resumed
    assert state(chosen) == {
        "run_id": folder.run_id, "config_hash": chosen.config_hash, "state": "running", "store": str(chosen.data.store),
    }  # fmt: skip
    assert read_config(TrainingPlan, chosen.output_dir / "config.yaml") == chosen


def test_an_unfinished_run_is_continued(plan):
    chosen = plan()
    first = claim_run_directory(chosen)
    (chosen.output_dir / "half.txt").write_text("done")
    again = claim_run_directory(chosen)
    assert again.is_resumed
    assert again.run_id == first.run_id
    assert (chosen.output_dir / "half.txt").exists()


@pytest.mark.parametrize("why", ["finished", "never", "settings"])
def test_another_run_puts_the_earlier_one_aside(plan, why):
    chosen = plan()
    first = claim_run_directory(chosen)
    (chosen.output_dir / "result.txt").write_text("kept")
    match why:
        case "finished":
            first.finish()
        case "never":
            chosen = plan(training={"resume": "never"})
        case "settings":
            chosen = plan(training={"seed": 5})
    again = claim_run_directory(chosen)
    assert not again.is_resumed
    assert again.run_id != first.run_id
    kept = chosen.output_dir / "earlier" / first.run_id
    assert (kept / "result.txt").read_text() == "kept"
    assert json.loads((kept / "run.json").read_text())["run_id"] == first.run_id
    assert not (chosen.output_dir / "result.txt").exists()
    third = claim_run_directory(plan(training={"seed": 7}))
    earlier = sorted(path.name for path in (chosen.output_dir / "earlier").iterdir())
    assert earlier == sorted([first.run_id, again.run_id])
    assert third.run_id not in earlier


def test_a_place_that_cannot_be_written_is_refused(plan, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        claim_run_directory(plan().model_copy(update={"output_dir": tmp_path / "file" / "run"}))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"run_id": "../x"}, "run_id"),
        ({"run_id": "/x"}, "run_id"),
        ({"run_id": ".."}, "run_id"),
        ({"run_id": ""}, "run_id"),
        ({"run_id": 7}, "run_id"),
        ({"run_id": None}, "run_id"),
        ({"config_hash": None}, "config_hash"),
        ({"state": []}, "state"),
    ],
)
def test_a_run_file_that_says_nothing_usable_is_refused_and_nothing_is_moved(plan, changes, field):
    chosen = plan()
    claim_run_directory(chosen)
    (chosen.output_dir / "run.json").write_text(json.dumps({**state(chosen), **changes}))
    before = sorted(chosen.output_dir.rglob("*"))
    for use in (resolved, claim_run_directory, is_finished):
        with pytest.raises(InputError) as refused:
            use(chosen)
        assert refused.value.file == str(chosen.output_dir / "run.json")
        assert refused.value.field == field
        assert "restore the file" in refused.value.fix
    assert sorted(chosen.output_dir.rglob("*")) == before


@pytest.mark.parametrize("content", ["{}", "[]", "null", "no JSON", "7"])
def test_a_run_file_of_another_form_is_refused(plan, content):
    chosen = plan()
    chosen.output_dir.mkdir(parents=True)
    (chosen.output_dir / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json: "):
        claim_run_directory(chosen)


NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


@pytest.fixture
def pushed(plan, tmp_path) -> tuple[str, list[str]]:
    """The address of a store with one version, and a store that the test pushes as a second one."""
    whole = copy_store(plan().data.store, tmp_path / "whole")
    relabelled_copy(whole, tmp_path / "newer")
    first = push_store(whole, (tmp_path / "pushed").as_uri(), NOON)
    return first.place.partition("@")[0], [first.version]


def push_newer(tmp_path: Path, versions: list[str]) -> None:
    now = NOON + dt.timedelta(hours=1)
    versions.append(push_store(tmp_path / "newer", (tmp_path / "pushed").as_uri(), now).version)


def test_the_latest_store_is_looked_up_once_for_a_run(plan, pushed, tmp_path):
    base, versions = pushed
    chosen = plan(data={"store": f"{base}@latest", "composition": {"batch_size": 10}})
    pinned = resolved(chosen)
    assert pinned.data.store == f"{base}@{versions[0]}"
    assert pinned.config_hash == chosen.config_hash
    first = claim_run_directory(pinned)
    assert state(pinned)["store"] == pinned.data.store
    assert read_config(TrainingPlan, pinned.output_dir / "config.yaml").data.store == pinned.data.store
    push_newer(tmp_path, versions)
    # The run goes on with what it began with; a new one takes what is the latest by then.
    assert resolved(chosen).data.store == f"{base}@{versions[0]}"
    assert resolved(plan(data={"store": f"{base}@{versions[1]}"})).data.store == f"{base}@{versions[1]}"
    first.finish()
    assert resolved(chosen).data.store == f"{base}@{versions[1]}"


def test_a_store_without_version_stays_as_it_is(plan):
    chosen = plan()
    claim_run_directory(chosen)
    assert resolved(chosen) == chosen
