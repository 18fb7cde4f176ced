"""The written list of all settings."""

from __future__ import annotations

import re

from vavl import settings_reference
from vavl.config.setting_list import list_settings
from vavl.job_config import JOB_SETTINGS
from vavl.settings_reference import REFERENCE, main, reference


def test_every_job_and_setting_is_in_the_reference():
    text = reference()
    for job, settings in JOB_SETTINGS.items():
        part = re.search(rf"## {job}\n(.*?)(\n## |\Z)", text, re.DOTALL)
        assert part is not None, job
        for name in settings.model_fields:
            assert re.search(rf"`{name}[.`]", part[1]), (job, name)


def test_every_setting_says_what_it_means():
    silent = [
        f"{job}: {one.key}"
        for job, settings in JOB_SETTINGS.items()
        for one in list_settings(settings)
        if not one.meaning and one.same_as is None
    ]
    assert silent == []


def test_a_reference_that_is_out_of_date_is_noticed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(settings_reference, "REFERENCE", tmp_path / REFERENCE.name)
    assert main(["--check"]) == 1
    assert "make reference" in capsys.readouterr().err
    assert main([]) == 0
    assert main(["--check"]) == 0
