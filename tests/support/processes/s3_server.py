"""An S3 server on loopback in a process of its own: moto's, with one empty bucket."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import boto3
import botocore.exceptions
import pytest
import s3fs

BUCKET = "runs"
_START_SECONDS = 60.0
# AWS's own names; without the last three a machine's credentials would be used, or asked of the network.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}


@contextlib.contextmanager
def s3_server(host: str = "127.0.0.1") -> Iterator[str]:
    """Yield the endpoint of a server with an empty bucket ``runs``.

    Args:
        host: address of this machine that the server listens on.
    """
    with socket.socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", host, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    endpoint = f"http://{host}:{port}"
    try:
        _wait(process, endpoint)
        _client(endpoint).create_bucket(Bucket=BUCKET)
        yield endpoint
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def s3_environment(endpoint: str) -> Iterator[pytest.MonkeyPatch]:
    """Let the drivers of this process and of those that it starts find the server, and only this one."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint}.items():
            patch.setenv(name, value)
        # fsspec keeps its file systems, each with the endpoint that it was made with.
        s3fs.S3FileSystem.clear_instance_cache()
        yield patch
    s3fs.S3FileSystem.clear_instance_cache()


def keys(endpoint: str, prefix: str) -> list[str]:
    """Return the keys below ``prefix`` as the server has them, without it."""
    pages = _client(endpoint).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return sorted(entry["Key"][len(prefix) :] for page in pages for entry in page.get("Contents", ()))


def content(endpoint: str, key: str) -> bytes:
    """Return the content of an object."""
    return bytes(_client(endpoint).get_object(Bucket=BUCKET, Key=key)["Body"].read())


def _client(endpoint: str):
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test",
        aws_secret_access_key="test",
    )  # fmt: skip


def _wait(process: subprocess.Popen[bytes], endpoint: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, botocore.exceptions.BotoCoreError):
            urllib.request.urlopen(endpoint, timeout=5).close()
            return
        time.sleep(0.1)
    raise AssertionError("moto's server did not start")
