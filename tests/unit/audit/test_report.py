"""The page of an audit stands alone, says what failed, and shows what is known."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from audited_corpus import write_audited_corpus
from damaged_store import overwrite

from vavl.audit.finding import Check
from vavl.audit.report import (
    audit_and_report,
    audit_place,
    audit_plots,
    failed_lines,
    finding_rows,
    verdict,
    write_results,
)
from vavl.audit.settings import AuditSettings
from vavl.errors import StoreError


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
def audit(store):
    return audit_and_report(store)


def test_the_page_names_failures_first_and_needs_nothing_else(store, audit):
    text = (store / "audit.html").read_text()
    assert text.index("Failed: speakers across splits") < text.index("<h2>Checks</h2>")
    assert "data.waive_audit names speakers" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert not re.search(r"s<8>", text)
    assert all(check.value in text for check in Check)
    assert text.count("data:image/svg+xml") == len(list(audit_plots(audit)))
    assert "Clips per class: label balance (heard)" in text
    assert "<dt>heard for given</dt><dd>F1-micro 0." in text


def test_every_known_thing_has_a_plot(audit):
    plots = {plot.name: plot for plot in audit_plots(audit)}
    assert plots.keys() == {
        "classes_given", "classes_heard", "durations", "silence", "clipping", "faces", "neighbours_audio",
        "neighbours_video",
    }  # fmt: skip
    assert all(plot.figure.axes[0].patches for plot in plots.values())
    names = [text.get_text() for text in plots["classes_given"].figure.axes[0].get_legend().texts]
    assert [name.split(",")[0] for name in names] == ["train", "validation", "test"]


def test_a_store_without_facts_has_fewer_plots(tmp_path):
    audit = audit_and_report(write_audited_corpus(tmp_path, with_facts=False))
    names = {plot.name for plot in audit_plots(audit)}
    assert names == {"classes_given", "classes_heard", "neighbours_audio", "neighbours_video"}
    assert "not known" in write_results(audit, tmp_path).read_text()


def test_the_screen_says_what_training_will_do(audit):
    rows = dict(finding_rows(audit))
    assert rows["speakers"].startswith("failed ")
    assert "label_balance (given)" in rows
    assert "training refuses this store" in verdict(audit)
    assert "data.waive_audit=[speakers" in verdict(audit)
    assert any("fix:" in line for line in failed_lines(audit))


def test_a_damaged_store_is_refused_by_its_hashes(tmp_path):
    """Speakers of the rows are read by no training run; the audit compares them all the same."""
    store = write_audited_corpus(tmp_path)
    path = store / "audio/data-00000.arrow"
    with pa.memory_map(str(path)) as file:
        speaker = pa.ipc.open_stream(file).read_next_batch().column("speaker")[0].as_py().encode()
    overwrite(path, speaker, speaker[::-1] if speaker != speaker[::-1] else speaker.swapcase())
    with pytest.raises(StoreError, match=r"audio/data-00000\.arrow: .*(changed|not those that were written)"):
        audit_place(store, None, AuditSettings())
    assert not (store / "audit.html").exists()
