"""How fast video becomes features: frames per second of one thread, stage by stage.

    python tests/benchmarks/video_extraction.py [--directory FOLDER] [--clips 6] [--repeats 3] [--out FILE.json]

The clips are mp4 files below FOLDER, by default the demo corpus (pictures of 160 x 160); ``640x640`` is the first of
them enlarged. Each stage runs alone on decoded pictures, the whole extractors from the file on; the networks are tiny
random ones (tests/support/content/tiny_networks.py), so their rows show what the way to and from a network costs, not a
network. Median over the repeats, by the processor's time and by the clock. Exits with 1 if a stage gives no frame.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.extend(str(path) for path in (Path(__file__).parents[1] / "support").iterdir())

from rendered_media import write_mp4
from tiny_networks import BACKBONES, save_tiny

from vavl.config.files import write_json
from vavl.errors import InputError
from vavl.extractors.descriptor import describe_face
from vavl.extractors.extractor import video_extractor
from vavl.extractors.faces import FaceFinder, cut_faces
from vavl.extractors.settings import FaceSettings, ImageNetworkSettings, PretrainedModel, VideoFeatureSettings
from vavl.media.media import Pictures

RATE_HZ = 25
LARGE_PX = 640
Stage = Callable[[], int]


def main() -> int:
    """Measure, print, write JSON; return 1 if a stage gives no frame."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo_corpus"))
    parser.add_argument("--clips", type=int, default=6, help="taken evenly from all of the directory")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the networks")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/video_extraction.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        clips = find_clips(options.folder, options.clips)
        large = enlarged(clips[0], Path(folder) / "large.mp4")
        stages = {**stages_of(clips, ""), **stages_of([large], f" {LARGE_PX}x{LARGE_PX}")}
        for kind in BACKBONES:
            network = save_tiny(Path(folder) / kind, kind)
            stages[f"{kind}, tiny, whole"] = whole(clips, network_settings(network, options.device))
        rows = [measure(name, stage, options.repeats) for name, stage in stages.items()]
    write_json(options.out, {"clips": len(clips), "device": options.device, "stages": rows})
    print(f"{'stage':32}{'frames/s (processor)':>22}{'frames/s (clock)':>20}")
    for row in rows:
        print(f"{row['stage']:32}{row['frames_per_cpu_s']:22.0f}{row['frames_per_s']:20.0f}")
    return int(any(row["frames"] == 0 for row in rows))


def find_clips(folder: Path, clips: int) -> list[Path]:
    """Return some mp4 files, evenly from all below the directory."""
    found = sorted(folder.rglob("*.mp4"))
    if not found:
        raise InputError(str(folder), "", "no mp4 files below it", "python jobs/make_demo_corpus.py CONFIG.yaml")
    return [found[place] for place in sorted({int(p) for p in np.linspace(0, len(found) - 1, clips)})]


def enlarged(path: Path, target: Path) -> Path:
    """Write the clip with larger pictures."""
    pictures = [cv2.resize(picture, (LARGE_PX, LARGE_PX)) for _, picture in Pictures(path, RATE_HZ)]
    return write_mp4(target, np.stack(pictures))


def stages_of(clips: Sequence[Path], label: str) -> Mapping[str, Stage]:
    """Return decoding, detection and description, each alone, and all of them from the file on."""
    settings = VideoFeatureSettings()
    decoded = [[picture for _, picture in Pictures(path, RATE_HZ)] for path in clips]
    finder = FaceFinder(settings.faces, RATE_HZ)
    tracks = [finder.track(pictures) for pictures in decoded]
    anew = FaceFinder(FaceSettings(longest_gap_s=0), RATE_HZ)

    def grey(pictures: Sequence[Any]) -> list[Any]:
        small = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
        return [cv2.resize(picture, (320, 320)) if len(picture) > 320 else picture for picture in small]

    def describe() -> int:
        frames = 0
        for pictures, track in zip(decoded, tracks, strict=True):
            frames += len(describe_face(cut_faces(grey(pictures), track, 1.0), track, RATE_HZ))
        return frames

    return {
        f"decode{label}": lambda: sum(1 for path in clips for _ in Pictures(path, RATE_HZ)),
        f"follow the face{label}": lambda: sum(len(finder.track(pictures).boxes) for pictures in decoded),
        f"find it anew in each frame{label}": lambda: sum(
            len(anew.track([picture]).boxes) for pictures in decoded for picture in pictures
        ),
        f"describe{label}": describe,
        f"face_descriptor, whole{label}": whole(clips, settings),
    }


def network_settings(folder: Path, device: str) -> ImageNetworkSettings:
    """Return the settings of a network on every frame."""
    model = PretrainedModel.model_validate({"folder": folder, "device": device})
    return ImageNetworkSettings(extractor="image_network", backbone=model)


def whole(clips: Sequence[Path], settings: VideoFeatureSettings | ImageNetworkSettings) -> Stage:
    """Return the whole extractor, from the file on."""
    extract = video_extractor(settings)
    return lambda: sum(len(extract(path).values) for path in clips)


def measure(name: str, stage: Stage, repeats: int) -> dict[str, Any]:
    """Run a stage once to warm up, then several times; return medians."""
    frames = stage()
    processor, clock = [], []
    for _ in range(repeats):
        begin, begin_processor = time.perf_counter(), time.process_time()
        stage()
        clock.append(time.perf_counter() - begin)
        processor.append(time.process_time() - begin_processor)
    return {
        "stage": name,
        "frames": frames,
        "frames_per_cpu_s": round(frames / max(statistics.median(processor), 1e-9), 1),
        "frames_per_s": round(frames / max(statistics.median(clock), 1e-9), 1),
    }


if __name__ == "__main__":
    raise SystemExit(main())
