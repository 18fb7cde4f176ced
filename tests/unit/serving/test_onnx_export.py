"""What the export says where its packages are not installed; what it writes is tested in tests/jobs."""

from __future__ import annotations

import sys

import pytest

from vavl.errors import ConfigError
from vavl.serving.onnx_export import check_packages


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", sys)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"onnxscript cannot be imported.*\n.*\.\[export\]"):
        check_packages()
