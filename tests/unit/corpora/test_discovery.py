"""Finding clips: patterns, suffixes, duplicates, links, and clips with one modality only."""

from __future__ import annotations

import logging

import pytest

from vavl.corpora.discovery import find_clips
from vavl.errors import CorpusError


def found(corpus):
    return find_clips(corpus.card(), corpus.root)


def test_both_sides_are_found_by_clip_id(corpus):
    audio, video = found(corpus)
    assert sorted(audio) == sorted(video) == corpus.clips
    assert audio["f01_s1_ca"].place == "audio/f01/f01_s1_ca.wav"
    assert video["f01_s1_ca"].place == "f01_s1_ca"
    assert video["f01_s1_ca"].groups["speaker"] == "f01"


def test_audio_and_video_may_sit_in_different_trees(corpus):
    corpus.content["video"] = {"source": "files", "pattern": r"faces/(?P<clip>(?P<speaker>(?P<sex>[fm])\d\d)_"
                               r"(?P<sentence>\w+)_(?P<emotion>\w+))", "suffixes": [".mp4"]}  # fmt: skip
    for clip in corpus.clips:
        corpus.touch(f"faces/{clip}.MP4")
    audio, video = found(corpus)
    assert sorted(audio) == sorted(video) == corpus.clips
    assert video["m02_s2_an"].place == "faces/m02_s2_an.MP4"


def test_several_suffixes_are_one_corpus(corpus):
    (corpus.root / "audio/f01/f01_s1_ca.wav").rename(corpus.root / "audio/f01/f01_s1_ca.flac")
    assert found(corpus)[0]["f01_s1_ca"].place == "audio/f01/f01_s1_ca.flac"


def test_a_clip_id_twice_names_both_files(corpus):
    corpus.touch("audio/f01/f01_s1_ca.flac")
    with pytest.raises(CorpusError, match=r"f01_s1_ca: two entries .*f01_s1_ca\.flac and .*f01_s1_ca\.wav"):
        found(corpus)


def test_a_pattern_that_matches_nothing_is_named_with_what_was_there(corpus):
    corpus.content["audio"]["pattern"] = "sound/" + corpus.content["audio"]["pattern"]
    with pytest.raises(CorpusError, match=r"audio\.pattern: no file matches sound/.*found instead e\.g\. audio/f01/"):
        found(corpus)


def test_files_of_the_right_kind_that_do_not_match_are_counted(corpus, caplog):
    corpus.touch("audio/f01/readme.wav")
    corpus.touch("audio/f01/._f01_s1_ca.wav")
    with caplog.at_level(logging.WARNING):
        assert len(found(corpus)[0]) == 24
    assert "1 files do not match audio.pattern and are left out, e.g. audio/f01/readme.wav" in caplog.text


def test_an_empty_sound_file_stays_for_the_quarantine(corpus):
    (corpus.root / "audio/f01/f01_s1_ca.wav").write_bytes(b"")
    assert "f01_s1_ca" in found(corpus)[0]


def test_a_link_inside_the_folder_is_a_file_like_others(corpus):
    corpus.content["unpaired"] = {"audio_only": "keep"}
    (corpus.root / "audio/f01/f01_s9_ca.wav").symlink_to(corpus.root / "audio/f01/f01_s1_ca.wav")
    assert "f01_s9_ca" in found(corpus)[0]


def test_a_key_of_another_form_is_named_with_its_row(corpus):
    corpus.write("units.csv", "clip,AU01,AU02\nf01_s1_ca,1,2\nnobody,1,2\n")
    with pytest.raises(CorpusError, match="row 2: key 'nobody' does not match"):
        found(corpus)


def test_a_key_twice_is_refused(corpus):
    corpus.write("units.csv", "clip,AU01,AU02\nf01_s1_ca,1,2\nf01_s1_ca,1,2\n")
    with pytest.raises(CorpusError, match="two entries for one clip"):
        found(corpus)


@pytest.mark.parametrize(("rule", "clips"), [("keep", 24), ("drop", 23)])
def test_a_clip_without_a_row_in_the_table(corpus, caplog, rule, clips):
    lines = (corpus.root / "units.csv").read_text().splitlines()
    corpus.write("units.csv", "\n".join(line for line in lines if not line.startswith("f01_s1_ca")) + "\n")
    corpus.content["unpaired"] = {"audio_only": rule}
    audio, video = found(corpus)
    assert (len(audio), len(video)) == (clips, 23)
    assert "1 clips are audio only, e.g. audio/f01/f01_s1_ca.wav" in caplog.text


@pytest.mark.parametrize(("rule", "clips"), [("keep", 24), ("drop", 23)])
def test_a_row_without_a_clip(corpus, caplog, rule, clips):
    (corpus.root / "audio/f01/f01_s1_ca.wav").unlink()
    corpus.content["unpaired"] = {"video_only": rule}
    audio, video = found(corpus)
    assert (len(audio), len(video)) == (23, clips)
    assert "1 clips are video only, e.g. f01_s1_ca" in caplog.text


@pytest.mark.parametrize("side", ["audio_only", "video_only"])
def test_clips_with_one_side_are_refused_where_the_card_says_so(corpus, side):
    corpus.touch("audio/f01/f01_s8_ca.wav")
    (corpus.root / "audio/f01/f01_s1_ca.wav").unlink()
    corpus.content["unpaired"] = {side: "refuse"}
    with pytest.raises(CorpusError, match=rf"unpaired\.{side}: 1 clips are {side.replace('_', ' ')}"):
        found(corpus)
