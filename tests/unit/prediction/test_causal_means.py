"""Models of causal means: the clips of a speaker stay together and in order, and every clip names its speaker."""

from __future__ import annotations

import numpy as np
import pytest
from media_model import CLASSES, write_media_model
from rendered_media import tone, write_wav

from vavl.errors import ConfigError, CorpusError
from vavl.extractors.extractor import extractor_of
from vavl.models.clips import CenteredClip
from vavl.models.saved_model import load_model

COLUMNS = [f"probability_{name}" for name in CLASSES]


@pytest.fixture
def causal_model(tmp_path):
    return write_media_model(tmp_path / "causal", speaker_normalisation="causal_mean")


def write_turns(folder, turns):
    """Write a table of clips and speakers, every clip a voice of another pitch; return its path."""
    rows = ["clip_id,audio_path,speaker"]
    for number, (clip_id, speaker) in enumerate(turns):
        write_wav(folder / f"{clip_id}.wav", tone(150 + 40 * number, 0.3, amplitude=0.1 + 0.05 * number))
        rows.append(f"{clip_id},{clip_id}.wav,{speaker}")
    (folder / "turns.csv").write_text("\n".join(rows))
    return folder / "turns.csv"


def expected_turns(folder, model, turns):
    means, found = load_model(model).speaker_means(), {}
    extract = extractor_of(load_model(model).description.audio.extractor, "audio")
    for clip_id, speaker in turns:
        values = means.centered({"audio": extract(folder / f"{clip_id}.wav").values}, speaker)
        (one,) = load_model(model).predict([CenteredClip(**values)])
        found[clip_id] = one.probabilities
    return found


def test_causal_means_follow_the_order_of_the_table_whatever_parts_it_is_done_in(
    tmp_path, causal_model, predict, rows_of_result, monkeypatch
):
    monkeypatch.setattr("vavl.prediction.predict._CLIPS_OF_MEDIA", 2)
    turns = [("a", "anna"), ("b", "bert"), ("c", "anna"), ("d", "anna"), ("e", "carl"), ("f", "bert"), ("g", "anna")]
    (tmp_path / "in").mkdir()
    table = write_turns(tmp_path / "in", turns)
    for conditions in (None, ("audio",)):
        result = predict(table, causal_model, conditions=conditions)
        rows = rows_of_result(result)
        for clip_id, probabilities in expected_turns(tmp_path / "in", causal_model, turns).items():
            np.testing.assert_allclose([rows[clip_id, "audio"][name] for name in COLUMNS], probabilities, atol=1e-6)
    # One clip more: its speaker is predicted anew, the others are kept.
    more = [*turns, ("h", "bert")]
    result = predict(write_turns(tmp_path / "in", more), causal_model, conditions=("audio",))
    rows = rows_of_result(result)
    assert len(rows) == 8
    expected = expected_turns(tmp_path / "in", causal_model, more)
    np.testing.assert_allclose([rows["h", "audio"][name] for name in COLUMNS], expected["h"], atol=1e-6)


def test_causal_means_need_speakers_and_draw_no_timeline(made_media, tmp_path, causal_model, predict):
    with pytest.raises(CorpusError, match=r"(?s)speaker: .* clips have no speaker, e\.g\. .*a column `speaker`"):
        predict(made_media, causal_model)
    (tmp_path / "in").mkdir()
    table = write_turns(tmp_path / "in", [("a", "anna"), ("b", "")])
    with pytest.raises(CorpusError, match=r"1 of 2 clips have no speaker, e\.g\. b"):
        predict(table, causal_model)
    with pytest.raises(ConfigError, match=r"timeline: takes no earlier clips"):
        predict(write_turns(tmp_path / "in", [("a", "anna")]), causal_model, timeline=True)
