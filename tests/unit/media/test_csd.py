"""Containers of the CMU Multimodal SDK: what they hold, and what is refused."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest
from csd_files import EMOTIONS, frames, write_csd, write_mosei

from vavl.errors import ConfigError, CorpusError
from vavl.media.csd import open_container, read_csd_columns, read_csd_keys, read_segments

LABELS = "CMU_MOSEI_Labels.csd"


@pytest.fixture
def mosei(tmp_path):
    return write_mosei(tmp_path)


def test_segments_are_the_intervals_of_the_videos(mosei):
    segments = read_segments(mosei, LABELS, "All Labels")
    assert list(segments)[:3] == ["-a_b[0]", "-a_b[1]", "v2[0]"]
    last = segments["v4[1]"]
    assert (last.video, last.start, last.end) == ("v4", 2.5, 4.0)


def test_a_container_reads_as_a_table_with_named_columns(mosei):
    assert read_csd_keys(mosei, LABELS) == list(read_segments(mosei, LABELS, None))
    values = read_csd_columns(mosei, LABELS, ("sentiment", "fear"))
    np.testing.assert_array_equal(values, [[-3, 2], [1.5, 1]] * 4)
    with pytest.raises(CorpusError, match="joy: no such column; the container has sentiment, happy"):
        read_csd_columns(mosei, LABELS, ("joy",))


def test_columns_without_names_are_numbered(mosei):
    with open_container(mosei, "CMU_MOSEI_COVAREP.csd", None) as container:
        assert container.dimensions() == tuple(map(str, range(74)))


def test_rows_are_read_by_their_numbers(tmp_path):
    intervals, features = frames(2, 10, 3)
    write_csd(tmp_path / "x.csd", "x", {"v": (intervals, features)})
    with open_container(tmp_path, "x.csd", None) as container:
        np.testing.assert_allclose(container.features("v", 4, 7), features[4:7], rtol=1e-6)
        np.testing.assert_array_equal(container.intervals("v"), intervals)
        assert container.intervals("unknown").shape == (0, 2)


def refuse_of(root, **keys):
    return read_segments(root, keys.get("name", "x.csd"), keys.get("sequence"))


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n" + b"\xff" * 200])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "x.csd").write_bytes(content)
    with pytest.raises(CorpusError, match=r"x\.csd: not a readable \.csd file"):
        refuse_of(tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_is_cut_off_is_refused(mosei, share):
    path = mosei / LABELS
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CorpusError, match="not a readable"):
        refuse_of(mosei, name=LABELS)


def test_a_missing_file_and_a_file_outside_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="not a readable"):
        refuse_of(tmp_path)
    outside = write_mosei(tmp_path / "outside")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/x.csd").symlink_to(outside / LABELS)
    with pytest.raises(CorpusError, match="lies outside the corpus directory"):
        refuse_of(tmp_path / "corpus")


def damaged(tmp_path, change):
    write_csd(tmp_path / "x.csd", "x", {"v": frames(1, 10, 3)})
    with h5py.File(tmp_path / "x.csd", "r+") as file:
        change(file["x"])
    return tmp_path


def replaced(name: str, data) -> object:
    def change(group) -> None:
        del group[f"data/v/{name}"]
        group["data/v"].create_dataset(name, data=data)

    return change


def linked(link) -> object:
    def change(group) -> None:
        del group["data/v/intervals"]
        group["data/v/intervals"] = link

    return change


def elsewhere(group) -> None:
    del group["data/v/intervals"]
    group["data/v"].create_dataset("intervals", (10, 2), "f8", external=[("/etc/passwd", 0, 160)])


def huge(group) -> None:
    del group["data/v/intervals"]
    group["data/v"].create_dataset("intervals", (2**40, 2), "f8", chunks=(1024, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda group: group.__delitem__("data"), "data: is not there"),
        (lambda group: group.__delitem__("data/v/intervals"), "intervals: is not there"),
        (replaced("intervals", np.zeros((10, 3))), r"v/intervals: shape \(10, 3\) is not \(rows, 2\)"),
        (replaced("intervals", np.zeros((9, 2))), "v: features and intervals differ in their number"),
        (replaced("intervals", [b"text"] * 10), "v/intervals: holds no numbers"),
        (linked(h5py.SoftLink("/x/metadata")), "intervals: is a link"),
        (linked(h5py.ExternalLink("/etc/passwd", "/")), "intervals: is a link"),
        (elsewhere, "v/intervals: is stored in another file"),
        (huge, r"v/intervals: is declared as \(1099511627776, 2\)"),
        (lambda group: group.__delitem__("data/v"), "data: holds no segment"),
    ],
)
def test_damaged_and_hostile_containers_are_refused(tmp_path, change, message):
    with pytest.raises(CorpusError, match=message):
        refuse_of(damaged(tmp_path, change))


def test_one_of_several_sequences_must_be_named(tmp_path):
    write_csd(tmp_path / "x.csd", "x", {"v": frames(1, 10, 3)})
    with h5py.File(tmp_path / "x.csd", "r+") as file:
        file.create_group("y")
    with pytest.raises(CorpusError, match="holds 2 sequences: x, y"):
        refuse_of(tmp_path)
    assert len(refuse_of(tmp_path, sequence="x")) == 10
    with pytest.raises(CorpusError, match="z: is not there; found here: x, y"):
        refuse_of(tmp_path, sequence="z")


def test_without_h5py_the_command_that_installs_it_is_named(mosei, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"(?s)needs h5py.*pip install .*vavl\[mosei\]"):
        read_csd_keys(mosei, LABELS)


def test_the_names_of_emotions_are_those_of_the_corpus(mosei):
    with open_container(mosei, LABELS, "All Labels") as container:
        assert container.dimensions() == EMOTIONS
