"""What is sent to Ray's job server: the command, the packages and the environment, checked beforehand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vavl.config.base import FrozenConfig
from vavl.config.load import read_config, read_yaml_mapping
from vavl.config.places import ROOT_VARIABLE, check_project_files
from vavl.corpora.card import read_card
from vavl.errors import ConfigError
from vavl.job_config import JOB_SETTINGS, AuditCorpusJob, CompareObjectivesJob, PrepareCorpusJob
from vavl.submission.settings import SubmitJob

RUNTIME_ENVIRONMENT = Path("jobs/runtime_env.yaml")
_PROJECT = ("jobs", "platform/vavl")
# What .rayignore leaves at home.
_NOT_SENT = re.compile(r"\.|runs$|tests$")
_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]*@")


@dataclass(frozen=True)
class Submission:
    """A job as Ray gets it.

    Attributes:
        entrypoint: shell command, run in the copy of the project.
        runtime_env: packages and environment, as in ``jobs/runtime_env.yaml``.
        follows_folder: True when the root is this folder because Ray is taken to run on this machine.
    """

    entrypoint: str
    runtime_env: dict[str, Any]
    follows_folder: bool

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the job gets."""
        variables: dict[str, str] = self.runtime_env["env_vars"]
        return variables


def plan_submission(job: SubmitJob, environment: Mapping[str, str], folder: Path) -> Submission:
    """Check the job as far as this machine can, and put together what is sent.

    Args:
        job: what to submit.
        environment: usually ``os.environ``; gives the variables that are named.
        folder: the project, usually the current folder.

    Raises:
        ConfigError: no project, no such job, a configuration that the job would refuse or that is not
            sent, a variable that is not set or holds a password, or no root for a cluster elsewhere.
    """
    for part in _PROJECT:
        if not (folder / part).is_dir():
            raise ConfigError(str(folder), part, "is not here", "start the job in the folder of the project")
    name = _job_name(job, folder)
    config = _sent_file(job, folder)
    check_configuration(JOB_SETTINGS[name], config, job.overrides)
    runtime_env = read_yaml_mapping(folder / RUNTIME_ENVIRONMENT)
    variables = {
        **runtime_env.get("env_vars", {}),
        ROOT_VARIABLE: _root(job, folder),
        **_variables(job, environment),
    }
    entrypoint = shlex.join(["python", f"jobs/{name}.py", config.as_posix(), *job.overrides])
    return Submission(
        entrypoint,
        {**runtime_env, "working_dir": str(folder), "env_vars": variables},
        follows_folder=job.root is None,
    )


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


def _job_name(job: SubmitJob, folder: Path) -> str:
    name = job.job.stem
    is_known = name in JOB_SETTINGS and (folder / job.job).resolve() == (folder / f"jobs/{name}.py").resolve()
    if not is_known or not (folder / job.job).is_file():
        known = ", ".join(f"jobs/{known}.py" for known in JOB_SETTINGS)
        raise ConfigError("submission", "job", f"{job.job} is no job", f"one of {known}")
    return name


def _sent_file(job: SubmitJob, folder: Path) -> Path:
    """Return the place of the configuration in the copy of the project."""
    path = (folder / job.config).absolute()
    if not path.is_relative_to(folder) or ".." in path.parts:
        raise ConfigError(
            "submission", "config", f"{job.config} lies outside the project, which is what is sent",
            "copy it into jobs/configs",
        )  # fmt: skip
    place = path.relative_to(folder)
    if _NOT_SENT.match(place.parts[0]):
        raise ConfigError(
            "submission", "config", f"{job.config} lies in {place.parts[0]}/, which is not sent (.rayignore)",
            "copy it into jobs/configs",
        )  # fmt: skip
    return place


def _root(job: SubmitJob, folder: Path) -> str:
    if job.root is not None:
        return job.root
    if not job.is_loopback:
        raise ConfigError(
            "submission", "root", f"null, and the cluster at {job.address} is not this machine",
            "root=/folder that all nodes share: stores are read there and results written",
        )  # fmt: skip
    return str(folder)


def _variables(job: SubmitJob, environment: Mapping[str, str]) -> dict[str, str]:
    missing = [name for name in job.environment if name not in environment]
    if missing:
        raise ConfigError(
            "submission", "environment", f"not set here: {', '.join(missing)}", f"export {missing[0]}=..."
        )
    values = {name: environment[name] for name in job.environment}
    for name, value in values.items():
        if _PASSWORD.search(value):
            raise ConfigError(
                "submission", "environment", f"{name} holds a password, and whoever sees the dashboard can read "
                "a job's environment", "put it into the cluster's own environment (ray_cluster.yaml, or a "
                "Kubernetes secret)",
            )  # fmt: skip
    return values
