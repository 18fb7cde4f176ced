"""Which patterns are found in the names of corpora, and that they read every name."""

from __future__ import annotations

import re

import name_layouts
import pytest

from vavl.description.layout import escaped, field_expression, find_layout, has_sex

ENTERFACE_CLIP = r"(?P<clip>(?P<speaker>s\d+)_[a-z]+_(?P<field_2>\d))"
CASES = {
    "demo": (
        "audio/[fm]\\d\\d/(?P<clip>(?P<speaker>(?P<sex>[fm])\\d\\d)_(?P<sentence>s\\d\\d)_(?P<emotion>[a-z]+)_(?P<take>t\\d))",
        "f01_s01_angry_t1", 12, 6,
    ),
    "ravdess": (
        r"Audio_Speech/Actor_\d\d/03-(?P<clip>01-(?P<emotion>\d\d)-(?P<field_1>\d\d)-(?P<field_2>\d\d)-(?P<field_3>\d\d)-(?P<speaker>\d\d))",
        "01-01-01-01-01-01", 4, 8,
    ),
    "crema_d": (
        r"AudioWAV/(?P<clip>(?P<speaker>\d{4})_(?P<field_1>[A-Z]+)_(?P<emotion>[A-Z]+)_(?P<intensity>[A-Z]+))",
        "1001_DFA_ANG_XX", 12, 6,
    ),
    "enterface": (
        r"enterface database/subject \d+/(?P<emotion>[a-z]+)/(?:sentence (?P<sentence>\d)/)?" + ENTERFACE_CLIP,
        "s1_an_1", 44, 6,
    ),
    "class_folders": (r"(?P<clip>(?P<emotion>[a-z]+)/(?P<field_1>[^/]+))", "angry/xyz", None, 6),
    "numbered_in_class_folders": (r"(?P<clip>(?P<emotion>[a-z]+)/(?P<field_1>\d{3}))", "angry/000", None, 6),
    "speaker_folders": (
        r"(?P<clip>(?P<speaker>s\d)/(?P<emotion>[a-z]+)_(?P<field_1>\d))", "s0/angry_1", 5, 6
    ),
    "marked_sides": (
        "(?P<clip>(?P<speaker>(?P<sex>[fm])\\d\\d)_(?P<sentence>s\\d\\d)_(?P<emotion>[a-z]+)_(?P<take>t\\d))_audio",
        "f01_s01_angry_t1", 12, 6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_pattern_of_a_layout(case):
    pattern, clip, speakers, classes = CASES[case]
    audio, video = getattr(name_layouts, case)()
    layout = find_layout(audio, video)
    assert layout.pattern(layout.lead) == pattern
    found = layout.speakers_of_clips()
    assert clip in found
    assert len(found) == max(len(audio), len(video)), "a clip is there twice, or its two sides do not meet"
    assert (layout.roles.speaker is None) == (speakers is None)
    assert len(set(found.values())) == (speakers or len(found))
    assert layout.roles.emotion is not None
    assert len(layout.roles.emotion.distinct) == classes
    for names in layout.modalities:
        assert not names.unmatched
        assert all(re.fullmatch(layout.pattern(names), name.rpartition(".")[0]) for name in names.names)


def test_a_speaker_without_marks_around_is_found():
    layout = find_layout(*name_layouts.emo_db())
    assert layout.roles.speaker is not None
    assert layout.roles.speaker.distinct == ["03", "08", "09", "10"]
    assert not layout.roles.is_emotion_named


def test_values_of_numbers_are_not_taken_for_emotions():
    layout = find_layout(*name_layouts.ravdess())
    assert not layout.roles.is_emotion_named
    assert layout.roles.emotion is not None
    assert layout.roles.emotion.distinct[-1] == "08"


def test_files_named_otherwise_are_unmatched():
    audio, video = name_layouts.demo()
    layout = find_layout([*audio, "audio/f01/notes on the recording.wav"], video)
    assert layout.lead.unmatched == ("audio/f01/notes on the recording.wav",)
    assert len(layout.speakers_of_clips()) == 432


def test_a_table_may_name_clips_without_their_first_field():
    audio, _ = name_layouts.ravdess()
    layout = find_layout(audio, [])
    assert next(iter(layout.speakers_of_clips())).startswith("03-01-")
    shorter = layout.without_first(1)
    assert next(iter(shorter.speakers_of_clips())) == "01-01-01-01-01-01"
    assert shorter.clip_pattern().startswith("(?P<clip>01-")
    assert shorter.clip_pattern().endswith(r"(?P<speaker>\d\d))")


def test_without_first_keeps_clips_apart():
    layout = find_layout([f"{speaker}_{take}.wav" for speaker in ("ann", "bob") for take in "123"], [])
    assert layout.without_first(1) == layout


@pytest.mark.parametrize(
    ("values", "expression"),
    [
        (["x"], "x"),
        (["a.b", "a.b"], r"a\.b"),
        (["1", "22"], r"\d+"),
        (["001", "022"], r"\d{3}"),
        (["t1", "t2"], r"t\d"),
        (["p1", "q22"], r"[pq]\d+"),
        (["ab", "Cd"], "[A-Za-z]+"),
        (["ärger", "glück"], r"[^\W\d_]+"),
        (["a1b", "22"], r"[^\W_]+"),
    ],
)
def test_the_expression_of_a_field_matches_its_values(values, expression):
    assert field_expression(values) == expression
    assert all(re.fullmatch(expression, value) for value in values)


def test_sex_is_read_from_letters_of_both_alone():
    assert has_sex(["f01", "m02"])
    assert not has_sex(["f01", "f02"])
    assert not has_sex(["a01", "b02"])


def test_what_has_a_meaning_in_expressions_is_escaped():
    text = "a (1)+[2]. {3}|^$*?\\"
    assert re.fullmatch(escaped(text), text)
