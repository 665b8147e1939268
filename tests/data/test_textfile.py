"""Users' text files: unpacked, decoded, bounded; what is wrong names file and line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections import Counter

import pytest

from kard.data import textfile
from kard.data.textfile import cleaned, json_rows, numbered_lines, read_text
from kard.errors import UserError

ROWS = '{"a": 1}\n{"a": "é"}\n'


def zstd(content: bytes) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.compress(content, codec="zstd", asbytes=True)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_packed_and_marked_files_are_read(tmp_path, pack, encoding):
    path = tmp_path / "rows.jsonl"  # it is the bytes that say how it is packed
    path.write_bytes(pack(ROWS.encode(encoding)))
    assert list(json_rows(path)) == [(1, {"a": 1}), (2, {"a": "é"})]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('[\n {"a": 1},\n {"a":\n 2}\n]\n', [2, 3]),
        ('\n[{"a": 1}, {"a": 2}]', [2, 2]),
        ('{\n"a": 1\n}\n{\n"a": 2\n}', [1, 4]),
        ('\ufeff{"a": 1}\r\n\r\n\ufeff{"a": 2}\r\n', [1, 3]),
        ('{"a": 1}\r{"a": 2}\r', [1, 2]),
    ],
)
def test_objects_are_found_wherever_lines_end(tmp_path, text, lines):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8", newline="")
    assert list(json_rows(path)) == [(line, {"a": number}) for number, line in enumerate(lines, start=1)]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"ok\nCaf\xe9 in N\xeemes", r"a\.txt:2: not UTF-8 \(looks like Windows-1252: byte 0xe9 for 'é'\)\. Save"),
        ("ok\nчай растёт".encode("cp1251"), r"a\.txt:2: not UTF-8 \(byte 0xf7"),
        ("Tea grows".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (b"\xff\xfeT", r"a\.txt: not UTF-16, as its first bytes say"),
        (b"PK\x03\x04rest", "is a zip archive or an Office file"),
        (gzip.compress(b"tea" * 100, mtime=0)[:-9], r"a\.txt: cannot be read \(Compressed file ended"),
        (zstd(b"tea" * 100)[:-3], r"a\.txt: cannot be read \("),
        (b"\x28\xb5\x2f\xfd" + b"none" * 9, r"a\.txt: cannot be read \(ZSTD"),
        (b"[1, 2]", r"a\.txt:1: a int, not an object"),
        (b'[{"a": 1}', "the array does not end"),
        (b'[{"a": 1}] {}', r"a\.txt:1: something stands behind the JSON array"),
        (b'[\n{"a": 1},\n{"a" 2}]', r"a\.txt:3: not valid JSON"),
        (b'[{"a": 1}, {"a": "b}]', r"a\.txt:1: not valid JSON \(Unterminated string"),
    ],
)
def test_what_is_no_text_or_no_row_is_named(tmp_path, content, complaint):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        list(json_rows(path))


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_array_is_read_a_piece_at_a_time(tmp_path, monkeypatch, indent, end):
    rows = [{"a": number, "b": 'é\n"]}{' * number, "c": [None, True, -1.5e9]} for number in range(30)]
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(rows, indent=indent).replace("\n", end).encode())
    whole = list(json_rows(path))
    assert [row for _, row in whole] == rows
    monkeypatch.setattr(textfile, "_BLOCK", 7)
    assert list(json_rows(path)) == whole
    monkeypatch.setattr(textfile, "DOCUMENT_BYTES", 100)  # less than the array, less than its last objects
    with pytest.raises(UserError, match=r"a\.json:\d+: the object: holds more than"):
        list(json_rows(path))


def test_what_is_too_large_stops_at_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(textfile, "DOCUMENT_BYTES", 1000)
    path = tmp_path / "a.txt"
    path.write_bytes(gzip.compress(b"ok\n" + b"x" * 10_000))
    with pytest.raises(UserError, match=r"a\.txt:2: the line: holds more than"):
        list(numbered_lines(path))
    with pytest.raises(UserError, match=r"a\.txt: holds more than"):
        read_text(path, 1000)


def test_what_no_text_can_hold_is_taken_out_and_counted():
    found: Counter[str] = Counter()
    assert cleaned({"a\0": ["b\ud83d", "ok é", 1, None, "\U0001f600"]}, found) == {
        "a": ["b\ufffd", "ok é", 1, None, "\U0001f600"]
    }
    assert found == {"NUL": 1, "half surrogate pair": 1}
