"""A full disk is an error of the platform, not a traceback."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vavl.errors import TrainingError
from vavl.training.storage import full_disk_as_error


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_space_says_what_to_do(tmp_path: Path, code: int) -> None:
    with pytest.raises(TrainingError, match=r"free disk space.*same command again"), full_disk_as_error(tmp_path):
        raise OSError(code, os.strerror(code))


def test_weights_that_do_not_fit_are_told_too(tmp_path: Path) -> None:
    """safetensors raises an error of its own."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        with pytest.raises(TrainingError, match="cannot be written"), full_disk_as_error(tmp_path):
            save_file({"weight": torch.zeros(10_000)}, tmp_path / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_other_faults_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"), full_disk_as_error(tmp_path):
        (tmp_path / "nowhere").read_text()
