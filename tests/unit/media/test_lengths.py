"""Lengths are those of what is decoded: every container, coding and form of header, against FFmpeg's own decoding."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from sound_forms import FORMS, RATE_HZ

from vavl.errors import ClipError
from vavl.media.decoding import check_whole
from vavl.media.media_probe import probe, sound_seconds
from vavl.media.sound import read_sound

SECONDS = 3.0
TIMES = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
SOUND = np.where(TIMES < 1, 0.02, 0.5) * np.sin(2 * np.pi * 440 * TIMES)
ENCODER_DELAY_S = 0.1
"""At most, where a file does not say what its encoder added."""
# Written to a pipe: nothing says how long they are, so a part of one is a whole file.
OPEN = {name for name in FORMS if "piped" in name or "live" in name or name.startswith("data_")}
# Streams of packets that begin anywhere and end anywhere.
STREAMS = {name for name in FORMS if name.endswith((".ts", ".ac3"))}


@pytest.fixture(params=sorted(FORMS), scope="module")
def form(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("form") / request.param
    FORMS[request.param](path, np.stack([SOUND, SOUND], axis=1))
    return path


def decoded_by_ffmpeg(path: Path) -> tuple[float, float]:
    """Return seconds and power of all that FFmpeg decodes; what it cannot decode it leaves out, as its program does."""
    seconds = energy = 0.0
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in frames:
                for part in av.AudioResampler(format="fltp").resample(frame):
                    samples = part.to_ndarray().mean(axis=0)
                    seconds += samples.size / frame.sample_rate
                    energy += float((samples.astype(np.float64) ** 2).sum()) / frame.sample_rate
    return seconds, energy


def test_the_length_and_the_energy_are_those_that_ffmpeg_decodes(form: Path):
    sound = read_sound(form, RATE_HZ)
    seconds = len(sound.waveform) / RATE_HZ
    energy = float((sound.waveform.astype(np.float64) ** 2).sum()) / RATE_HZ
    parts = 2 if "joined" in form.name or "chained" in form.name else 1
    # FFmpeg 8 leaves the filling of the last ALAC packet in a CAF out twice, when it writes and when it reads.
    shorter = 0.08 if form.name == "alac.caf" else 0.01
    assert SECONDS - shorter <= seconds <= SECONDS + parts * ENCODER_DELAY_S
    by_ffmpeg, energy_by_ffmpeg = decoded_by_ffmpeg(form)
    assert abs(seconds - by_ffmpeg) <= parts * ENCODER_DELAY_S
    assert energy == pytest.approx(energy_by_ffmpeg, rel=0.02)


def test_a_description_states_the_same_length(form: Path):
    read = len(read_sound(form, RATE_HZ).waveform) / RATE_HZ
    assert sound_seconds(form) == pytest.approx(read, abs=0.03)
    assert probe(form, form.name).seconds == pytest.approx(read, abs=0.03)


@pytest.mark.parametrize("name", sorted(FORMS.keys() - OPEN - STREAMS))
def test_a_file_that_is_cut_off_is_refused(name: str, tmp_path: Path):
    path = tmp_path / name
    FORMS[name](path, SOUND[:, None])
    content = path.read_bytes()
    check_whole(path, "audio")
    path.write_bytes(content[: round(0.7 * len(content)) - 7])
    with pytest.raises(ClipError, match=r"cut off|cannot be decoded|not a readable"):
        read_sound(path, RATE_HZ)


def test_there_are_at_least_sixty_forms():
    assert len(FORMS) >= 60
