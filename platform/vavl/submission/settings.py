"""Settings of a submitted job."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from vavl.config.base import FrozenConfig
from vavl.config.places import FROM_PROJECT, FROM_ROOT, ROOT_VARIABLE

_SECRET = re.compile(r"TOKEN|PASSW|SECRET|KEY|CREDENTIAL", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SubmitJob(FrozenConfig):
    """Settings of ``jobs/submit_job.py``."""

    output_dir: Annotated[Path, FROM_ROOT] = Field(description="folder of the summary, on this machine")
    address: str = Field("http://127.0.0.1:8265", description="Ray's dashboard, which is its job server")
    job: Annotated[Path, FROM_PROJECT] = Field(description="job to run, e.g. jobs/train_model.py")
    config: Annotated[Path, FROM_PROJECT] = Field(description="its configuration")
    overrides: tuple[str, ...] = Field((), description="dotted.key=value for the job")
    root: str | None = Field(
        None, description="VAVL_ROOT on the cluster; null: this folder, if Ray runs on this machine"
    )
    environment: tuple[str, ...] = Field(
        (), description="names of environment variables that the job gets from here; never secrets"
    )
    wait: bool = Field(True, description="show the log and end as the job ends; false only submits")
    entrypoint_num_cpus: float | None = Field(
        None, ge=0, description="CPUs to reserve for the job's own process; null: none, on the head node"
    )
    submission_id: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="null: Ray makes one"
    )

    @property
    def is_loopback(self) -> bool:
        """True when the address is one of this machine; behind it may be a tunnel to another one."""
        host = urlsplit(self.address).hostname or ""
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
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
            raise ValueError("must be absolute: the shared folder of the cluster")
        return root

    @field_validator("environment")
    @classmethod
    def _names_no_secret(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a variable; values are taken from the environment")
            if name == ROOT_VARIABLE:
                raise ValueError(f"{name} is given by the setting `root`")
            if _SECRET.search(name):
                raise ValueError(
                    f"{name} looks like a secret, and whoever sees the dashboard can read a job's environment; "
                    "put it into the cluster's own environment (ray_cluster.yaml, or a Kubernetes secret)"
                )
        return names
