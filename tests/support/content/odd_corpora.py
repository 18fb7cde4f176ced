"""Odd tables, cards and names, each made by a rule from one small good corpus, with what must become of it."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SPEAKERS = ("s1", "s2", "s3", "s4")
CLIPS = tuple(f"{speaker}_{emotion}_{take}" for speaker in SPEAKERS for emotion in ("calm", "glad") for take in "12")
HEADER = ("clip", "label", "arousal")
_PATTERN = r"(?P<clip>(?P<speaker>s\d)_[^/]+)"


@dataclass
class Corpus:
    """A corpus that is about to be made odd: its directory, its card, the rows of its table."""

    root: Path
    card: dict[str, Any]
    rows: list[tuple[str, ...]]

    def write_table(self, text: str | bytes) -> None:
        content = text.encode() if isinstance(text, str) else text
        (self.root / "labels.csv").write_bytes(content)

    def table(self, mark: str = ",", end: str = "\n") -> str:
        return "".join(mark.join(row) + end for row in (HEADER, *self.rows))

    def add_clip(self, name: str) -> Path:
        path = self.root / "audio" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        return path


Bend = Callable[[Corpus], object]


@dataclass(frozen=True)
class OddCorpus:
    """One kind of odd corpus.

    Attributes:
        name: of the kind.
        bend: makes the good corpus odd; may return the text of the card to write instead of its content.
        refusal: regular expression of the message; None where the manifest must be made.
        is_same: the manifest must be that of the good corpus.
        warning: regular expression of a warning that must be there.
    """

    name: str
    bend: Bend
    refusal: str | None = None
    is_same: bool = True
    warning: str | None = None


def good_corpus(root: Path) -> Corpus:
    (root / "media").mkdir()
    rows = [(clip, clip.split("_")[1], f"{0.25 * int(clip[-1]):g}") for clip in CLIPS]
    corpus = Corpus(root / "media", _card(), rows)
    for clip in CLIPS:
        corpus.add_clip(clip)
    corpus.write_table(corpus.table())
    return corpus


def _card() -> dict[str, Any]:
    return {
        "name": "odd", "title": "Odd corpus", "licence": "Apache-2.0", "citation": "none", "obtain": "made by the test",
        "root_environment_variable": "ODD_ROOT",
        "classes": ["calm", "glad"],
        "labels": {"table": {"source": "tables", "target": "drawn", "tables": [{
            "file": "labels.csv", "key_column": "clip", "label_column": "label",
            "attribute_columns": {"arousal": "arousal"}, "attribute_range": [0, 1],
        }]}},
        "audio": {"pattern": f"audio/{_PATTERN}", "suffixes": [".wav"]},
        "speaker": {"group": "speaker"},
        "splits": {
            "protocol": "odd", "folds": {"source": "list", "test_speakers": {0: ["s1"]}},
            "validation_speakers": 1, "untested_speakers": "train",
        },
        "expected": {"clips": len(CLIPS), "speakers": 4},
    }  # fmt: skip


def table(rule: Callable[[Corpus], str | bytes]) -> Bend:
    return lambda corpus: corpus.write_table(rule(corpus))


def rows(rule: Callable[[list[tuple[str, ...]]], list[tuple[str, ...]]]) -> Bend:
    def bend(corpus: Corpus) -> None:
        corpus.rows = rule(corpus.rows)
        corpus.write_table(corpus.table())

    return bend


def card(**changes: Any) -> Bend:
    """Replace values of the card; ``a__b`` stands for the key b of the section a."""

    def bend(corpus: Corpus) -> None:
        for keys, value in changes.items():
            *above, key = keys.split("__")
            place: Any = corpus.card
            for name in above:
                place = place[int(name) if name.isdecimal() else name]
            place[key] = value

    return bend


def _with_anchor(text: str, *lines: str) -> str:
    """Let the later of two lines repeat the value of the earlier; other packages change the order of YAML."""
    first, second = sorted(lines, key=text.index)
    key, _, value = first.partition(": ")
    return text.replace(first, f"{key}: &same {value}").replace(second, f"{second.partition(': ')[0]}: *same")


def card_text(rule: Callable[[str], str]) -> Bend:
    return lambda corpus: rule(yaml.safe_dump(corpus.card))


def clip(name: str) -> Bend:
    return lambda corpus: corpus.add_clip(name)


def in_place(rule: Callable[[Path], object]) -> Bend:
    """Put something else in the place of the table."""

    def bend(corpus: Corpus) -> None:
        path = corpus.root / "labels.csv"
        path.unlink()
        rule(path)

    return bend


def _link_out(corpus: Corpus) -> None:
    outside = corpus.root.parent / "outside.wav"
    outside.write_bytes(b"x")
    (corpus.root / "audio" / "s1_calm_9.wav").symlink_to(outside)


def _two_writings(corpus: Corpus) -> None:
    for form in ("NFC", "NFD"):
        corpus.add_clip(unicodedata.normalize(form, "s1_möwe_1"))


def _table_in_another_writing(corpus: Corpus) -> None:
    corpus.add_clip(unicodedata.normalize("NFD", "s1_möwe_1"))
    corpus.rows.append((unicodedata.normalize("NFC", "s1_möwe_1"), "calm", "1"))
    corpus.write_table(corpus.table())


def _labelled(name: str) -> Bend:
    def bend(corpus: Corpus) -> None:
        corpus.add_clip(name)
        corpus.rows.append((name, "calm", "1"))
        corpus.write_table(corpus.table())

    return bend


_LABEL_TABLE = "labels__table__tables__0__"
_EXPLODES = r"audio/(?P<clip>(?P<speaker>s\d)(?:_|[a-z]|[a-z][a-z])+)X"

TABLES: tuple[OddCorpus, ...] = (
    OddCorpus("byte_order_mark", table(lambda c: b"\xef\xbb\xbf" + c.table().encode())),
    OddCorpus("line_ends_of_windows", table(lambda c: c.table(end="\r\n"))),
    OddCorpus("line_ends_of_old_macs", table(lambda c: c.table(end="\r"))),
    OddCorpus("semicolons", table(lambda c: c.table(mark=";"))),
    OddCorpus("tabs", table(lambda c: c.table(mark="\t"))),
    OddCorpus("decimal_commas", table(lambda c: c.table(mark=";").replace(".", ","))),
    OddCorpus("quoted_values", table(lambda c: c.table().replace(",calm,", ',"calm",').replace("label", '"label"', 1))),
    OddCorpus(
        "quoted_line_breaks",
        table(
            lambda c: (
                c.table()
                .replace("label", "label,note", 1)
                .replace(",calm,", ',calm,"two\nlines",')
                .replace(",glad,", ",glad,,")
                .replace(",arousal", ",arousal")
            )
        ),
    ),
    OddCorpus("empty_lines", table(lambda c: c.table(end="\n\n"))),
    OddCorpus("no_last_line_end", table(lambda c: c.table().rstrip())),
    OddCorpus("spaces_around", rows(lambda r: [(f" {a} ", f" {b}", c) for a, b, c in r])),
    OddCorpus("utf_16", table(lambda c: c.table().encode("utf-16"))),
    OddCorpus("utf_16_without_mark", table(lambda c: c.table().encode("utf-16-le"))),
    OddCorpus("utf_32", table(lambda c: c.table().encode("utf-32")), "not text in UTF-8.*save it as CSV in UTF-8"),
    OddCorpus(
        "latin_1_header", table(lambda c: c.table().replace("arousal", "gefühl").encode("latin-1")), "not text in UTF-8"
    ),
    OddCorpus("latin_1_row", rows(lambda r: [*r, ("s1_möwe_1", "calm", "1")]), None, warning="belong to no clip"),
    OddCorpus(
        "latin_1_bytes",
        table(lambda c: c.table().replace("glad", "frohm\u00fct").encode("latin-1")),
        "not a valid table",
    ),
    OddCorpus("duplicate_ids", rows(lambda r: [*r, r[0]]), "is there twice"),
    OddCorpus(
        "missing_column",
        table(lambda c: c.table().replace("label", "lable", 1)),
        "no such column; the table has clip, lable",
    ),
    OddCorpus(
        "repeated_column", table(lambda c: c.table().replace("arousal", "label", 1)), "a column name occurs twice"
    ),
    OddCorpus("ragged_short", rows(lambda r: [*r[:3], r[3][:2], *r[4:]]), "not a valid table"),
    OddCorpus("ragged_long", rows(lambda r: [*r[:3], (*r[3], "x"), *r[4:]]), "not a valid table"),
    OddCorpus("nul_byte", rows(lambda r: [(f"{r[0][0]}\0", *r[0][1:]), *r[1:]]), "holds a NUL character"),
    OddCorpus("nul_header", table(lambda c: "\0" + c.table()), "the file is no text|no such column"),
    OddCorpus("text_for_a_number", rows(lambda r: [(*r[0][:2], "high"), *r[1:]]), "not a valid table.*high"),
    OddCorpus("infinite_number", rows(lambda r: [(*r[0][:2], "inf"), *r[1:]]), "outside 0"),
    OddCorpus("outside_the_range", rows(lambda r: [(*r[0][:2], "1.5"), *r[1:]]), r"1\.5 is outside 0 \.\. 1"),
    OddCorpus("unknown_class", rows(lambda r: [(r[0][0], "mad", r[0][2]), *r[1:]]), "mad"),
    OddCorpus("empty_file", table(lambda c: b""), "the table is empty"),
    OddCorpus("header_alone", rows(lambda r: []), "a header and no rows"),
    OddCorpus(
        "header_over_two_lines", table(lambda c: c.table().replace("label", '"la\nbel"', 1)), "goes over two lines"
    ),
    OddCorpus("no_row_for_a_clip", rows(lambda r: r[1:]), "the clip has no label"),
    OddCorpus(
        "rows_of_other_clips", rows(lambda r: [*r, ("s9_calm_1", "calm", "1")]), None, warning="belong to no clip"
    ),
    OddCorpus("no_row_fits", rows(lambda r: [(f"x{a}", b, c) for a, b, c in r]), "no row belongs to a clip"),
    OddCorpus(
        "half_a_packed_table",
        in_place(lambda p: p.write_bytes(b"\x1f\x8b\x08\x00\x00")),
        "not text in UTF-8|no such column",
    ),
    OddCorpus("folder_for_a_table", in_place(Path.mkdir), "not a regular file"),
    OddCorpus("pipe_for_a_table", in_place(os.mkfifo), "not a regular file"),
    OddCorpus("no_table", in_place(lambda p: None), "cannot be read: No such file"),
    OddCorpus("link_to_itself", in_place(lambda p: p.symlink_to(p.name)), "leads to itself"),
    OddCorpus(
        "link_out_for_a_table", in_place(lambda p: p.symlink_to("/etc/passwd")), "lies outside the corpus directory"
    ),
)

CARDS: tuple[OddCorpus, ...] = (
    OddCorpus("escape_upwards", card(**{f"{_LABEL_TABLE}file": "../labels.csv"}), "inside the corpus directory"),
    OddCorpus("escape_absolute", card(**{f"{_LABEL_TABLE}file": "/etc/passwd"}), "relative to the corpus directory"),
    OddCorpus(
        "escape_backslash", card(**{f"{_LABEL_TABLE}file": "..\\labels.csv"}), "relative to the corpus directory"
    ),
    OddCorpus(
        "pattern_explodes", lambda c: (card(audio__pattern=_EXPLODES)(c), c.add_clip("s1_" + "a" * 60)), "still at work"
    ),
    OddCorpus("pattern_is_none", card(audio__pattern="(?P<clip>"), "not a regular expression"),
    OddCorpus("pattern_without_clip", card(audio__pattern="audio/.*"), "needs a group"),
    OddCorpus("yaml_anchors", card_text(lambda t: _with_anchor(t, "citation: none", "licence: Apache-2.0"))),
    OddCorpus("yaml_tag", card_text(lambda t: t + "x: !!python/object/apply:os.system ['true']\n"), "not valid YAML"),
    OddCorpus("yaml_is_a_list", card_text(lambda t: "- a\n"), "not a mapping"),
    OddCorpus("unknown_key", card(clases=["calm"]), "did you mean `classes`"),
    OddCorpus("environment", card(title="${HOME}"), "takes nothing from the environment"),
    OddCorpus("range_upside_down", card(**{f"{_LABEL_TABLE}attribute_range": [1, 0]}), "lowest and the highest"),
    OddCorpus(
        "number_is_nan",
        card_text(lambda t: t.replace("validation_speakers: 1", "validation_speakers: .nan")),
        "validation_speakers",
    ),
    OddCorpus("too_many_validation_speakers", card(splits__validation_speakers=3), "none is left to train on"),
)

NAMES: tuple[OddCorpus, ...] = (
    OddCorpus("letters_of_the_world", _labelled("s1_Øre 日本語 😀_1"), is_same=False),
    OddCorpus("very_long", _labelled("s1_" + "a" * 240), is_same=False),
    OddCorpus("line_break", clip("s1_calm\n_1"), "control character"),
    OddCorpus("escape_sequence", clip("s1_\x1b[31m_1"), "control character"),
    OddCorpus(
        "not_utf_8",
        lambda c: os.close(os.open(os.fsencode(c.root / "audio") + b"/s1_\xff_1.wav", os.O_CREAT)),
        "not UTF-8",
    ),
    OddCorpus("two_writings_of_one_name", _two_writings, "two entries for one clip"),
    OddCorpus("table_in_another_writing", _table_in_another_writing, is_same=False),
    OddCorpus("case_alone", _labelled("s1_CALM_1"), is_same=False, warning="differ in case alone"),
    OddCorpus(
        "suffix_in_capitals_twice",
        lambda c: (c.root / "audio" / "s1_calm_1.WAV").write_bytes(b"x"),
        "two entries for one clip",
    ),
    OddCorpus("hidden_copies_of_macs", clip("._s1_calm_1")),
    OddCorpus("named_otherwise", clip("notes"), warning="1 files do not match"),
    OddCorpus("link_to_the_folder_itself", lambda c: (c.root / "audio" / "loop").symlink_to(c.root)),
    OddCorpus(
        "link_that_leads_nowhere",
        lambda c: (c.root / "audio" / "s1_x_1.wav").symlink_to("s1_x_1.wav"),
        "leads to itself",
    ),
    OddCorpus("link_out", _link_out, "lies outside the corpus directory"),
    OddCorpus("folder_named_like_a_clip", lambda c: (c.root / "audio" / "s1_calm_8.wav").mkdir()),
    OddCorpus("empty_folder", lambda c: [path.unlink() for path in (c.root / "audio").iterdir()], "no file matches"),
)
KINDS = tuple((kind, odd) for kind, all_odd in (("table", TABLES), ("card", CARDS), ("name", NAMES)) for odd in all_odd)
