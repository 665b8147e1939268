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

# The most that one document, one line, or one JSON object may hold: it is in memory as a whole.
DOCUMENT_BYTES = 64 * 2**20
MARKUP_BYTES = 16 * 2**20  # of HTML, Markdown or a DOCX's XML, whose trees take many times as much
# How the names of files end that are unpacked on reading; it is their first bytes that say how.
PACKED = (".gz", ".bz2", ".xz", ".zst")
_UNPACKED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_HEAD = 4096
_BLOCK = 2**20
_LONGEST_LITERAL = 16  # false, \\u00e9, with room
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
    with open_text(path) as file:
        array = file.read(_HEAD).lstrip("\ufeff \t\r\n").startswith("[")
    lines = ((number, line) for number, line in numbered_lines(path) if line.strip())
    for first in lines if not array else ():
        if _goes_on(first[1]):
            break
        for number, line in chain([first], lines):
            where = f"{path}:{number}"
            with _json_explained(where):
                value = json.loads(line)
            yield number, _object(value, where)
        return
    yield from _json_objects(path)


def _goes_on(line: str) -> bool:
    """Whether an object begins on a line and ends on a later one."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return line.startswith("{") and error.pos >= len(line.rstrip())
    except (ValueError, RecursionError):
        return False
    return False


def _json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSON array, or objects one after the other, wherever their lines end; no more than one is in memory."""
    with open_text(path) as file:
        text = _block(file).lstrip("\ufeff")
        array = text.lstrip().startswith("[")
        place = text.find("[") + 1 if array else 0
        line = 1 + text.count("\n", 0, place)
        while text:
            found = _BETWEEN.search(text, place)
            start = found.start() if found else len(text)
            line += text.count("\n", place, start)
            if found is None:
                text, place = _block(file), 0
                continue
            if array and text[start] == "]":
                if text[start + 1 :].strip() or file.read().strip():
                    raise UserError(f"{path}:{line}: something stands behind the JSON array. Remove it.")
                return
            with _json_explained(f"{path}:{line}"):
                value, text, start, place = _next_value(file, text, start, f"{path}:{line}")
            yield line, _object(value, f"{path}:{line}")
            line += text.count("\n", start, place)
    if array:
        raise UserError(f"{path}: not valid JSON (the array does not end). Mend the file.")


def _next_value(file: TextIO, text: str, start: int, where: str) -> tuple[Any, str, int, int]:
    """The value that begins at `start`; the text, from there on and with more of the file where it takes more; and where in it
    the value begins and ends."""
    while True:
        try:
            value, end = json.JSONDecoder().raw_decode(text, start)
            return value, text, start, end
        except json.JSONDecodeError as error:
            # Only a string that does not end, or what is at the very end, may be whole with more of the file.
            goes_on = error.msg.startswith("Unterminated") or error.pos >= len(text) - _LONGEST_LITERAL
            if goes_on and len(text) - start > DOCUMENT_BYTES:
                raise too_large(f"{where}: the object") from None
            more = _block(file, len(text) - start) if goes_on else ""
            if not more:
                raise
            text, start = text[start:] + more, 0


def _block(file: TextIO, size: int = 0) -> str:
    """So much more of a file, its line ends made ``\\n``."""
    text = file.read(max(size, _BLOCK))
    if text.endswith("\r"):
        text += file.read(1)
    return text.replace("\r\n", "\n").replace("\r", "\n")


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
