"""Paid replies in one SQLite file: stored the moment they arrive, never asked for twice."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kard.errors import UserError
from kard.teacher.limits import LARGEST_COUNT, Spent

FORMAT = 2
_TABLES = """
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY,
    keys TEXT NOT NULL,
    batch TEXT NOT NULL DEFAULT '',
    sent_at REAL NOT NULL,
    status INTEGER,
    failure TEXT NOT NULL DEFAULT 'no outcome is known: the process ended before',
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    seconds REAL
);
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY,
    text TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    number INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (name TEXT PRIMARY KEY, id TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, best INTEGER NOT NULL) WITHOUT ROWID;
"""
_DAMAGED = "damaged ({}). Move it away and run again; its replies are asked again."
_FULL = "cannot be written ({}). Free some disk space and run the same command again; the replies so far are kept."
_TOLD = {
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR: _FULL,
    sqlite3.SQLITE_BUSY: "in use by another program ({}). Wait for it and run the same command again.",
}
_UNTOLD = "cannot be used ({}). Mend that and run the same command again; the replies so far are kept."


@dataclass(frozen=True)
class Outcome:
    """What one attempt gave: texts, or a failure.

    Attributes:
        replies: Each text as the model wrote it, and why the model stopped, in the endpoint's words.
        failure: Why there is no usable text; empty where there is one.
        status: HTTP status, or None where there was no response.
        cost: What is to be paid for it; None if that is not known, or to be counted from `tokens`.
        tokens: Tokens in and out as the endpoint counts them, be it true or not; None where it does not.
        seconds: From sending to the end of the response.
        retry_after: Seconds that the endpoint asks to wait.
        hopeless: Whether trying again, or asking anything else, is pointless.
    """

    replies: tuple[tuple[str, str], ...] = ()
    failure: str = ""
    status: int | None = None
    cost: Spent | None = None
    tokens: tuple[int | None, int | None] = (None, None)
    seconds: float = 0.0
    retry_after: float | None = None
    hopeless: bool = False


@dataclass(frozen=True)
class Reply:
    """A stored text.

    Attributes:
        text: The rationale as the model wrote it.
        finish_reason: Why the model stopped, in the endpoint's words.
        usage: Tokens and seconds of its request; empty for all but the first text of a request.
    """

    text: str
    finish_reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)


class ReplyCache:
    """The attempts of all runs that share a file, each written before sending and completed by its outcome, and the texts.

    An attempt that was cut off (``kill -9``) keeps the tokens that were reserved for it: the endpoint may charge them.

    Args:
        path: The SQLite file, made if it is missing. It is in WAL mode, so that a killed process leaves it whole. Beside it,
            while replies are under way, is a file ``.spare`` of reserved space.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._spare_path = path.with_name(f"{path.name}.spare")
        self._spare: int | None = None
        self._spared = 0
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=30)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            found = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, FORMAT):
                raise UserError(
                    f"{path}: written in format {found}, this version reads {FORMAT}. Use the version that wrote it."
                )
            self._connection.executescript(_TABLES + f"PRAGMA user_version={FORMAT};")

    def begin(self, keys: Sequence[str], most: Spent, batch: str = "") -> int:
        """Note that a request is about to be sent, and the most that it can cost; returns the attempt's number.

        Args:
            keys: What its texts will be stored under; more than one where several texts are asked for at once.
            most: The most that it can cost.
            batch: Name of the batch that it is a line of.
        """
        row = (" ".join(keys), batch, time.time(), most.prompt_tokens, most.completion_tokens)
        with self._explained():
            cursor = self._connection.execute(
                "INSERT INTO attempts (keys, batch, sent_at, prompt_tokens, completion_tokens) VALUES (?, ?, ?, ?, ?)",
                row,
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def finish(self, attempt: int, keys: Sequence[str], outcome: Outcome, cost: Spent) -> None:
        """Store the outcome of an attempt; texts beyond the keys are left out.

        Raises:
            UserError: It cannot be stored. What was paid for is in the reserved space then, if there is any (`set_aside`).
        """
        try:
            self._store(attempt, keys, outcome, cost)
        except UserError:
            self._spare_row({"attempt": attempt, "keys": keys, "outcome": asdict(outcome), "cost": asdict(cost)})
            raise

    def _store(self, attempt: int, keys: Sequence[str], outcome: Outcome, cost: Spent) -> None:
        status = (
            outcome.status,
            outcome.failure,
            cost.prompt_tokens,
            cost.completion_tokens,
            round(outcome.seconds, 4),
        )
        texts = zip(keys, outcome.replies, strict=False)
        with self._explained(), self.together():
            self._connection.execute(
                "UPDATE attempts SET status = ?, failure = ?, prompt_tokens = ?, completion_tokens = ?, seconds = ? "
                "WHERE id = ?",
                (*status, attempt),
            )
            self._connection.executemany(
                "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?)",
                [(key, text, reason, attempt, number) for number, (key, (text, reason)) in enumerate(texts)],
            )

    def set_aside(self, size: int) -> None:
        """Reserve disk space for replies, so that those under way are not lost when the disk is full.

        Args:
            size: In bytes.
        """
        if self._spare is None:
            self.take_in()
            with self._explained():
                self._spare = os.open(self._spare_path, os.O_RDWR | os.O_CREAT, 0o644)
                os.pwrite(self._spare, bytes(size), 0)
                os.fsync(self._spare)

    def _spare_row(self, row: dict[str, Any]) -> None:
        if self._spare is not None:
            with self._explained():
                self._spared += os.pwrite(self._spare, b"\n" + json.dumps(row).encode(), self._spared)
                os.fsync(self._spare)

    def take_in(self) -> None:
        """Store what an earlier run could put into the reserved space only."""
        if not self._spare_path.exists():
            return
        with self._explained(), self.together():
            for line in self._spare_path.read_bytes().rstrip(b"\0").splitlines():
                with suppress(json.JSONDecodeError):  # the process died while it wrote the last one
                    self._take_in(json.loads(line))
        self._spare_path.unlink()

    def _take_in(self, row: dict[str, Any]) -> None:
        outcome, cost = Outcome(**row["outcome"]), Spent(**row["cost"])
        query = "SELECT 1 FROM attempts WHERE id = ? AND keys = ?"
        known = self._run(query, row["attempt"], " ".join(row["keys"]))
        self._store(row["attempt"] if known else self.begin(row["keys"], cost), row["keys"], outcome, cost)

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is written inside becomes visible, and safe from a kill, at once."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN IMMEDIATE")
        with self._connection:
            yield

    def has(self, key: str) -> bool:
        """Whether the reply to a request has arrived."""
        with self._explained():
            return bool(self._connection.execute("SELECT 1 FROM replies WHERE key = ?", (key,)).fetchone())

    def reply(self, key: str) -> Reply | None:
        """The reply to a request, or None where none has arrived yet."""
        query = (
            "SELECT text, finish_reason, number, prompt_tokens, completion_tokens, seconds "
            "FROM replies JOIN attempts ON attempts.id = attempt WHERE key = ?"
        )
        with self._explained():
            row = self._connection.execute(query, (key,)).fetchone()
        if row is None:
            return None
        text, reason, number, *usage = row
        names = ("prompt_tokens", "completion_tokens", "seconds")
        return Reply(text, reason, {} if number else dict(zip(names, usage, strict=True)))

    def verdict(self, key: str) -> int | None:
        """Which choice a verifier ranked first, or None where it was not asked yet."""
        with self._explained():
            row = self._connection.execute("SELECT best FROM verdicts WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def keep_verdicts(self, verdicts: Iterable[tuple[str, int]]) -> None:
        """Store what a verifier ranked first, by key."""
        with self._explained(), self.together():
            self._connection.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", verdicts)

    def open_batch(self, name: str) -> None:
        """Note that a batch is about to be submitted."""
        self._run("INSERT INTO batches (name) VALUES (?)", name)

    def name_batch(self, name: str, identity: str) -> None:
        """Note the provider's id of a batch."""
        self._run("UPDATE batches SET id = ? WHERE name = ?", identity, name)

    def close_batch(self, name: str) -> None:
        """Note that all of a batch is stored."""
        self._run("UPDATE batches SET done = 1 WHERE name = ?", name)

    def forget_batch(self, name: str) -> None:
        """Take out a batch that never reached the provider."""
        with self.together():
            self._run("DELETE FROM attempts WHERE batch = ?", name)
            self.close_batch(name)

    def open_batches(self) -> list[tuple[str, str]]:
        """Name and id of the batches that are under way; a submission that was cut off has no id."""
        return self._run("SELECT name, id FROM batches WHERE NOT done")

    def attempts_of(self, batch: str) -> dict[str, tuple[int, Spent]]:
        """Attempts of a batch that have no outcome yet and the most that each can cost, by key."""
        query = "SELECT keys, id, prompt_tokens, completion_tokens FROM attempts WHERE batch = ? AND seconds IS NULL"
        return {key: (attempt, Spent(1, *tokens)) for key, attempt, *tokens in self._run(query, batch)}

    def failures(self) -> dict[str, list[str]]:
        """What went wrong with each request of a batch, in order, by key."""
        found: dict[str, list[str]] = {}
        query = (
            "SELECT keys, failure FROM attempts WHERE batch != '' AND seconds IS NOT NULL AND failure != '' ORDER BY id"
        )
        for key, failure in self._run(query):
            found.setdefault(key, []).append(failure)
        return found

    def _run(self, statement: str, *values: str | int) -> list[Any]:
        with self._explained():
            return self._connection.execute(statement, values).fetchall()

    def spent(self) -> Spent:
        """What was sent and used so far, over all runs."""
        # Earlier versions stored whatever number an endpoint gave.
        tokens = ", ".join(
            f"coalesce(sum(min(max({name}, 0), {LARGEST_COUNT})), 0)" for name in ("prompt_tokens", "completion_tokens")
        )
        with self._explained():
            return Spent(*self._connection.execute(f"SELECT count(*), {tokens} FROM attempts").fetchone())

    def close(self) -> None:
        """Close the file; everything is in it already, or in the reserved space."""
        self._connection.close()
        if self._spare is not None:
            os.close(self._spare)
            if not self._spared:
                self._spare_path.unlink()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            told = _TOLD.get(error.sqlite_errorcode & 0xFF, _UNTOLD)
            raise UserError(f"{self.path}: {told.format(error)}") from error
        except OSError as error:
            told = _FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else _UNTOLD
            raise UserError(f"{self.path}: {told.format(error.strerror)}") from error
