"""Hugging Face datasets as sources of a card: columns, ids and classes, bytes laid down once, and what is refused."""

from __future__ import annotations

import json
import logging
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Value, Video

from vavl.config.load import validate
from vavl.corpora.card import CorpusCard
from vavl.corpora.discovery import find_clips
from vavl.corpora.hf_dataset import _downloaded
from vavl.corpora.manifest import build_manifest
from vavl.errors import ConfigError, CorpusError

SPEAKERS = ("a", "b", "c")
CLASSES = ["glad", "calm"]
COMMIT = "5d1e" * 10


def audio(**source) -> dict:
    return {"audio": {"source": "hf", "load": "parquet", **source}}


def content(**source) -> dict:
    return {
        "name": "tiny",
        "title": "Tiny",
        "licence": "Apache-2.0",
        "citation": "none",
        "obtain": "made by the test",
        "root_environment_variable": "TINY_ROOT",
        **audio(**source),
        "speaker": {"group": "who"},
        "labels": {"felt": {"source": "pattern", "target": "felt", "group": "emotion"}},
        "splits": {
            "protocol": "tiny",
            "folds": {"source": "list", "test_speakers": {0: ["a"]}},
            "untested_speakers": "train",
            "validation_speakers": 1,
        },
        "expected": {"clips": 3, "speakers": 3},
    }


def manifest_of(root, card):
    return build_manifest(validate(CorpusCard, card, source="tiny.yaml"), root)


def table(paths=("x/1.wav", "x/2.wav", "x/3.wav"), **columns) -> Dataset:
    features = Features(
        {
            "audio": Video(decode=False),
            "who": Value("string"),
            "emotion": ClassLabel(names=CLASSES),
            "valence": Value("float32"),
        }
    )
    rows = {
        "audio": [{"bytes": f"RIFF....WAVE{number}".encode(), "path": path} for number, path in enumerate(paths)],
        "who": list(SPEAKERS),
        "emotion": [0, 1, -1],
        "valence": [1.0, None, 5.0],
        **columns,
    }
    return Dataset.from_dict(rows, features=features).cast_column("audio", Audio(decode=False))


@pytest.fixture
def root(tmp_path):
    table().to_parquet(tmp_path / "clips.parquet")
    return tmp_path


def test_bytes_are_laid_down_once_and_other_columns_are_groups(root):
    card = content()
    card["splits"]["labelled"] = ["train"]
    card["splits"]["folds"]["test_speakers"][0] = ["c"]
    card["labels"]["dimensions"] = {
        "source": "tables",
        "target": "valence",
        "tables": [{"attribute_columns": {"valence": "valence"}, "attribute_range": [1, 5]}],
    }
    manifest = manifest_of(root, card)
    rows = manifest.table.to_pylist()
    assert manifest.classes == ("glad", "calm")
    assert [row["clip_id"] for row in rows] == ["1", "2", "3"]
    assert [row["label"] for row in rows] == ["glad", "calm", None]
    assert [row["speaker"] for row in rows] == list(SPEAKERS)
    assert [row["valence__dimensions"] for row in rows] == [0, None, 1]
    files = [root / row["audio_path"] for row in rows]
    assert [file.read_bytes() for file in files] == [f"RIFF....WAVE{number}".encode() for number in range(3)]
    assert {file.suffix for file in files} == {".wav"}
    times = [file.stat().st_mtime_ns for file in files]
    assert manifest_of(root, card).table.equals(manifest.table)
    assert [file.stat().st_mtime_ns for file in files] == times


def test_media_of_an_audiofolder_stay_where_they_are(tmp_path):
    for split, speaker in (("train", "a"), ("train", "b"), ("validation", "c"), ("test", "d")):
        for label in CLASSES:
            file = tmp_path / "sound" / split / label / f"{speaker}_{label}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"RIFF")
    card = content(load="audiofolder", data_dir="sound")
    card["labels"]["felt"]["group"] = "label"
    card["speaker"] = {"group": "clip", "map": {f"{split}/{label}/{speaker}_{label}": speaker
                       for split, speaker in (("train", "a"), ("train", "b"), ("validation", "c"), ("test", "d"))
                       for label in CLASSES}}  # fmt: skip
    splits = {name: name for name in ("train", "validation", "test")}
    card["splits"] = {"protocol": "p", "folds": {"source": "pattern", "group": "split", "map": splits}}
    manifest = manifest_of(tmp_path, card)
    assert manifest.classes == ("calm", "glad")
    assert manifest.table["audio_path"].to_pylist()[0] == "sound/test/calm/d_calm.wav"
    assert manifest.table["split_0"].to_pylist() == ["test"] * 2 + ["train"] * 4 + ["validation"] * 2
    assert not (tmp_path / ".hf").exists()


def test_a_saved_dataset_with_splits(tmp_path):
    DatasetDict({"train": table().select([0, 1]), "test": table().select([2])}).save_to_disk(tmp_path / "saved")
    card = content(load="saved", data_dir="saved")
    card["splits"]["labelled"] = []
    card["groups"] = {"part": {"group": "split"}}
    assert manifest_of(tmp_path, card).table["group_part"].to_pylist() == ["train", "train", "test"]
    card["audio"]["split"] = "train"
    assert sorted(find_clips(validate(CorpusCard, card, source="tiny.yaml"), tmp_path)[0]) == ["1", "2"]
    card["audio"]["split"] = "trian"
    with pytest.raises(CorpusError, match="no split `trian`; did you mean `train`"):
        manifest_of(tmp_path, card)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speaker": {"group": "whom"}}, r"speaker: the dataset has no column `whom` .*did you mean `who`"),
        (audio(clip="id"), r"audio\.clip: the dataset has no column `id`"),
        (audio(column="sound"), r"audio\.column: no column `sound` of media"),
        (audio(column="valence"), r"column `valence` holds no media: Value"),
        (audio(load="saved"), r"audio\.load: `saved` cannot be opened: .*neither"),
        (audio(data_files="torn.parquet"), "the dataset cannot be read: "),
        (audio(data_files="no.parquet"), "cannot be opened: Unable to find"),
    ],
)  # fmt: skip
def test_what_the_dataset_lacks_is_named(root, change, message):
    whole = (root / "clips.parquet").read_bytes()
    (root / "torn.parquet").write_bytes(whole[:4] + bytes(100) + whole[104:])
    change = {"audio": audio(data_files="clips.parquet")["audio"]} | change
    with pytest.raises(CorpusError, match=message):
        manifest_of(root, content() | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"load": "imagefolder"}, r"is none of audiofolder, .*and no `owner/name`"),
        ({"revision": "main"}, "revision and config are for datasets on the hub"),
        ({"data_dir": "../x"}, "inside the corpus directory"),
        ({"load": "saved", "data_files": "x"}, "name it by data_dir"),
    ],
)
def test_keys_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        validate(CorpusCard, content(**change), source="tiny.yaml")


def test_bytes_without_a_path_need_a_column_of_ids(tmp_path):
    table(paths=[None] * 3).to_parquet(tmp_path / "clips.parquet")
    with pytest.raises(CorpusError, match=r"row 1 of train: nothing names the clip: audio is bytes without a path"):
        manifest_of(tmp_path, content())
    card = content(clip="who")
    card["splits"]["labelled"] = []
    manifest = manifest_of(tmp_path, card)
    assert manifest.table["clip_id"].to_pylist() == list(SPEAKERS)
    assert all(path.endswith(".wav") for path in manifest.table["audio_path"].to_pylist())


@pytest.mark.parametrize("path", ["/etc/hostname", "../secret.wav"])
def test_a_path_that_leads_out_of_the_directory_is_refused(tmp_path, path):
    (tmp_path / "secret.wav").write_bytes(b"RIFF")
    root = tmp_path / "corpus"
    root.mkdir()
    rows = {"audio": [{"bytes": None, "path": path}], "who": ["a"], "emotion": ["calm"]}
    Dataset.from_dict(rows).to_parquet(root / "clips.parquet")
    with pytest.raises(CorpusError, match=r"audio, row 1 of train: .* lies outside the corpus directory"):
        manifest_of(root, content())


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download asks for: one dataset of one parquet file at one commit."""

    def __init__(self, file: bytes, asked: list[str], *args) -> None:
        self.file, self.asked = file, asked
        super().__init__(*args)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.removeprefix("/api")
        if not path.startswith("/datasets/me/tiny"):
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if "/revision/" in path and not path.split("?")[0].endswith(("main", COMMIT)):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if "/resolve/" in path:
            return self.answer(200, self.file, {"X-Repo-Commit": COMMIT, "ETag": '"e"'})
        if "/tree/" in path:
            return self.answer(200, json.dumps([self.entry]).encode(), {})
        info = {"id": "me/tiny", "sha": COMMIT, "siblings": [{"rfilename": "data/train.parquet"}]}
        return self.answer(200, json.dumps(info).encode(), {})

    def do_HEAD(self) -> None:
        self.do_GET()

    @property
    def entry(self) -> dict:
        return {"type": "file", "path": "data/train.parquet", "size": len(self.file), "oid": "e"}

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_args) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Serve a dataset; yield the paths that were asked for."""
    table().to_parquet(tmp_path / "served.parquet")
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, (tmp_path / "served.parquet").read_bytes(), asked))
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    _downloaded.cache_clear()
    yield asked
    server.shutdown()
    server.server_close()


def test_a_dataset_of_the_hub_is_pinned_downloaded_and_then_read_without_the_hub(tmp_path, hub, caplog):
    card = content(load="me/tiny")
    card["splits"]["labelled"] = []
    with caplog.at_level(logging.WARNING):
        manifest = manifest_of(tmp_path / "root", card)
    assert f"me/tiny: audio.revision names no revision; commit {COMMIT} is taken" in caplog.text
    assert len(manifest) == 3
    assert (tmp_path / "root/.hf" / COMMIT / "data/train.parquet").exists()
    _downloaded.cache_clear()
    hub.clear()
    caplog.clear()
    card["audio"]["revision"] = COMMIT
    assert manifest_of(tmp_path / "root", card).table.equals(manifest.table)
    assert not hub
    assert "revision" not in caplog.text


def test_what_the_hub_does_not_have_is_said(tmp_path, hub, monkeypatch):
    with pytest.raises(CorpusError, match=r"audio\.revision: me/tiny has no revision `v9`"):
        manifest_of(tmp_path, content(load="me/tiny", revision="v9"))
    with pytest.raises(
        CorpusError, match=r"audio\.load: there is no such dataset on the hub, or it is not open to you"
    ):
        manifest_of(tmp_path, content(load="you/tiny", revision="main"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CorpusError, match=r"cannot be downloaded from the hub: .*\n  fix: try again"):
        manifest_of(tmp_path, content(load="me/tiny"))
