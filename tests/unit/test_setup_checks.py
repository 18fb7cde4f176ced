"""Checks of the software, the tracking store and the corpora."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.version import Version

from vavl.setup_checks import check_corpora, check_imports, check_packages, check_python, check_ray, check_tracking
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
