"""A job for a Ray cluster: checked here, sent to its job server, its log shown while it grows, its end told."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

import aiohttp
import psutil
from pydantic import Field, field_validator
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from ray.util.state import list_nodes

from vavl.config.base import FrozenConfig
from vavl.config.load import read_config, read_yaml_mapping
from vavl.config.places import FROM_PROJECT, FROM_ROOT, ROOT_VARIABLE, check_project_files
from vavl.corpora.card import read_card
from vavl.errors import ConfigError, VavlError, proxy_hint
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

    ``environment``: usually ``os.environ``; gives the variables that are named. ``project``: its directory, usually the
    current one.

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
            raise ConfigError("submission", "environment", f"{name} holds a password, and {_VISIBLE}", _OWN_ENVIRONMENT)
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


_log = logging.getLogger(__name__)
_PAUSE_S = 1.0
_LONGEST_SILENCE_S = 300.0


class SubmissionError(VavlError):
    """The job server did not take the job, or the job ended without success; ``exit_code`` is then the job's own."""


def connect(address: str) -> JobSubmissionClient:
    """Return Ray's client for the job server of a dashboard.

    Raises:
        SubmissionError: nobody answers, or the cluster wants a token.
    """
    # Its client logs each package and each ignored file.
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except (AuthenticationError, ConnectionError, RuntimeError) as error:
        problem = "no Ray job server answers"
        fix = "start one (ray start --head), or open the way to it (ray dashboard ray_cluster.yaml)"
        if isinstance(error, AuthenticationError):
            problem = "the cluster wants a token"
            fix = "export RAY_AUTH_MODE=token, and its token in ~/.ray/auth_token or RAY_AUTH_TOKEN_PATH"
        else:
            fix += proxy_hint(urlsplit(address).hostname or address)
        raise SubmissionError(address, "", f"{problem}: {str(error).splitlines()[0]}", fix) from None


def submit(client: JobSubmissionClient, job: SubmitJob, submission: Mapping[str, Any]) -> str:
    """Send the project and start the job, see ``plan_submission``; return its submission id.

    Raises:
        ConfigError: the root would be this directory, and the cluster is another machine.
        SubmissionError: the server refuses the job, e.g. because its id is taken.
    """
    if job.root is None:
        _check_same_machine(job.address)
    try:
        return str(client.submit_job(**submission))
    except (RuntimeError, ValueError) as error:
        raise SubmissionError(
            job.address, "", f"the job was refused: {error}", "correct what the message names"
        ) from None


def follow(client: JobSubmissionClient, address: str, submission_id: str, write: Callable[[str], Any]) -> JobDetails:
    """Show the job's log until the job is over, or until Ctrl-C; return how it ended, or how it stands and continues.

    A broken connection is made again; what was shown is not shown twice.

    Raises:
        SubmissionError: the server has not answered for five minutes.
    """
    log, answered = _GrowingLog(write), time.monotonic()
    # A shell without job control starts what runs in its background with Ctrl-C ignored; asyncio and Ray keep it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        while True:
            try:
                asyncio.run(log.copy(client, submission_id))
                details = client.get_job_info(submission_id)
                if details.status.is_terminal():
                    return details
                answered = time.monotonic()
            except (OSError, RuntimeError, aiohttp.ClientError) as error:
                silence = time.monotonic() - answered
                _log.warning("%s does not answer (%s); trying again", address, error)
                if silence > _LONGEST_SILENCE_S:
                    problem = f"no answer for {silence:.0f} s; the job may continue"
                    fix = f"ray job logs --follow {submission_id} when the cluster can be reached again"
                    raise SubmissionError(address, submission_id, problem, fix) from None
            time.sleep(_PAUSE_S)
    except KeyboardInterrupt:
        return client.get_job_info(submission_id)
    finally:
        signal.signal(signal.SIGINT, before)


class _GrowingLog:
    """Writes a log that the server sends from its beginning at each connection."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write, self._shown = write, 0

    async def copy(self, client: JobSubmissionClient, submission_id: str) -> None:
        position, task = 0, asyncio.current_task()
        try:
            async for text in client.tail_job_logs(submission_id):
                if fresh := text[max(0, self._shown - position) :]:
                    self._write(fresh)
                position += len(text)
                self._shown = max(self._shown, position)
        finally:
            # Ctrl-C cancels this task once; a connection that breaks at that moment puts its own error in the place.
            if task is not None and task.cancelling():
                raise asyncio.CancelledError


def _check_same_machine(address: str) -> None:
    here = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    heads = [node.node_ip for node in list_nodes(address=address) if node.is_head_node]
    if not here & set(heads):
        problem = f"null, and Ray at {address} runs on another machine ({', '.join(heads)})"
        raise ConfigError("submission", "root", problem, SHARED_ROOT)


def refuse_failure(submission_id: str, details: JobDetails, waited: bool) -> None:
    """Raise unless the job succeeded, or nobody waited for it.

    Raises:
        SubmissionError: with the job's own exit code; 128 + n after signal n, 1 where there is none.
    """
    status, code = details.status, details.driver_exit_code
    if status == JobStatus.SUCCEEDED or not waited:
        return
    if not status.is_terminal():
        fix = f"ray job logs --follow {submission_id}, or ray job stop {submission_id}"
        raise SubmissionError("job", submission_id, f"is {status}; nobody watches it any more", fix)
    problem = details.message if code is None else f"exit code {code}; its log is above"
    error = SubmissionError("job", submission_id, f"{status}: {problem}", f"ray job logs {submission_id}")
    error.exit_code = (code if code > 0 else 128 - code) if code else 1
    raise error
