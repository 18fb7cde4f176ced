"""What tests of several rooms share: a small synthetic corpus as a store, and jobs run in this process."""

from __future__ import annotations

import gc
import importlib.util
import logging
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from made_store import write_made_store

from vavl.features import ModalityInfo
from vavl.store.shards import ClipFeatures

pytest_plugins = ["corpus_fixtures", "tracking_fixtures", "training_fixtures"]


# Before pytest-xdist, which reads the groups in a hook of the same name and is asked first otherwise.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deal the files to the processes of pytest-xdist whole, and the tests of a directory that share a Ray to one.

    Those come first: they are the longest chains, and one that starts late is waited for at the end.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    ungrouped = [item for item in items if item.get_closest_marker("xdist_group") is None]
    shares_a_ray = {item for item in ungrouped if item.get_closest_marker("ray") is not None}
    for item in ungrouped:
        room = item.path.relative_to(config.rootpath / "tests").parts[0]
        item.add_marker(pytest.mark.xdist_group(f"ray of {room}" if item in shares_a_ray else str(item.path)))
    items.sort(key=lambda item: item not in shares_a_ray)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the cache of whoever runs the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAVL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _search_path_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back what a test leaves on the path: MLflow puts the code of a model that it loads there, first."""
    monkeypatch.setattr(sys, "path", [*sys.path])


def pytest_collection_finish() -> None:
    """Take what was imported out of the garbage collector's way: ZeRO 3 calls it whenever an engine is made."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the Ray that tests share as soon as the next one starts none: a session costs ten seconds of a core."""
    is_last = nextitem is None or nextitem.get_closest_marker("ray") is None
    if is_last and item.get_closest_marker("ray") is not None:
        import ray

        ray.shutdown()


CLASSES = ("calm", "glad", "mad")
AUDIO_WIDTH, VIDEO_WIDTH = 6, 5


@dataclass(frozen=True)
class SmallCorpus:
    """How the synthetic corpus is made.

    Attributes:
        clips_per_speaker: of each of 8 speakers: 4 train, 2 validation, 2 test.
        without_audio: of every 10 clips, those whose number is here lack audio.
        without_video: likewise.
        without_label: likewise; training clips only.
        signal: distance of the class means in standard deviations of a clip.
        seed: of everything.
        max_frames: of audio; video has half as many.
        layers: of a network, that are kept side by side in an audio frame.
    """

    clips_per_speaker: int = 10
    without_audio: Sequence[int] = ()
    without_video: Sequence[int] = ()
    without_label: Sequence[int] = ()
    signal: float = 1.5
    seed: int = 0
    max_frames: int = 12
    name: str = "small"
    layers: int = 1


def write_small_store(folder: Path, corpus: SmallCorpus) -> Path:
    """Write the store and its manifest; the same description gives the same bytes."""
    generator = np.random.default_rng(corpus.seed)
    directions = {"audio": generator.normal(size=(3, AUDIO_WIDTH)), "video": generator.normal(size=(3, VIDEO_WIDTH))}
    rows: dict[str, list[ClipFeatures]] = {"audio": [], "video": []}
    table: list[dict[str, object]] = []
    for speaker_number in range(8):
        speaker = f"s{speaker_number}"
        split = "train" if speaker_number < 4 else "validation" if speaker_number < 6 else "test"
        for number in range(corpus.clips_per_speaker):
            label = int(generator.integers(3))
            lacks = {"audio": number % 10 in corpus.without_audio, "video": number % 10 in corpus.without_video}
            clip_id = f"{speaker}_{number:04d}"
            longest = int(generator.integers(3, corpus.max_frames + 1))
            for modality, frames in (("audio", longest), ("video", max(1, longest // 2))):
                width = AUDIO_WIDTH if modality == "audio" else VIDEO_WIDTH
                mean = corpus.signal * directions[modality][label] + generator.normal(size=width)
                values = (mean + generator.normal(size=(frames, width))).astype(np.float32)
                if not lacks[modality]:
                    times = (np.arange(frames, dtype=np.float32) + 0.5) * 0.1
                    rows[modality].append(ClipFeatures(clip_id, speaker, values, times))
            unlabelled = split == "train" and number % 10 in corpus.without_label
            attributes = {
                name: float(directions["audio"][label][place])
                for place, name in enumerate(("arousal", "valence", "dominance"))
            }
            table.append(
                {
                    "clip_id": clip_id,
                    "corpus": corpus.name,
                    "speaker": speaker,
                    "label": None if unlabelled else CLASSES[label],
                    "soft_label": None if unlabelled else np.eye(3, dtype=np.float32)[label].tolist(),
                    **{name: None if unlabelled else value for name, value in attributes.items()},
                    "split_0": split,
                }
            )
    layers = {"keep_layers": True, "layers": [1, corpus.layers]} if corpus.layers > 1 else {}
    made = {"audio": (AUDIO_WIDTH, layers), "video": (VIDEO_WIDTH, {})}
    features = {
        modality: (ModalityInfo("synthetic", "1", settings, 10.0, width), rows[modality])
        for modality, (width, settings) in made.items()
    }
    metadata = {
        "corpus": corpus.name, "classes": CLASSES, "target": "drawn class", "protocol": "first speakers"
    }  # fmt: skip
    return write_made_store(folder, table, features, metadata)


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[SmallCorpus], Path]:
    """Return a function that gives the store of a description; each is made once per session."""
    made: dict[str, Path] = {}

    def store(corpus: SmallCorpus) -> Path:
        key = repr(corpus)
        if key not in made:
            made[key] = write_small_store(tmp_path_factory.mktemp("store"), corpus)
        return made[key]

    return store


@pytest.fixture(scope="session")
def small_corpus() -> type[SmallCorpus]:
    """Return the description class: test modules cannot import this file."""
    return SmallCorpus


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Start an S3 server on loopback with a bucket ``runs``; return its endpoint."""
    from s3_server import s3_server

    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def s3(s3_endpoint: str) -> Iterator[str]:
    """Return an address of the test's own on that server, which the drivers find by the environment."""
    from s3_server import BUCKET, s3_environment

    with s3_environment(s3_endpoint):
        yield f"s3://{BUCKET}/{secrets.token_hex(4)}"


@pytest.fixture
def s3_faults(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A proxy before that server, which the drivers find by the environment; they soon give up, and we ask at once."""
    import fsspec
    import s3fs
    from faulty_s3 import faulty_s3
    from s3_server import s3_environment

    from vavl.store import checked_files

    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 0.5)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"retries": {"max_attempts": 0}}})
    monkeypatch.setattr(checked_files, "_PAUSES_S", (0.0, 0.0))
    with faulty_s3(s3_endpoint) as proxy, s3_environment(proxy.endpoint):
        yield proxy


JOBS = Path(__file__).parents[1] / "jobs"


@dataclass(frozen=True)
class Done:
    """What a job printed."""

    stdout: str
    stderr: str


RunJob = Callable[..., Done]


@pytest.fixture
def run_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> RunJob:
    """Return a function that runs ``jobs/<name>.py`` with the words of a command line; it has to end with ``code``."""

    def run(name: str, *words: str | Path, code: int = 0) -> Done:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        spec = importlib.util.spec_from_file_location(f"job_{name}", JOBS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        job = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(job)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            ended = job.main()
        printed = capsys.readouterr()
        # pytest holds the log; a person sees it on stderr.
        done = Done(printed.out, printed.err + caplog.text)
        assert ended == code, done.stdout + done.stderr
        return done

    return run


Refused = Callable[..., None]


@pytest.fixture
def refused(run_job: RunJob) -> Refused:
    """Return a function that holds a job to refusing its words: exit code 2, a message with a fix, nothing made."""

    def check(name: str, *words: str | Path, message: str, made: Path | None = None) -> None:
        done = run_job(name, *words, code=2)
        assert message in done.stderr
        assert "fix:" in done.stderr
        assert "secret" not in done.stderr
        assert "Traceback" not in done.stderr
        assert made is None or not made.exists()

    return check
