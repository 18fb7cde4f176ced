"""The client of Ray's job server: submit, show the log while it grows, tell how the job ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import psutil
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient
from ray.util.state import list_nodes

from vavl.errors import ConfigError, VavlError
from vavl.submission.plan import Submission
from vavl.submission.settings import SubmitJob

_log = logging.getLogger(__name__)

_PAUSE_S = 1.0
_LONGEST_SILENCE_S = 300.0


class SubmissionError(VavlError):
    """The job server did not take the job, or the job ended without success.

    ``exit_code`` is then the job's own.
    """


@dataclass(frozen=True)
class JobState:
    """How a submitted job stands.

    Attributes:
        submission_id: name of the job on the cluster.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        driver_exit_code: of the job's own process; None while it runs and after it was stopped.
        message: what Ray says about the status.
    """

    submission_id: str
    status: str
    driver_exit_code: int | None
    message: str

    @property
    def is_over(self) -> bool:
        """True when the job will not change any more."""
        return self.status in {"SUCCEEDED", "FAILED", "STOPPED"}

    @property
    def exit_code(self) -> int:
        """The job's own exit code; 128 + n after signal n, 1 where there is none."""
        if self.status == "SUCCEEDED":
            return 0
        code = self.driver_exit_code
        if not code:
            return 1
        return code if code > 0 else 128 - code


class JobServer:
    """Ray's job server at one address.

    Args:
        address: of the dashboard, ``http://host:port``.

    Raises:
        SubmissionError: nobody answers, or the cluster wants a token.
    """

    def __init__(self, address: str) -> None:
        # Its client logs each package and each ignored file.
        logging.getLogger("ray").setLevel(logging.ERROR)
        self.address = address
        try:
            self._client = JobSubmissionClient(address)
        except AuthenticationError as fault:
            raise SubmissionError(
                address, "", f"the cluster wants a token: {str(fault).splitlines()[0]}",
                "export RAY_AUTH_MODE=token, and the cluster's token in ~/.ray/auth_token or RAY_AUTH_TOKEN_PATH",
            ) from None  # fmt: skip
        except (ConnectionError, RuntimeError) as fault:
            raise SubmissionError(
                address, "", f"no Ray job server answers: {str(fault).splitlines()[0]}",
                "start one (ray start --head), or open the way to it (ray dashboard ray_cluster.yaml)",
            ) from None  # fmt: skip

    def submit(self, job: SubmitJob, submission: Submission) -> str:
        """Send the project and start the job; return its submission id.

        Raises:
            ConfigError: the root would be this folder, and the cluster is another machine.
            SubmissionError: the server refuses the job, e.g. because its id is taken.
        """
        if submission.follows_folder:
            self._check_same_machine()
        try:
            made: str = self._client.submit_job(
                entrypoint=submission.entrypoint,
                runtime_env=submission.runtime_env,
                submission_id=job.submission_id,
                entrypoint_num_cpus=job.entrypoint_num_cpus,
            )
        except (RuntimeError, ValueError) as fault:
            raise SubmissionError(
                self.address, "", f"the job was refused: {fault}", "see the message"
            ) from None
        return made

    def state(self, submission_id: str) -> JobState:
        """Ask how the job stands."""
        info = self._client.get_job_info(submission_id)
        return JobState(submission_id, str(info.status.value), info.driver_exit_code, info.message or "")

    def follow(self, submission_id: str, write: Callable[[str], Any]) -> JobState:
        """Show the job's log until the job is over, or until Ctrl-C.

        A broken connection is made again; what was shown is not shown twice.

        Returns:
            How the job ended; after Ctrl-C how it stands: it goes on.

        Raises:
            SubmissionError: the server has not answered for five minutes.
        """
        log = _GrowingLog(write)
        heard = time.monotonic()
        try:
            while True:
                try:
                    asyncio.run(log.copy(self._client, submission_id))
                    state = self.state(submission_id)
                except (OSError, RuntimeError, aiohttp.ClientError) as fault:
                    self._check_patience(submission_id, heard, fault)
                else:
                    heard = time.monotonic()
                    if state.is_over:
                        return state
                time.sleep(_PAUSE_S)
        except KeyboardInterrupt:
            return self.state(submission_id)

    def _check_patience(self, submission_id: str, heard: float, fault: Exception) -> None:
        silence = time.monotonic() - heard
        _log.warning("%s does not answer (%s); trying again", self.address, fault)
        if silence > _LONGEST_SILENCE_S:
            raise SubmissionError(
                self.address, submission_id, f"no answer for {silence:.0f} s; the job may go on",
                f"ray job logs --follow {submission_id} when the cluster can be reached again",
            )  # fmt: skip

    def _check_same_machine(self) -> None:
        here = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
        heads = [node.node_ip for node in list_nodes(address=self.address) if node.is_head_node]
        if not here & set(heads):
            raise ConfigError(
                "submission", "root",
                f"null, and Ray at {self.address} runs on another machine ({', '.join(heads)})",
                "root=/folder that all nodes share: stores are read there and results written",
            )  # fmt: skip


class _GrowingLog:
    """Writes a log that the server sends from its beginning at each connection."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write, self._shown = write, 0

    async def copy(self, client: JobSubmissionClient, submission_id: str) -> None:
        position = 0
        async for text in client.tail_job_logs(submission_id):
            fresh = text[max(0, self._shown - position) :]
            position += len(text)
            if fresh:
                self._write(fresh)
                self._shown = position


def refuse_failure(state: JobState, waited: bool) -> None:
    """Raise unless the job succeeded, or nobody waited for it.

    Raises:
        SubmissionError: with the job's own exit code.
    """
    if state.status == "SUCCEEDED" or not waited:
        return
    if not state.is_over:
        raise SubmissionError(
            "job", state.submission_id, f"is {state.status}; nobody watches it any more",
            f"ray job logs --follow {state.submission_id}, or ray job stop {state.submission_id}",
        )  # fmt: skip
    has_log = state.driver_exit_code is not None
    problem = f"exit code {state.driver_exit_code}; its log is above" if has_log else state.message
    fault = SubmissionError(
        "job", state.submission_id, f"{state.status}: {problem}", f"ray job logs {state.submission_id}"
    )
    fault.exit_code = state.exit_code
    raise fault
