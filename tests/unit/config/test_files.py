"""Files that are whole or absent."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import pytest

from vavl.config.files import (
    make_directory,
    read_json,
    sha256_of_file,
    sha256_of_json,
    write_json,
    write_text,
    written_beside,
)
from vavl.errors import InputError


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with written_beside(path) as partial:
        partial.write_text("half")
        assert not path.exists()
        assert partial.parent == path.parent
    assert path.read_text() == "half"
    assert [item.name for item in path.parent.iterdir()] == ["a.txt"]


def test_a_failure_leaves_the_earlier_file_and_no_rest(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "earlier")

    def fail_half_way() -> None:
        with written_beside(path) as partial:
            partial.write_text("hal")
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="pulled the plug"):
        fail_half_way()
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_others_may_read_what_was_written(tmp_path):
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_json_goes_round(tmp_path):
    content = {"name": "größe", "values": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert "größe" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_json_never_holds_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": math.nan})
    assert not (tmp_path / "a.json").exists()


def test_broken_json_names_the_file(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"b\.json: not valid JSON"):
        read_json(tmp_path / "b.json")
    with pytest.raises(InputError, match="does not exist"):
        read_json(tmp_path / "c.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written: Permission denied"):
        make_directory(tmp_path)
    with pytest.raises(InputError, match="cannot be written: Permission denied"):
        make_directory(tmp_path / "inner")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match="cannot be written: File exists"):
        make_directory(tmp_path / "a")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs the proc file system of Linux")
@pytest.mark.parametrize("folder", ["/proc/vavl", "/proc/self"])
def test_a_folder_that_nobody_can_write_is_refused(folder):
    """Even root cannot write here, whether the directory is missing or there."""
    with pytest.raises(InputError, match="cannot be written"):
        make_directory(Path(folder))
    with pytest.raises(InputError, match="cannot be written"):
        write_text(Path(folder) / "a.txt", "x")


def test_the_sum_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_of_file(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_the_sum_of_json_ignores_the_order_of_keys():
    assert sha256_of_json({"a": 1, "b": [1, 2]}) == sha256_of_json({"b": [1, 2], "a": 1})
    assert sha256_of_json({"a": 1, "b": [1, 2]}) != sha256_of_json({"a": 1, "b": [2, 1]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        sha256_of_json(math.inf)
