"""Files of a run: JSON that is written whole, JSONL, append-only logs, and hashes that stand for contents."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from kard.artifacts.damage import damaged
from kard.errors import UserError

_LARGE_FILE = 256 * 2**20


def hash_of(value: Any) -> str:
    """Hex digest of a JSON-like value, the same on every machine and in every session."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def hash_of_file(path: Path) -> str:
    """Hex digest of a file's bytes, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity_of_file(path: Path) -> Any:
    """What stands for a file's content: its hash; a large one counts by its size and time, so that no dump is read twice."""
    state = path.stat()
    return [state.st_size, state.st_mtime_ns] if state.st_size > _LARGE_FILE else hash_of_file(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all (temporary file, then rename)."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=False, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path, advice: str = "") -> Any:
    """Read a JSON file that `kard` wrote; a damaged one is an error that names its stage, or says `advice`."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise damaged(path, _unreadable(error), advice) from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"is damaged ({error})", advice) from error


def read_marker(path: Path, form: int) -> dict[str, Any]:
    """The file by which a run or a sweep is known.

    Raises:
        UserError: It is damaged. Nothing else is lost by that, paid replies least of all.
    """
    advice = f'Put {{"format": {form}}} into it, and run again: nothing else is lost.'
    found = read_json(path, advice)
    if not isinstance(found, dict) or not isinstance(found.get("format"), int):
        raise damaged(path, "is damaged (it names no format)", advice)
    return found


def _unreadable(error: OSError) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, UTF-8."""
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file that `kard` wrote itself (users' files go through the checking readers)."""
    done = 0
    try:
        with open(path, encoding="utf-8") as file:
            for done, line in enumerate(file, start=1):  # noqa: B007 - for the message
                if line.strip():
                    yield json.loads(line)
    except OSError as error:
        raise damaged(path, _unreadable(error)) from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"is damaged (line {max(1, done)}: {error})") from error


class Log:
    """Append-only JSONL that survives being killed: each row is flushed, a torn last line is cut off on reading.

    A last line that is whole but for its end of line is kept: it may be somebody's own.

    Args:
        path: The file; made on the first append.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def read(self) -> list[dict[str, Any]]:
        """All whole rows; a last line that was being written when the process died is removed from the file.

        Raises:
            UserError: Another line is no row. Nothing is removed then: the file may be somebody else's.
        """
        if not self.path.exists():
            return []
        rows, good_bytes = [], 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.startswith(b"{") and not line.endswith(b"\n") and json_or_none(line) is None:
                    break
                rows.append(self._row(line, number))
                good_bytes += len(line)
        if good_bytes < self.path.stat().st_size:
            os.truncate(self.path, good_bytes)
        return rows

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        row = json_or_none(line)
        if not isinstance(row, dict):
            raise UserError(
                f"{self.path}:{number}: damaged, or not written by kard. Remove the line, or name another file."
            )
        return row

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows and hand them to the operating system before returning."""
        if self._file is None:
            self._file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 - stays open between appends
            if size := self._file.seek(0, os.SEEK_END):
                self._file.write("" if os.pread(self._file.fileno(), 1, size - 1) == b"\n" else "\n")
        self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def json_or_none(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
