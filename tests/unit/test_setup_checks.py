"""Everything that can be known before the first run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from packaging.version import Version

from vavl.setup_checks import (
    check_build_locks,
    check_compiler,
    check_corpora,
    check_disk,
    check_gpu,
    check_imports,
    check_memory,
    check_packages,
    check_python,
    check_ray,
    check_shared_memory,
    check_tracking,
)
from vavl.tracking.settings import TrackingSettings

CARDS = Path(__file__).parents[2] / "datasets"


def test_another_python_fails() -> None:
    assert check_python().status == "ok"
    finding = check_python(Version("3.14.0"))
    assert finding.status == "fail"
    assert "3.14.0, the project needs" in finding.found


def test_the_installed_packages_fit_the_project() -> None:
    (finding,) = check_packages()
    assert finding.status == "ok", finding


def test_missing_and_old_packages_fail_each_with_a_line() -> None:
    lines = ["numpy<1", "no-such-package-here>=2", "pydantic>=2", "pytest<1; extra == 'dev'"]
    findings = list(check_packages(lines))
    assert [(finding.name, finding.status) for finding in findings] == [
        ("package numpy", "fail"), ("package no-such-package-here", "fail")
    ]  # fmt: skip
    assert "needs <1" in findings[0].found
    assert "not installed" in findings[1].found
    assert "pip install" in findings[0].fix


def test_broken_imports_fail_without_hurting_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_part.py").write_text("raise OSError('libfoo.so is missing')")
    (tmp_path / "killed_part.py").write_text("import os; os._exit(9)")
    (tmp_path / "torch.py").write_text("class cuda:\n    device_count = staticmethod(lambda: 3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    findings, gpus = check_imports(["broken_part", "killed_part", "torch"])
    assert [finding.name for finding in findings] == ["import broken_part", "import killed_part"]
    assert "libfoo.so is missing" in findings[0].found
    assert "code 9" in findings[1].found
    assert gpus == 3


def test_ray_is_named_and_not_started_unasked() -> None:
    finding = check_ray({}, start=False)
    assert finding.status == "ok"
    assert "start it on this machine" in finding.found
    assert "cluster at ray://head" in check_ray({"RAY_ADDRESS": "ray://head"}, start=False).found


def test_an_environment_that_ray_cannot_start_in_is_named_before_it_is_tried(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, value, status in (
        ("TMPDIR", f"/{'x' * 80}", "warn"),
        ("HOME", str(tmp_path / "file" / "home"), "fail"),
    ):
        finding = check_ray({"HOME": str(tmp_path), name: value}, start=False)
        assert finding.status == status
        assert f"{name}: {value}" in finding.found
        assert finding.fix.startswith("export ")


def test_ray_that_does_not_start_fails_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vavl.setup_checks._RAY_PROGRAM", "raise SystemExit('no port is free')")
    finding = check_ray({}, start=True)
    assert finding.status == "fail"
    assert "no port is free" in finding.found


def test_a_silent_server_warns_and_a_new_sqlite_file_is_fine(tmp_path: Path) -> None:
    fine = check_tracking(TrackingSettings(uri=f"sqlite:///{tmp_path}/new.db"), {})
    assert fine.status == "ok"
    assert "made by the first run" in fine.found
    silent = check_tracking(TrackingSettings(), {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    assert silent.status == "warn"
    assert "journal" in silent.found


def test_corpora_are_found_by_their_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAVDESS_ROOT", str(tmp_path))
    monkeypatch.delenv("VAVL_DEMO_ROOT", raising=False)
    findings = {finding.name: finding for finding in check_corpora(CARDS, ["demo", "other"])}
    assert findings["corpus ravdess"].status == "ok"
    assert findings["corpus demo"].status == "fail"
    assert "VAVL_DEMO_ROOT" in findings["corpus demo"].fix
    assert findings["corpus other"].status == "fail"
    monkeypatch.setenv("RAVDESS_ROOT", str(tmp_path / "none"))
    assert {f.name: f.status for f in check_corpora(CARDS, [])}["corpus ravdess"] == "warn"


def test_broken_and_missing_cards_fail(tmp_path: Path) -> None:
    assert [finding.status for finding in check_corpora(tmp_path, [])] == ["fail"]
    (tmp_path / "bad.yaml").write_text("name: [\n")
    (finding,) = check_corpora(tmp_path, [])
    assert finding.status == "fail"
    assert "not valid YAML" in finding.found


def _program(folder: Path, name: str, text: str = "#!/bin/sh\n") -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def test_a_machine_without_compiler_is_told_what_is_used_instead(tmp_path: Path) -> None:
    finding = check_compiler({"PATH": str(tmp_path)})
    assert finding.status == "warn"
    assert "a C++ compiler (c++), ninja on PATH" in finding.found
    assert "torch's optimizer and gloo" in finding.found
    assert "apt-get install g++" in finding.fix


def test_compiler_and_ninja_on_path_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("vavl.setup_checks.sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    _program(tmp_path, "my-c++")
    _program(tmp_path, "ninja")
    assert check_compiler({"PATH": str(tmp_path), "CXX": "my-c++"}).status == "ok"
    (tmp_path / "Python.h").unlink()
    assert "header files" in check_compiler({"PATH": str(tmp_path), "CXX": "my-c++"}).found


def test_an_old_build_lock_fails_and_a_fresh_one_warns(tmp_path: Path) -> None:
    environment = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    assert check_build_locks(environment).status == "ok"
    lock = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (1000, 1000))
    assert check_build_locks(environment, now=1100).status == "warn"
    finding = check_build_locks(environment, now=5000)
    assert finding.status == "fail"
    assert finding.fix == f"rm {lock}"


def test_little_disk_fails_even_where_the_folder_is_not_made_yet(tmp_path: Path) -> None:
    assert check_disk(tmp_path / "not" / "yet", 0).status == "ok"
    finding = check_disk(tmp_path / "not" / "yet", 1e9)
    assert finding.status == "fail"
    assert f"free at {tmp_path}" in finding.found


def test_little_memory_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("2000000000\n")
    monkeypatch.setattr("vavl.setup_checks._CGROUP_LIMITS", (limit,))
    assert check_memory(1).status == "ok"
    finding = check_memory(4)
    assert finding.status == "warn"
    assert "2.0 GB available" in finding.found
    limit.write_text("max\n")
    assert check_memory(0).status == "ok"


def test_shared_memory_of_a_small_container_warns(tmp_path: Path) -> None:
    assert check_shared_memory(0, tmp_path).status == "ok"
    assert "--shm-size" in check_shared_memory(1e9, tmp_path).fix
    assert check_shared_memory(0, tmp_path / "none").status == "warn"


def test_a_gpu_that_torch_cannot_use_warns(tmp_path: Path) -> None:
    _program(tmp_path, "nvidia-smi", "#!/bin/sh\necho 'NVIDIA H200'\n")
    environment = {"PATH": f"{tmp_path}:{os.defpath}"}
    finding = check_gpu(0, environment)
    assert finding.status == "warn"
    assert "NVIDIA H200: present" in finding.found
    assert check_gpu(1, environment).status == "ok"
    assert check_gpu(None, environment, tried=False).status == "ok"
    assert check_gpu(0, {"PATH": str(tmp_path / "empty")}).found.startswith("none")
    _program(tmp_path, "nvidia-smi", "#!/bin/sh\nexit 9\n")
    assert check_gpu(0, environment).found.startswith("none")
