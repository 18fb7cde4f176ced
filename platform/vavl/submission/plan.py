"""What is sent to Ray's job server: settings, command, packages and environment, checked beforehand."""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from vavl.config.base import FrozenConfig
from vavl.config.load import read_config, read_yaml_mapping
from vavl.config.places import FROM_PROJECT, FROM_ROOT, ROOT_VARIABLE, check_project_files
from vavl.corpora.card import read_card
from vavl.errors import ConfigError
from vavl.job_config import JOB_SETTINGS, AuditCorpusJob, CompareObjectivesJob, PrepareCorpusJob
from vavl.tracking.run import CODE_VARIABLE, repository_tags

RUNTIME_ENVIRONMENT = Path("jobs/runtime_env.yaml")
SHARED_ROOT = "set root=/directory that all nodes share: stores are read there and results written"
_PROJECT = ("jobs", "platform/vavl")
_NOT_SENT = re.compile(r"\.|runs$|tests$")  # see .rayignore
_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]*@")
_SECRET = re.compile(r"TOKEN|PASSW|SECRET|KEY|CREDENTIAL", re.IGNORECASE)
_VISIBLE = "whoever sees the dashboard can read a job's environment"
_OWN_ENVIRONMENT = "put it into the cluster's own environment (ray_cluster.yaml, or a Kubernetes secret)"


class SubmitJob(FrozenConfig):
    """Settings of ``jobs/submit_job.py``."""

    output_dir: Annotated[Path, FROM_ROOT] = Field(description="directory of the summary, on this machine")
    address: str = Field("http://127.0.0.1:8265", description="Ray's dashboard, which is its job server")
    job: Annotated[Path, FROM_PROJECT] = Field(description="job to run, e.g. jobs/train_model.py")
    config: Annotated[Path, FROM_PROJECT] = Field(description="its configuration")
    overrides: tuple[str, ...] = Field((), description="dotted.key=value for the job")
    root: str | None = Field(
        None, description="VAVL_ROOT on the cluster; null: this directory, if Ray runs on this machine"
    )
    environment: tuple[str, ...] = Field(
        (), description="names of environment variables that the job gets from here; never secrets"
    )
    wait: bool = Field(True, description="show the log and end as the job ends; false only submits")
    entrypoint_num_cpus: float | None = Field(
        None, ge=0, description="CPUs to reserve for the job's own process; null: none, on the head node"
    )
    submission_id: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="null: Ray makes one")

    @property
    def is_loopback(self) -> bool:
        """True when the address is one of this machine; behind it may be a tunnel to another one."""
        host = urlsplit(self.address).hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("write http://host:port of the dashboard")
        if parts.username is not None or parts.password is not None:
            raise ValueError("holds a user or password; the cluster's token is sent with RAY_AUTH_MODE=token")
        return address

    @field_validator("root")
    @classmethod
    def _is_absolute(cls, root: str | None) -> str | None:
        if root is not None and not PurePosixPath(root).is_absolute():
            raise ValueError("must be absolute: the shared directory of the cluster")
        return root

    @field_validator("environment")
    @classmethod
    def _names_no_secret(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not (name.isidentifier() and name.isascii()):
                raise ValueError(f"{name!r} is no name of a variable; values are taken from the environment")
            if name == ROOT_VARIABLE:
                raise ValueError(f"{name} is given by the setting `root`")
            if _SECRET.search(name):
                raise ValueError(f"{name} looks like a secret, and {_VISIBLE}; {_OWN_ENVIRONMENT}")
        return names


def plan_submission(job: SubmitJob, environment: Mapping[str, str], project: Path) -> dict[str, Any]:
    """Check the job as far as this machine can; return what ``JobSubmissionClient.submit_job`` takes.

    Args:
        job: what to submit.
        environment: usually ``os.environ``; gives the variables that are named.
        project: its directory, usually the current one.

    Raises:
        ConfigError: no project, no such job, a configuration that the job would refuse or that is not
            sent, a variable that is not set or holds a password, or no root for a cluster elsewhere.
    """
    for part in _PROJECT:
        if not (project / part).is_dir():
            raise ConfigError(str(project), part, "is not here", "start the job in the directory of the project")
    name, config = _job_name(job, project), _sent_file(job, project)
    check_configuration(JOB_SETTINGS[name], config, job.overrides)
    if job.root is None and not job.is_loopback:
        problem = f"null, and the cluster at {job.address} is not this machine"
        raise ConfigError("submission", "root", problem, SHARED_ROOT)
    runtime_env = read_yaml_mapping(project / RUNTIME_ENVIRONMENT)
    repository = repository_tags(project)
    variables = {
        **runtime_env.get("env_vars", {}),
        **({CODE_VARIABLE: json.dumps(repository)} if repository else {}),
        ROOT_VARIABLE: job.root or str(project),
        **_variables(job, environment),
    }
    entrypoint = shlex.join(["python", f"jobs/{name}.py", config.as_posix(), *job.overrides])
    return {
        "entrypoint": entrypoint,
        "runtime_env": {**runtime_env, "working_dir": str(project), "env_vars": variables},
        "submission_id": job.submission_id,
        "entrypoint_num_cpus": job.entrypoint_num_cpus,
    }


def check_configuration(settings: type[FrozenConfig], file: Path, overrides: tuple[str, ...]) -> None:
    """Validate a job's configuration without a look at data, which may lie on the cluster only.

    Raises:
        ConfigError: what the job itself would refuse with exit code 2.
    """
    config = read_config(settings, file, overrides)
    check_project_files(config, file, overrides)
    match config:
        case PrepareCorpusJob(card=card) | AuditCorpusJob(card=Path() as card):
            read_card(card)
        case CompareObjectivesJob() as comparison:
            # Imported here: it brings torch, which the other jobs do not need to be submitted.
            from vavl.experiments.comparison_grid import cell_plans

            cell_plans(comparison)
        case _:
            pass


def _job_name(job: SubmitJob, project: Path) -> str:
    name, file = job.job.stem, project / job.job
    is_known = name in JOB_SETTINGS and file.resolve() == (project / f"jobs/{name}.py").resolve()
    if not is_known or not file.is_file():
        known = ", ".join(f"jobs/{known}.py" for known in JOB_SETTINGS)
        raise ConfigError("submission", "job", f"{job.job} is no job", f"choose one of {known}")
    return name


def _sent_file(job: SubmitJob, project: Path) -> Path:
    """Return the place of the configuration in the copy of the project."""
    path, problem = (project / job.config).absolute(), ""
    if not path.is_relative_to(project) or ".." in path.parts:
        problem = "outside the project, which is what is sent"
    elif _NOT_SENT.match(top := path.relative_to(project).parts[0]):
        problem = f"in {top}/, which is not sent (.rayignore)"
    if problem:
        raise ConfigError("submission", "config", f"{job.config} lies {problem}", "copy it into jobs/configs")
    return path.relative_to(project)


def _variables(job: SubmitJob, environment: Mapping[str, str]) -> dict[str, str]:
    missing = [name for name in job.environment if name not in environment]
    if missing:
        problem = f"not set here: {', '.join(missing)}"
        raise ConfigError("submission", "environment", problem, f"set it first: export {missing[0]}=VALUE")
    values = {name: environment[name] for name in job.environment}
    for name, value in values.items():
        if _PASSWORD.search(value):
            problem = f"{name} holds a password, and {_VISIBLE}"
            raise ConfigError("submission", "environment", problem, _OWN_ENVIRONMENT)
    return values


def submission_rows(job: SubmitJob, submission: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is sent, as a table shows it: variables by name only, whatever they hold."""
    variables = submission["runtime_env"]["env_vars"]
    code = json.loads(variables.get(CODE_VARIABLE, "{}"))
    words = "no git repository here; runs are tagged with a hash of the code"
    if code:
        changes = ", with uncommitted changes" if code["vavl.uncommitted_changes"] == "true" else ""
        words = f"commit {code['mlflow.source.git.commit'][:12]}{changes}"
    return [
        ("address", job.address),
        ("command", submission["entrypoint"]),
        ("code", words),
        (ROOT_VARIABLE, variables[ROOT_VARIABLE]),
        ("variables", ", ".join(variables)),
    ]
