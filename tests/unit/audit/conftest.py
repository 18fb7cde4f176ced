"""What the tests of the checks look at: a corpus that is made wrong in one respect."""

from __future__ import annotations

from typing import Any

import pytest
from audited_corpus import write_audited_corpus

from vavl.audit.finding import Material


@pytest.fixture
def material(tmp_path):
    """Return a function that writes the corpus after some changes and returns what an audit sees of it."""

    def make(*changes: Any, **more: Any) -> Material:
        return Material.of(write_audited_corpus(tmp_path, *changes, **more))

    return make
