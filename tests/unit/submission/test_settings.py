"""Settings of a submitted job: no secret, no stranger's address, no relative root."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from vavl.submission.settings import SubmitJob


def submit(**changes: object) -> SubmitJob:
    content = {"output_dir": "out", "job": "jobs/check_setup.py", "config": "jobs/configs/check_setup.yaml"}
    return SubmitJob.model_validate(content | changes)


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "api_key", "GOOGLE_CREDENTIALS"]
)
def test_a_secret_is_refused_with_the_place_where_it_belongs(name):
    with pytest.raises(
        ValidationError, match=f"{name} looks like a secret.*ray_cluster.yaml, or a Kubernetes"
    ):
        submit(environment=["LANG", name])


@pytest.mark.parametrize(
    ("name", "message"), [("A=b", "is no name of a variable"), ("VAVL_ROOT", "given by the setting `root`")]
)
def test_only_names_of_other_variables_are_taken(name, message):
    with pytest.raises(ValidationError, match=message):
        submit(environment=[name])


@pytest.mark.parametrize(
    ("address", "is_loopback"),
    [
        ("http://127.0.0.1:8265", True),
        ("http://127.0.3.1:8265", True),
        ("http://localhost:8265", True),
        ("http://[::1]:8265", True),
        ("http://10.0.0.7:8265", False),
        ("https://localhost.example.org", False),
    ],
)
def test_loopback_is_this_machine_only(address, is_loopback):
    assert submit(address=address).is_loopback is is_loopback


def test_the_address_is_loopback_unless_asked():
    assert submit().is_loopback


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8265", "ray://127.0.0.1:10001", "http://", "http://me:pw@host:1"]
)
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


def test_the_summary_stays_on_this_machine():
    assert submit().output_dir == Path("out")
