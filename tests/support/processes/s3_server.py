"""An S3 server on loopback in a process of its own: moto's, with one empty bucket."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import s3fs
from own_process import OwnProcess, answers, free_port

BUCKET = "runs"
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
    port = free_port(host)
    endpoint = f"http://{host}:{port}"
    with tempfile.NamedTemporaryFile() as log:
        words = ("-m", "moto.server", "--host", host, "--port", str(port))
        process = OwnProcess(*words, log=Path(log.name))
        try:
            process.wait_until(lambda: answers(endpoint), pause=0.1)
            _client(endpoint).create_bucket(Bucket=BUCKET)
            yield endpoint
        finally:
            process.kill()


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
