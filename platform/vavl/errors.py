"""Errors that a reader of the message can repair: file, field, problem and fix."""

from __future__ import annotations

import os
from urllib.request import proxy_bypass

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def readable(text: str) -> str:
    """Return a text that can be written as UTF-8: bytes of a file name that are no text are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


class VavlError(Exception):
    """An error with a known place and a known repair.

    Every subclass keeps this constructor: an exception that does not hand all its arguments to
    ``super().__init__`` loses its message when it leaves a Ray worker.

    Args:
        file: path, address or part of the system where the error lies.
        field: dotted key, column or line within the file; empty when the whole file is meant.
        problem: what is wrong, with the value found.
        fix: what the reader can do about it.
    """

    exit_code = 1

    def __init__(self, file: str, field: str, problem: str, fix: str) -> None:
        super().__init__(file, field, problem, fix)
        self.file, self.field, self.problem, self.fix = file, field, problem, fix

    def __str__(self) -> str:
        place = f"{self.file}: {self.field}" if self.field else self.file
        return f"{place}: {self.problem}\n  fix: {self.fix}"


class InputError(VavlError):
    """The configuration or the data given by the user cannot be used; exit code 2."""

    exit_code = 2


class FullDiskError(InputError):
    """The disk that results are written to has no space left: no clip's fault, and the same command goes on."""


class ConfigError(InputError):
    """One or more settings are wrong; ``problem`` lists all of them, one per line."""


class CorpusError(InputError):
    """A corpus directory, its card or its label table does not hold what it should."""


class StoreError(InputError):
    """A feature store is missing, incomplete or was made for something else."""


class ClipError(InputError):
    """One clip cannot be read; a job puts it into quarantine and continues."""


class NoSignalError(ClipError):
    """A modality of a clip is there and carries nothing, e.g. digital silence; the clip counts as one without it."""


class TrainingError(VavlError):
    """Training started and could not finish; exit code 1."""


class TrainingStopped(TrainingError):  # noqa: N818  a request that was granted, though the work is not done
    """Somebody asked the run to stop; starting it again resumes from its checkpoint."""


class PredictionError(VavlError):
    """Prediction ran and gave no result at all; exit code 1."""


class TrackingError(VavlError):
    """The tracking store refused something that the user asked for; never raised into training."""


class PromotionError(VavlError):
    """A challenger did not become champion: a decision, and exit code 1 so that a pipeline stops at it."""


def proxy_hint(host: str) -> str:
    """Return what to do where a server may not answer because a proxy was asked for it; "" without a proxy.

    Args:
        host: of the server.
    """
    names = [name for proxy in _PROXIES for name in (proxy.upper(), proxy) if os.environ.get(name)]
    if not names or proxy_bypass(host):
        return ""
    return f"; {names[0]} is set, so a proxy is asked for it: export NO_PROXY={host} to go there directly"
