"""Text files of users: packed or not, in UTF-8 or UTF-16, of bounded size; whatever is wrong names file and line."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from kard.errors import UserError, missing_package

# The most that one document, one line, or one JSON array may hold: it is in memory as a whole.
DOCUMENT_BYTES = 64 * 2**20
MARKUP_BYTES = 16 * 2**20  # of HTML, Markdown or a DOCX's XML, whose trees take many times as much
# How the names of files end that are unpacked on reading; it is their first bytes that say how.
PACKED = (".gz", ".bz2", ".xz", ".zst")
_UNPACKED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_HEAD = 4096
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NOT_TEXT = {b"PK\x03\x04": "a zip archive or an Office file", b"%PDF-": "a PDF", b"7z\xbc\xaf": "a 7z archive"}
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_BETWEEN = re.compile(r"[^\s,]")


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked where its first bytes say gzip, bzip2, xz or Zstandard, whatever its name.

    Raises:
        UserError: It is not there or no file, may not be read, is damaged, or needs a package that is not installed.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. Mend the path; in a recipe, a relative one is meant from its folder.")
    try:
        with open(path, "rb") as file:
            head = file.read(8)
        with _unpacked(path, head) as file:
            yield file
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Mend or remove the file.") from error


def _unpacked(path: Path, head: bytes) -> BinaryIO:
    for begin, unpacked in _UNPACKED.items():
        if head.startswith(begin):
            return cast(BinaryIO, unpacked(path, "rb"))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        try:
            import pyarrow
        except ImportError as error:
            raise missing_package(error, f"{path}: Zstandard") from error
        return cast(BinaryIO, io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd")))
    return open(path, "rb")


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A file's text, unpacked and decoded: UTF-8, or UTF-16 and UTF-32 with a byte order mark. Line ends stay as they are.

    Raises:
        UserError: As `open_bytes`; or it is in another encoding, with the line and a guess which.
    """
    with open_bytes(path) as file:
        head = file.read(_HEAD)
    encoding = _encoding(path, head)
    with open_bytes(path) as file:
        try:
            yield io.TextIOWrapper(file, encoding=encoding, newline="")
        except UnicodeDecodeError as error:
            raise _wrong_encoding(path, encoding, error) from error


def _encoding(path: Path, head: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    for begin, kind in _NOT_TEXT.items():
        if head.startswith(begin):
            raise UserError(f"{path}: is {kind}, no text. Unpack it, or save the text as UTF-8.")
    if head.count(0) > len(head) // 4:
        raise UserError(f"{path}: not UTF-8 (looks like UTF-16 without a byte order mark). Save the file as UTF-8.")
    return "utf-8"


def _wrong_encoding(path: Path, encoding: str, error: UnicodeDecodeError) -> UserError:
    if encoding not in ("utf-8", "utf-8-sig"):
        return UserError(f"{path}: not {encoding.upper()}, as its first bytes say ({error.reason}). Save it as UTF-8.")
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as found:
                return UserError(f"{path}:{number}: not UTF-8 ({_guess(line, found)}). Save the file as UTF-8.")
    return UserError(f"{path}: not UTF-8 ({error.reason}). Save the file as UTF-8.")


def _guess(line: bytes, error: UnicodeDecodeError) -> str:
    """What the bytes may be: mostly ASCII and all of them characters of Windows-1252, or only which byte is wrong."""
    foreign = len(line.translate(None, bytes(range(128))))
    try:
        text = line.decode("cp1252")
    except UnicodeDecodeError:
        text = ""
    if text and text.rstrip("\r\n").replace("\t", "").isprintable() and 3 * foreign <= len(line):
        return f"looks like Windows-1252: byte 0x{line[error.start]:02x} for '{text[error.start]}'"
    return f"byte 0x{line[error.start]:02x}: {error.reason}"


def read_text(path: Path, most: int = DOCUMENT_BYTES) -> str:
    """All of a text file, its line ends made ``\\n``.

    Raises:
        UserError: As `open_text`; or it holds more than so many characters.
    """
    with open_text(path) as file:
        text = file.read(most + 1)
        if len(text) > most:
            raise too_large(str(path), most)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def too_large(where: str, most: int = DOCUMENT_BYTES) -> UserError:
    """The error for what is more than one document may hold."""
    return UserError(f"{where}: holds more than {most // 2**20} MB, the most for one document of its kind. Split it.")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1, with their line ends; byte order marks at their beginning are left out.

    Raises:
        UserError: As `open_text`; or a line holds more than `DOCUMENT_BYTES` characters.
    """
    with open_text(path) as file:
        number = 0
        while line := file.readline(DOCUMENT_BYTES + 1):
            number += 1
            if len(line) > DOCUMENT_BYTES:
                raise too_large(f"{path}:{number}: the line")
            yield number, line.lstrip("\ufeff")


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects of a JSONL file; an array of objects, and objects over several lines, are read as well.

    The objects are as they stand there: see `cleaned`.

    Raises:
        UserError: As `numbered_lines`; or something is no JSON object, with its line.
    """
    lines = ((number, line) for number, line in numbered_lines(path) if line.strip())
    for first in lines:
        if _goes_on(first[1]):
            yield from _json_objects(path)
            return
        for number, line in chain([first], lines):
            where = f"{path}:{number}"
            with _json_explained(where):
                value = json.loads(line)
            yield number, _object(value, where)


def _goes_on(line: str) -> bool:
    """Whether what begins on a line is no single object: an array, or an object that ends on a later line."""
    if line.startswith("["):
        return True
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return line.startswith("{") and error.pos >= len(line.rstrip())
    except (ValueError, RecursionError):
        return False
    return False


def _json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSON array, or objects one after the other, wherever their lines end."""
    try:
        text = read_text(path).lstrip("\ufeff")
    except UserError as error:
        raise UserError(f"{error} Or write one object a line: JSON lines have no limit.") from error
    array = text.lstrip().startswith("[")
    place, line, counted = text.find("[") + 1 if array else 0, 1, 0
    while found := _BETWEEN.search(text, place):
        place = found.start()
        line += text.count("\n", counted, place)
        counted = place
        if array and text[place] == "]":
            if text[place + 1 :].strip():
                raise UserError(f"{path}:{line}: something stands behind the JSON array. Remove it.")
            return
        with _json_explained(f"{path}:{line}"):
            value, place = json.JSONDecoder().raw_decode(text, place)
        yield line, _object(value, f"{path}:{line}")
    if array:
        raise UserError(f"{path}: not valid JSON (the array does not end). Mend the file.")


@contextmanager
def _json_explained(where: str) -> Iterator[None]:
    try:
        yield
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error.msg}, column {error.colno}). Mend the line.") from error
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, or thousands of brackets in each other.
        raise UserError(f"{where}: not readable JSON ({error}). Mend the line.") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: a {type(value).__name__}, not an object. Write one {{...}} a line.")
    return value


def cleaned(value: Any, found: Counter[str]) -> Any:
    """A text, or all texts in a list or object, without what no text can hold.

    NUL is taken out, half of a surrogate pair becomes U+FFFD; `found` counts both.
    """
    if isinstance(value, str):
        if "\0" in value:
            found["NUL"] += value.count("\0")
            value = value.replace("\0", "")
        if not value.isascii() and (halves := len(_HALF_PAIR.findall(value))):
            found["half surrogate pair"] += halves
            value = _HALF_PAIR.sub("\ufffd", value)
        return value
    if isinstance(value, list):
        return [cleaned(item, found) for item in value]
    if isinstance(value, dict):
        return {cleaned(key, found): cleaned(item, found) for key, item in value.items()}
    return value
