"""What is sent to Ray's job server, and how a submitted job ends here."""

from __future__ import annotations

import asyncio
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ray._private.runtime_env.packaging import create_package
from ray.job_submission import JobDetails

from vavl.config.load import read_yaml_mapping
from vavl.errors import ConfigError
from vavl.job_config import JOB_SETTINGS
from vavl.submission import submission
from vavl.submission.submission import (
    SubmissionError,
    SubmitJob,
    connect,
    plan_submission,
    refuse_failure,
    submission_rows,
)
from vavl.tracking.run import CODE_VARIABLE, source_tags

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def submit(job: str = "check_setup", config: str = "check_setup.yaml", **changes: object) -> SubmitJob:
    content = {"output_dir": "out", "job": f"jobs/{job}.py", "config": f"jobs/configs/{config}"}
    return SubmitJob.model_validate(content | changes)


@pytest.mark.parametrize(
    ("job", "config"),
    [
        ("check_setup", "check_setup.yaml"),
        ("make_demo_corpus", "demo_corpus.yaml"),
        ("prepare_corpus", "prepare/demo.yaml"),
        ("train_model", "demo.yaml"),
        ("compare_objectives", "compare/demo.yaml"),
    ],
)
def test_every_shipped_job_can_be_sent(job, config):
    submission = plan_submission(submit(job, config), {}, ROOT)
    assert shlex.split(submission["entrypoint"]) == ["python", f"jobs/{job}.py", f"jobs/configs/{config}"]
    assert submission["runtime_env"]["working_dir"] == str(ROOT)
    assert submission["runtime_env"]["py_modules"] == ["platform/vavl"]


def test_overrides_reach_the_job_whatever_they_hold():
    overrides = ["tracking.experiment=two words; rm x", "needed=[ravdess]"]
    submission = plan_submission(submit(overrides=overrides), {}, ROOT)
    assert shlex.split(submission["entrypoint"])[3:] == overrides


def test_variables_are_passed_by_name():
    job = submit(environment=["MLFLOW_TRACKING_URI"])
    sent = plan_submission(job, {"MLFLOW_TRACKING_URI": "http://tracking:5000", "OTHER": "x"}, ROOT)
    variables = dict(sent["runtime_env"]["env_vars"])
    variables.pop(CODE_VARIABLE, None)
    assert variables == {
        "MLFLOW_TRACKING_URI": "http://tracking:5000",
        "VAVL_ROOT": str(ROOT),
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
    }


def test_the_commit_is_sent_along_and_tags_the_runs_there(tmp_path, monkeypatch):
    """Ray's copy of the project is no git repository."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "jobs", project / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    package = project / "platform/vavl"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.chdir(project)
    job = submit(environment=["GREETING"])
    without = plan_submission(job, {"GREETING": "value"}, project)
    assert CODE_VARIABLE not in without["runtime_env"]["env_vars"]
    assert "no git repository" in dict(submission_rows(job, without))["code"]
    for words in (
        ["init", "-qb", "trunk"], ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"],
    ):  # fmt: skip
        subprocess.run(["git", *words], check=True)
    (package / "__init__.py").write_text("changed = 1\n")
    sent = plan_submission(job, {"GREETING": "value"}, project)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    rows = dict(submission_rows(job, sent))
    assert rows["code"] == f"commit {commit[:12]}, with uncommitted changes"
    assert "value" not in " ".join(rows.values())

    copy = tmp_path / "copy/vavl"
    shutil.copytree(package, copy)
    monkeypatch.setattr("vavl.tracking.run.vavl.__file__", str(copy / "__init__.py"))
    unsent = source_tags()
    assert "mlflow.source.git.commit" not in unsent
    monkeypatch.setenv(CODE_VARIABLE, sent["runtime_env"]["env_vars"][CODE_VARIABLE])
    tags = source_tags()
    assert tags["mlflow.source.git.commit"] == commit.strip()
    assert tags["mlflow.source.git.branch"] == "trunk"
    assert tags["vavl.uncommitted_changes"] == "true"
    monkeypatch.setattr("vavl.tracking.run.vavl.__file__", str(package / "__init__.py"))
    assert tags["vavl.code_hash"] == unsent["vavl.code_hash"] == source_tags()["vavl.code_hash"]


def test_a_missing_variable_is_named():
    with pytest.raises(ConfigError, match=r"not set here: ABSENT(?s:.*)export ABSENT="):
        plan_submission(submit(environment=["LANG", "ABSENT"]), {"LANG": "C"}, ROOT)


def test_a_password_in_an_address_is_refused_and_not_shown():
    variables = {"MLFLOW_TRACKING_URI": "https://me:hunter2@tracking"}
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI holds a password") as refused:
        plan_submission(submit(environment=["MLFLOW_TRACKING_URI"]), variables, ROOT)
    assert "hunter2" not in str(refused.value)


def test_a_cluster_elsewhere_needs_a_root():
    address = "http://10.0.0.7:8265"
    with pytest.raises(ConfigError, match=r"root: null, and the cluster at http://10.0.0.7:8265 is not this"):
        plan_submission(submit(address=address), {}, ROOT)
    submission = plan_submission(submit(address=address, root="/mnt/vavl"), {}, ROOT)
    assert submission["runtime_env"]["env_vars"]["VAVL_ROOT"] == "/mnt/vavl"


COMPARE = {"job": "jobs/compare_objectives.py", "config": "jobs/configs/compare/demo.yaml"}
PREPARE = {"job": "jobs/prepare_corpus.py", "config": "jobs/configs/prepare/demo.yaml"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overrides": ["training.workerz=2"]}, "workerz: unknown key; did you mean `workers`"),
        ({"overrides": ["training.workers=0"]}, "training.workers"),
        ({"config": "jobs/configs/absent.yaml"}, "absent.yaml: cannot be read"),
        ({"config": "/etc/hostname"}, "lies outside the project"),
        ({"config": "../elsewhere.yaml"}, "lies outside the project"),
        ({"config": "runs/demo/config.yaml"}, "lies in runs/, which is not sent"),
        ({"job": "jobs/submit_job.py"}, "jobs/submit_job.py is no job"),
        ({"job": "jobs/absent.py"}, "jobs/absent.py is no job"),
        ({"job": "platform/train_model.py"}, "is no job"),
        (COMPARE | {"overrides": ["overrides={training.optimizer: 3}"]}, r"training\.optimizer"),
        (PREPARE | {"overrides": ["card=absent.yaml"]}, r"absent\.yaml: cannot be read"),
    ],
)
def test_what_the_job_would_refuse_is_refused_here(changes, message):
    content = {"output_dir": "out", "job": "jobs/train_model.py", "config": "jobs/configs/demo.yaml"}
    job = SubmitJob.model_validate(content | changes)
    with pytest.raises(ConfigError, match=message):
        plan_submission(job, {}, ROOT)


def test_the_folder_must_be_the_project(tmp_path):
    with pytest.raises(ConfigError, match="jobs: is not here"):
        plan_submission(submit(), {}, tmp_path)


def test_the_package_is_small_and_holds_what_jobs_need(tmp_path):
    """``runs`` and the environment hold gigabytes; Ray refuses more than 512 MiB."""
    runtime_env = read_yaml_mapping(ROOT / "jobs/runtime_env.yaml")
    package = tmp_path / "project.zip"
    create_package(str(ROOT), package, include_gitignore=False, excludes=runtime_env["excludes"])
    with zipfile.ZipFile(package) as content:
        names = content.namelist()
    assert package.stat().st_size < 4 * 2**20
    assert {"jobs/train_model.py", "jobs/configs/demo.yaml", "datasets/demo.yaml"} <= set(names)
    assert "platform/vavl/job_config.py" in names
    at_home = (".git/", ".venv/", "runs/", "tests/", ".mypy_cache/", ".ruff_cache/", ".pytest_cache/")
    assert not [name for name in names if name.startswith(at_home) or "__pycache__" in name]


def test_the_readme_shows_a_valid_command_for_every_job():
    text = (ROOT / "jobs/README.md").read_text()
    shown = [line for line in text.splitlines() if line.startswith("ray job submit ")]
    commands = [shlex.split(line.partition(" -- ")[2]) for line in shown]
    assert {Path(command[1]).stem for command in commands} == JOB_SETTINGS.keys()
    for program, job, config, *overrides in commands:
        assert program == "python"
        content = {"output_dir": "out", "job": job, "config": config, "overrides": overrides}
        plan_submission(SubmitJob.model_validate(content), {}, ROOT)
        assert f"`python {job} {config}`" in text
    assert "`python jobs/submit_job.py jobs/configs/submit.yaml`" in text


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "api_key", "GOOGLE_CREDENTIALS"]
)
def test_a_secret_is_refused_with_the_place_where_it_belongs(name):
    with pytest.raises(ValidationError, match=f"{name} looks like a secret.*ray_cluster.yaml, or a Kubernetes"):
        submit(environment=["LANG", name])


@pytest.mark.parametrize(
    ("name", "message"), [("A=b", "is no name of a variable"), ("VAVL_ROOT", "given by the setting `root`")]
)
def test_only_names_of_other_variables_are_taken(name, message):
    with pytest.raises(ValidationError, match=message):
        submit(environment=[name])


@pytest.mark.parametrize(
    ("changes", "is_loopback"),
    [
        ({}, True),
        ({"address": "http://127.0.0.1:8265"}, True),
        ({"address": "http://127.0.3.1:8265"}, True),
        ({"address": "http://localhost:8265"}, True),
        ({"address": "http://[::1]:8265"}, True),
        ({"address": "http://10.0.0.7:8265"}, False),
        ({"address": "https://localhost.example.org"}, False),
    ],
)
def test_loopback_is_this_machine_only_and_what_nobody_changes(changes, is_loopback):
    assert submit(**changes).is_loopback is is_loopback


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://127.0.0.1:10001", "http://", "http://me:pw@host:1"])
def test_an_address_without_host_or_with_a_password_is_refused(address):
    with pytest.raises(ValidationError, match=r"write http://host:port|holds a user or password"):
        submit(address=address)


def test_the_root_is_absolute():
    assert submit(root="/mnt/vavl").root == "/mnt/vavl"
    with pytest.raises(ValidationError, match="must be absolute"):
        submit(root="mnt/vavl")


def test_an_id_is_fit_for_a_file_name():
    assert submit(submission_id="demo-1").submission_id == "demo-1"
    with pytest.raises(ValidationError, match="submission_id"):
        submit(submission_id="../demo")


ADDRESS = "http://127.0.0.1:8265"


def ended(status: str, code: int | None, message: str = "") -> JobDetails:
    return JobDetails(
        type="SUBMISSION", submission_id="a", status=status, driver_exit_code=code, message=message, entrypoint="python"
    )


def refusal(details: JobDetails, *, waited: bool = True) -> SubmissionError | None:
    """Return how a job ends here, None where it ends well."""
    try:
        refuse_failure("a", details, waited=waited)
    except SubmissionError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [("FAILED", 1, 1), ("FAILED", 2, 2), ("FAILED", -9, 137), ("FAILED", None, 1), ("STOPPED", None, 1)],
)
def test_the_exit_code_is_the_jobs_own(status, driver, code):
    assert refusal(ended(status, driver)).exit_code == code


def test_a_failed_job_says_so_also_where_it_never_started():
    error = refusal(ended("FAILED", 2, "tail of the log"))
    assert "job: a: FAILED: exit code 2; its log is above" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (again.exit_code, str(again)) == (2, str(error))
    never_started = refusal(ended("FAILED", None, "the environment cannot be made"))
    assert "FAILED: the environment cannot be made" in str(never_started)


def test_a_job_that_is_left_alone_is_named_with_what_to_do():
    left = refusal(ended("RUNNING", None))
    assert "a: is RUNNING" in str(left)
    assert "ray job stop a" in left.fix
    assert left.exit_code == 1


def test_nothing_is_refused_where_nobody_waits_or_all_is_well():
    assert refusal(ended("PENDING", None), waited=False) is None
    assert refusal(ended("SUCCEEDED", 0)) is None


@dataclass
class FakeClient:
    """Sends the log from its beginning at each connection, cut off as the test says.

    Attributes:
        connections: pieces of the log that each connection sends; a fault ends a connection.
        states: answers to the question for the status; a fault is raised.
    """

    connections: list[list[Any]]
    states: list[Any]
    asked: list[str] = field(default_factory=list)

    async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
        for piece in self.connections.pop(0):
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def get_job_info(self, submission_id: str) -> Any:
        self.asked.append(submission_id)
        state = self.states.pop(0)
        if isinstance(state, BaseException):
            raise state
        return ended(*state)


def followed(monkeypatch: pytest.MonkeyPatch, client: FakeClient) -> tuple[JobDetails, str]:
    monkeypatch.setattr(submission, "_PAUSE_S", 0.0)
    shown: list[str] = []
    details = submission.follow(client, ADDRESS, "a", shown.append)
    return details, "".join(shown)


def test_the_log_is_shown_and_the_end_awaited(monkeypatch):
    client = FakeClient([["one\n", "two\n"], ["one\ntwo\n"]], [("RUNNING", None), ("SUCCEEDED", 0)])
    state, shown = followed(monkeypatch, client)
    assert shown == "one\ntwo\n"
    assert state.status == "SUCCEEDED"


def test_a_broken_connection_is_made_again_and_nothing_shown_twice(monkeypatch):
    client = FakeClient(
        [["one\ntw", RuntimeError("closed")], [ConnectionError("refused")], ["one", "\ntwo\n", "three\n"]],
        [("FAILED", 2)],
    )
    state, shown = followed(monkeypatch, client)
    assert shown == "one\ntwo\nthree\n"
    assert state.driver_exit_code == 2


def test_a_server_that_stays_away_is_given_up(monkeypatch):
    monkeypatch.setattr(submission, "_LONGEST_SILENCE_S", -1.0)
    with pytest.raises(SubmissionError, match=r"no answer for .*; the job may continue"):
        followed(monkeypatch, FakeClient([[ConnectionError("refused")]], []))


class InterruptedClient(FakeClient):
    """Gets Ctrl-C while it waits for the log, and its connection breaks at that moment."""

    async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
        yield self.connections.pop(0)[0]
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            raise RuntimeError("closed") from None


@pytest.mark.parametrize("client", [FakeClient, InterruptedClient])
@pytest.mark.parametrize("inherited", [signal.default_int_handler, signal.SIG_IGN], ids=["shell", "background"])
def test_interrupting_leaves_the_job_running(monkeypatch, client, inherited):
    before = signal.signal(signal.SIGINT, inherited)
    try:
        state, shown = followed(monkeypatch, client([["one\n", KeyboardInterrupt()]], [("RUNNING", None)]))
        assert signal.getsignal(signal.SIGINT) == inherited
    finally:
        signal.signal(signal.SIGINT, before)
    assert shown == "one\n"
    assert not state.status.is_terminal()


def test_a_server_that_is_not_there_is_named_with_how_to_start_it():
    with pytest.raises(SubmissionError, match=r"no Ray job server answers(?s:.*)ray start --head"):
        connect("http://127.0.0.1:9")
