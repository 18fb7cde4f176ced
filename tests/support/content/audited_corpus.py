"""A small corpus with everything that an audit looks at, clean unless a test changes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from made_store import write_made_store
from numpy.typing import NDArray

from vavl.features import ModalityInfo
from vavl.store.shards import ClipFeatures

CLASSES = ("calm", "glad", "mad")
SENTENCES = ("door", "dogs")
SPEAKERS, TAKES = 10, 2
CLIPS = SPEAKERS * len(CLASSES) * len(SENTENCES) * TAKES
WIDTHS = {"audio": 12, "video": 10}
_FACTS = {
    "audio": {"sample_rate_hz": 16000, "channels": 1, "peak": 0.5, "silence_share": 0.1, "clipped_share": 0},
    "video": {"frame_rate_hz": 25, "width_px": 64, "height_px": 64, "face_share": 0.99},
}


@dataclass
class Made:
    """One clip; a test may change anything of it before the corpus is written."""

    clip_id: str
    speaker: str
    split: str
    sentence: str
    label: str | None
    heard: str | None
    features: dict[str, NDArray[np.float32] | None]
    facts: dict[str, dict[str, Any]]


Change = Callable[[list[Made]], None]


def made_clips(seed: int = 0) -> list[Made]:
    """Return the clips of a corpus that passes every check: s0 .. s5 train, s6, s7 validate, s8, s9 test."""
    generator = np.random.default_rng(seed)
    clips = []
    for speaker in range(SPEAKERS):
        split = "train" if speaker < 6 else "validation" if speaker < 8 else "test"
        voice = {name: generator.normal(size=width) for name, width in WIDTHS.items()}
        for number in range(CLIPS // SPEAKERS):
            label, sentence = CLASSES[number % 3], SENTENCES[number // 3 % 2]
            clip_id = f"s{speaker}_{label}_{sentence}_{number // 6}"
            seconds = float(generator.uniform(1.5, 2.5))
            features: dict[str, Any] = {}
            for name, width in WIDTHS.items():
                frames = int(seconds * 15)
                mean = voice[name] + generator.normal(size=width) + 0.5 * (number % 3)
                spread = generator.uniform(0.5, 1.5, size=width)
                features[name] = (mean + spread * generator.normal(size=(frames, width))).astype(np.float32)
            facts = {
                name: {**known, "seconds": seconds, "sha256": f"{name}-{clip_id}", "file": f"{name}/{clip_id}"}
                for name, known in _FACTS.items()
            }
            heard = label if number % 6 else CLASSES[(number + 1) % 3]
            clips.append(Made(clip_id, f"s{speaker}", split, sentence, label, heard, features, facts))
    return sorted(clips, key=lambda clip: clip.clip_id)


def write_audited_corpus(
    folder: Path, *changes: Change, with_facts: bool = True, metadata: Mapping[str, Any] | None = None
) -> Path:
    """Write the store of the changed clips, with facts and two label sets: ``given`` and ``heard``."""
    clips = made_clips()
    for change in changes:
        change(clips)
    clips.sort(key=lambda clip: clip.clip_id)
    features = {
        name: (
            ModalityInfo("synthetic", "1", {}, 10.0, width),
            [
                ClipFeatures(clip.clip_id, clip.speaker, values, 0.1 * np.arange(len(values), dtype=np.float32))
                for clip in clips
                if (values := clip.features[name]) is not None
            ],
        )
        for name, width in WIDTHS.items()
    }
    facts = [
        {"clip_id": clip.clip_id, "modality": name, **clip.facts[name]}
        for clip in clips
        for name in WIDTHS
        if clip.features[name] is not None and clip.facts.get(name)
    ]
    stated = {
        "corpus": "audited", "classes": CLASSES, "target": "given emotion", "protocol": "first speakers",
        "label_set": "given", "labels": {"given": {"target": "given emotion"}, "heard": {"target": "heard emotion"}},
        "expected": {"clips": CLIPS, "speakers": SPEAKERS}, "subset": None, **(metadata or {}),
    }  # fmt: skip
    rows = [_row(clip) for clip in clips]
    return write_made_store(folder, rows, features, stated, facts if with_facts else None, quarantined=0)


def _row(clip: Made) -> dict[str, str | None]:
    """Return the clip's row of the manifest; only its classes are known."""
    unknown = ("soft_label", "arousal", "valence", "dominance")
    return {
        "clip_id": clip.clip_id,
        "corpus": "audited",
        "speaker": clip.speaker,
        "sex": "female" if clip.speaker[-1] in "13579" else "male",
        "label": clip.label,
        "label__heard": clip.heard,
        "audio_path": f"audio/{clip.clip_id}.wav",
        "video_path": f"video/{clip.clip_id}.mp4",
        "group_sentence": clip.sentence,
        "split_0": clip.split,
        **{f"{name}{label_set}": None for label_set in ("", "__heard") for name in unknown},
    }
