"""Paid replies in one SQLite file: stored the moment they arrive, never asked for twice."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kard.errors import UserError
from kard.teacher.limits import Spent

FORMAT = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    sent_at REAL NOT NULL,
    answered INTEGER NOT NULL DEFAULT 0,
    status INTEGER,
    text TEXT NOT NULL DEFAULT '',
    finish_reason TEXT NOT NULL DEFAULT '',
    failure TEXT NOT NULL DEFAULT 'no outcome is known: the process ended before',
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    seconds REAL
);
CREATE INDEX IF NOT EXISTS answered_attempts ON attempts (key) WHERE answered;
"""


@dataclass(frozen=True)
class Reply:
    """What came back for one request.

    Attributes:
        text: The rationale as the model wrote it.
        finish_reason: Why the model stopped, in the endpoint's words.
        failure: Why there is no usable text; empty where there is one.
        status: HTTP status, or None where there was no response.
        prompt_tokens: Tokens in; the most that it can have been where the endpoint did not say.
        completion_tokens: The same for tokens out.
        seconds: From sending to the end of the response.
    """

    text: str = ""
    finish_reason: str = ""
    failure: str = ""
    status: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class ReplyCache:
    """The attempts of all runs that share a file; one row each, written before sending and completed by its outcome.

    An attempt that was cut off (``kill -9``) keeps the tokens that were reserved for it: the endpoint may charge them.

    Args:
        path: The SQLite file, made if it is missing. It is in WAL mode, so that a killed process leaves it whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._explained():
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=30)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            found = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, FORMAT):
                raise UserError(
                    f"{path}: written in format {found}, this version reads {FORMAT}. Use the version that wrote it."
                )
            self._connection.executescript(_TABLE + f"PRAGMA user_version={FORMAT};")

    def begin(self, key: str, most: Spent) -> int:
        """Note that a request is about to be sent, and the most that it can cost; returns the attempt's number."""
        with self._explained():
            cursor = self._connection.execute(
                "INSERT INTO attempts (key, sent_at, prompt_tokens, completion_tokens) VALUES (?, ?, ?, ?)",
                (key, time.time(), most.prompt_tokens, most.completion_tokens),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def finish(self, attempt: int, reply: Reply) -> None:
        """Store the outcome of an attempt."""
        with self._explained():
            self._connection.execute(
                "UPDATE attempts SET answered = ?, status = ?, text = ?, finish_reason = ?, failure = ?, "
                "prompt_tokens = ?, completion_tokens = ?, seconds = ? WHERE id = ?",
                (
                    not reply.failure,
                    reply.status,
                    reply.text,
                    reply.finish_reason,
                    reply.failure,
                    reply.prompt_tokens,
                    reply.completion_tokens,
                    round(reply.seconds, 4),
                    attempt,
                ),
            )

    def reply(self, key: str) -> Reply | None:
        """The reply to a request, or None where none has arrived yet."""
        with self._explained():
            row = self._connection.execute(
                "SELECT text, finish_reason, failure, status, prompt_tokens, completion_tokens, seconds FROM attempts "
                "WHERE key = ? AND answered ORDER BY id LIMIT 1",
                (key,),
            ).fetchone()
        return Reply(*row) if row else None

    def spent(self) -> Spent:
        """What was sent and used so far, over all runs."""
        query = "SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0) FROM attempts"
        with self._explained():
            return Spent(*self._connection.execute(query).fetchone())

    def close(self) -> None:
        """Close the file; everything is in it already."""
        self._connection.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = error.sqlite_errorcode & 0xFF
            if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise UserError(
                    f"{self.path}: cannot be written ({error}). Free some disk space and run the same command again; "
                    "the replies so far are kept."
                ) from error
            if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise UserError(
                    f"{self.path}: damaged ({error}). Move it away and run again; its replies are asked again."
                ) from error
            raise
