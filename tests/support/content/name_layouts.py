"""Names of recordings as corpora and people write them; no file is behind them."""

from __future__ import annotations

from itertools import product

EMOTIONS = ("angry", "fearful", "happy", "neutral", "sad", "surprised")


def demo() -> tuple[list[str], list[str]]:
    speakers = [f"{sex}{number:02d}" for sex in "fm" for number in range(1, 7)]
    clips = [
        "_".join(parts)
        for parts in product(speakers, ("s01", "s02", "s03"), EMOTIONS, ("t1", "t2"))
    ]  # fmt: skip
    return ([f"audio/{clip[:3]}/{clip}.wav" for clip in clips], [f"video/{clip[:3]}/{clip}.mp4" for clip in clips])


def ravdess() -> tuple[list[str], list[str]]:
    """Four actors; audio and video carry their modality as the first field."""
    clips = []
    for actor, emotion, intensity, statement, take in product(range(1, 5), range(1, 9), (1, 2), (1, 2), (1, 2)):
        if (emotion, intensity) != (1, 2):
            clips.append(
                f"Actor_{actor:02d}/03-01-{emotion:02d}-{intensity:02d}-{statement:02d}-{take:02d}-{actor:02d}"
            )
    sounds = [f"Audio_Speech/{clip}.wav" for clip in clips]
    return sounds, [f"Video_Speech/{clip.replace('/03-', '/01-')}.mp4" for clip in clips]


def crema_d() -> tuple[list[str], list[str]]:
    sentences = ("DFA", "IEO", "IOM", "ITH", "ITS", "IWL", "IWW", "MTI", "TAI", "TIE", "TSI", "WSI")
    clips = [
        f"{actor}_{sentence}_{emotion}_{level}"
        for actor in range(1001, 1013)
        for sentence in sentences
        for emotion in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
        for level in (("LO", "MD", "HI") if sentence == "IEO" and emotion != "NEU" else ("XX",))
    ]
    return [f"AudioWAV/{clip}.wav" for clip in clips], [f"VideoFlash/{clip}.flv" for clip in clips]


def enterface() -> tuple[list[str], list[str]]:
    """44 subjects; the sixth has no directories of sentences, as in the published corpus."""
    codes = {"anger": "an", "disgust": "di", "fear": "fe", "happiness": "ha", "sadness": "sa", "surprise": "su"}
    return [], [
        f"enterface database/subject {subject}/{emotion}/"
        + (f"sentence {sentence}/" if subject != 6 else "")
        + f"s{subject}_{code}_{sentence}.avi"
        for subject, (emotion, code), sentence in product(range(1, 45), codes.items(), range(1, 6))
    ]


def class_folders() -> tuple[list[str], list[str]]:
    return [], [f"{emotion}/{name}.mp4" for emotion in EMOTIONS for name in ("xyz", "clip 1", "IMG-2020", "a_b_c")]


def numbered_in_class_folders() -> tuple[list[str], list[str]]:
    return [], [f"{emotion}/{number:03d}.mp4" for emotion, number in product(EMOTIONS, range(10))]


def speaker_folders() -> tuple[list[str], list[str]]:
    """File names alone are not unique."""
    return [f"s{speaker}/{emotion}_{take}.wav" for speaker, emotion, take in product(range(5), EMOTIONS, (1, 2, 3))], []


def marked_sides() -> tuple[list[str], list[str]]:
    clips = [name.rpartition("/")[2].removesuffix(".wav") for name in demo()[0]]
    return [f"{clip}_audio.wav" for clip in clips], [f"{clip}_video.mp4" for clip in clips]


def emo_db() -> tuple[list[str], list[str]]:
    """No marks between the fields at all."""
    parts = product(("03", "08", "09", "10"), ("01", "02"), "WLEAFTN", "ab")
    return [f"wav/{speaker}a{text}{emotion}{take}.wav" for speaker, text, emotion, take in parts], []
