"""The client of Ray's job server: submit, show the log while it grows, say how the job ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psutil
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from ray.util.state import list_nodes

from vavl.errors import ConfigError, VavlError, proxy_hint
from vavl.submission.plan import SHARED_ROOT, SubmitJob

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


class _GrowingLog:
    """Writes a log that the server sends from its beginning at each connection."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write, self._shown = write, 0

    async def copy(self, client: JobSubmissionClient, submission_id: str) -> None:
        position = 0
        async for text in client.tail_job_logs(submission_id):
            if fresh := text[max(0, self._shown - position) :]:
                self._write(fresh)
            position += len(text)
            self._shown = max(self._shown, position)


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
