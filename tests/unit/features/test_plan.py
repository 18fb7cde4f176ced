"""What a message says of an extraction that was begun otherwise."""

from __future__ import annotations

from vavl.features.plan import difference


def test_hundreds_of_channel_names_do_not_hide_the_setting_that_changed():
    old = {"extractor": "log_mel", "settings": {"hop_ms": 20.0}, "channels": ["a", "b"]}
    new = {"extractor": "log_mel", "settings": {"hop_ms": 10.0}, "channels": [f"c{n}" for n in range(400)]}
    found = difference("audio", old, new)
    assert "hop_ms 20.0 -> 10.0" in found
    assert "channels ['a', 'b'] -> (400 entries)" in found
