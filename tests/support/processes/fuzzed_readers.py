"""Feed mutated files to the readers: python fuzzed_readers.py FOLDER EXAMPLES, in a process of its own.

Ends with 0 when every case was read or refused with a ``VavlError``; otherwise says which did what. The
bytes of the case at work lie in ``FOLDER/case``: after a crash of the process they tell what caused it.
"""

from __future__ import annotations

import faulthandler
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_corpora import good_corpus
from odd_media import good_flac, good_mp4, good_wav

from vavl.config.files import sha256_of_file
from vavl.corpora.card import read_card
from vavl.corpora.manifest import Manifest
from vavl.errors import InputError, VavlError
from vavl.extraction.parts import ClipRecord, Part, PartRecord, PartWriter
from vavl.features import ModalityInfo
from vavl.media.csv_table import read_number_columns, read_text_columns
from vavl.media.media import read_frames
from vavl.media.sound import read_audio
from vavl.store.shards import ClipFeatures, row_batch
from vavl.store.store import FeatureStore, content_hash
from vavl.store.store_writer import StoreWriter

LONGEST_S = 5.0
# On a busy machine a case has to wait; a hang would never end.
_GIVEN_UP_S = 60.0
_CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["replace", "replace", "replace", "insert", "remove", "cut", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)
Reader = Callable[[Path], object]


def mutated(whole: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    """Return the bytes of a file after changes at places given as shares of its length."""
    content = bytearray(whole)
    for kind, share, value in changes:
        place = int(share * len(content))
        match kind:
            case "replace":
                content[place : place + len(value)] = value
            case "insert":
                content[place:place] = value
            case "remove":
                del content[place : place + len(value)]
            case "repeat":
                content[place:place] = content[place : place + 50 * len(value)]
            case "cut":
                del content[place:]
    return bytes(content)


def read_pictures(path: Path) -> None:
    for number, _ in enumerate(read_frames(path, 25, longest_s=30)):
        assert number < 10_000


def read_table(path: Path) -> None:
    read_text_columns(path.parent, path.name, ("clip", "label"))
    read_number_columns(path.parent, path.name, ("arousal",))


def read_finished_part(path: Path) -> None:
    record = PartRecord.read(path)
    if record is not None:
        assert sum(map(len, record.checksums)) <= 4


def read_store(path: Path) -> None:
    """Open the store whose features were replaced, read it all and compare it with its hashes."""
    folder = path.parent.parent if path.parent.name == "audio" else path.parent
    content = folder / "store.json"
    if path != content:
        # As if whoever changed the file had stated its new size and hash: the content itself is met.
        stated = json.loads(content.read_text())
        is_shard = path.parent != folder
        entry = stated["modalities"]["audio"]["shards"][0] if is_shard else stated["files"][path.name]
        entry |= {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
        content.write_text(json.dumps({**stated, "store_hash": content_hash(stated)}))
    store = FeatureStore.open(folder)
    store.verify()
    store.features("audio", 0)
    store.rows("audio", store.clip_ids("audio"))


def clip_features() -> list[ClipFeatures]:
    times = np.arange(3, dtype=np.float32)
    return [ClipFeatures(f"c{n}", f"s{n}", np.ones((3, 2), np.float32), times) for n in range(4)]


def write_part(path: Path) -> Path:
    part = Part("audio", path, "odd", path.parent, 2, "made by the test", "float32", ())
    with part.shard_writer() as shards:
        writer = PartWriter(part, shards)
        for clip in clip_features():
            writer.add(clip, ClipRecord("0" * 64))
        writer.finish()
    return path


def write_store(folder: Path) -> Path:
    writer = StoreWriter(folder, "odd", "0" * 16)
    info = ModalityInfo("synthetic", "1", {}, 10.0, 2)
    writer.write_modality("audio", info, [row_batch("odd", 2, clip_features())])
    writer.finish({"clips": 4})
    table = pa.table({"clip_id": ["c0", "c1"]})
    metadata = json.dumps({"clips": 2}).encode()
    Manifest(table.replace_schema_metadata({b"vavl": metadata})).write(folder)
    return folder


def kinds(folder: Path) -> dict[str, tuple[Path, Reader]]:
    """Return a small good file and its reader for every kind; the file is replaced case by case."""
    (folder / "corpus").mkdir()
    corpus = good_corpus(folder / "corpus")
    card = folder / "card.yaml"
    card.write_text(yaml.safe_dump(corpus.card))
    store = write_store(folder / "store")
    shutil.copytree(store, folder / "stated")

    def sound(path: Path) -> object:
        return read_audio(path, 16_000, longest_s=30)

    return {
        "wav": (good_wav(folder / "a.wav"), sound),
        "flac": (good_flac(folder / "a.flac"), sound),
        "mp4_sound": (good_mp4(folder / "sound.mp4"), sound),
        "mp4_pictures": (good_mp4(folder / "pictures.mp4"), read_pictures),
        "csv": (corpus.root / "labels.csv", read_table),
        "yaml": (card, read_card),
        "part": (write_part(folder / "parts" / "audio-0.json"), read_finished_part),
        "arrow": (store / "audio/data-00000.arrow", read_store),
        "index": (store / "audio_index.bin", read_store),
        "ids": (store / "audio_ids.arrow", read_store),
        "store_json": (folder / "stated" / "store.json", read_store),
        "manifest": (store / "manifest/data-00000-of-00001.arrow", lambda path: Manifest.read(path.parent.parent)),
    }


def fuzz(path: Path, read: Reader, examples: int) -> tuple[int, int, float]:
    """Return how many cases were read and refused, and the longest time of one in seconds of the processor."""
    whole = path.read_bytes()
    counts = {"read": 0, "refused": 0}
    longest = 0.0

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(_CHANGES)
    def run(changes: list[tuple[str, float, bytes]]) -> None:
        nonlocal longest
        path.write_bytes(mutated(whole, changes))
        faulthandler.dump_traceback_later(_GIVEN_UP_S, exit=True)
        start = time.process_time()
        try:
            read(path)
            counts["read"] += 1
        except VavlError as fault:
            if not isinstance(fault, InputError) or not all((fault.file, fault.problem, fault.fix)):
                raise
            counts["refused"] += 1
        finally:
            faulthandler.cancel_dump_traceback_later()
        longest = max(longest, time.process_time() - start)
        assert longest < LONGEST_S, "too slow"

    run()
    path.write_bytes(whole)
    read(path)
    return counts["read"], counts["refused"], longest


def main() -> int:
    folder, examples = Path(sys.argv[1]), int(sys.argv[2])
    chosen = sys.argv[3:]
    for name, (path, read) in kinds(folder).items():
        if chosen and name not in chosen:
            continue
        print(name, "...", flush=True)
        read_cases, refused, longest = fuzz(path, read, examples)
        print(json.dumps({"kind": name, "read": read_cases, "refused": refused, "longest_s": longest}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
