"""The page of an audit stands alone, says what failed, and shows what is known."""

from __future__ import annotations

import re

import pytest
from audited_corpus import write_audited_corpus

from vavl.audit.audit import Audit
from vavl.audit.finding import Check
from vavl.audit.pictures import audit_pictures
from vavl.audit.report import audit_and_report, write_audit_report
from vavl.audit.words import failed_lines, finding_rows, verdict
from vavl.reports.theme import DARK, LIGHT


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    def change(clips):
        clips[0].facts["audio"]["silence_share"] = 1.0
        clips[0].speaker = "s<8>"
        clips[0].split, clips[1].split = "train", "train"
        for clip in clips:
            if clip.split == "test" and clip.speaker == "s9" and clip.label == "mad":
                clip.speaker = "s0"

    return write_audited_corpus(tmp_path_factory.mktemp("store"), change)


@pytest.fixture(scope="module")
def audit(store) -> Audit:
    return audit_and_report(store)


def test_the_page_names_failures_first_and_needs_nothing_else(store, audit):
    text = (store / "audit.html").read_text()
    assert text.index("Failed: speakers across splits") < text.index("<h2>Checks</h2>")
    assert "data.waive_audit names speakers" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert not re.search(r"s<8>", text)
    assert all(check.value in text for check in Check)
    assert text.count("data:image/svg+xml") == len(list(audit_pictures(audit)))
    assert "Clips per class: label balance (heard)" in text
    assert "<dt>heard for given</dt><dd>F1-micro 0." in text


def test_every_known_thing_has_a_picture_in_both_themes(audit):
    pictures = {picture.name: picture for picture in audit_pictures(audit)}
    assert pictures.keys() == {
        "classes_given", "classes_heard", "durations", "silence", "clipping", "faces", "neighbours_audio",
        "neighbours_video",
    }  # fmt: skip
    for picture in pictures.values():
        for theme in (LIGHT, DARK):
            axes = picture.draw(theme).axes[0]
            assert axes.patches
            assert axes.get_facecolor() is not None
    names = [text.get_text() for text in pictures["classes_given"].draw(LIGHT).axes[0].get_legend().texts]
    assert [name.split(",")[0] for name in names] == ["train", "validation", "test"]


def test_a_store_without_facts_has_fewer_pictures(tmp_path):
    audit = audit_and_report(write_audited_corpus(tmp_path, with_facts=False))
    names = {picture.name for picture in audit_pictures(audit)}
    assert names == {"classes_given", "classes_heard", "neighbours_audio", "neighbours_video"}
    assert "not known" in write_audit_report(audit, tmp_path).read_text()


def test_the_screen_says_what_training_will_do(audit):
    rows = dict(finding_rows(audit))
    assert rows["speakers"].startswith("failed ")
    assert "label_balance (given)" in rows
    assert "training refuses this store" in verdict(audit)
    assert "data.waive_audit=[speakers" in verdict(audit)
    assert any("fix:" in line for line in failed_lines(audit))
