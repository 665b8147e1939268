"""Paid replies in one SQLite file: stored the moment they arrive, never asked for twice."""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kard.errors import UserError
from kard.teacher.limits import Spent
from kard.teacher.rationale import Draft
from kard.teacher.replies import Outcome

FORMAT = 2
_TABLES = """
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY, keys TEXT NOT NULL, batch TEXT NOT NULL DEFAULT '', sent_at REAL NOT NULL, status INTEGER,
    failure TEXT NOT NULL DEFAULT 'no outcome is known: the process ended before',
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds REAL);
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT NOT NULL, attempt INTEGER NOT NULL,
    number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (name TEXT PRIMARY KEY, id TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, best INTEGER NOT NULL) WITHOUT ROWID;
"""
_DAMAGED = "damaged ({}). Move it away and run again; its replies are asked again."
_FULL = "cannot be written ({}). Free some disk space and run the same command again; the replies so far are kept."
_UNUSABLE = "cannot be used ({}). Mend that and run the same command again; the replies so far are kept."
_ADVICE = {
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR: _FULL,
    sqlite3.SQLITE_BUSY: "in use by another program ({}). Wait for it and run the same command again.",
}


class ReplyCache:
    """The attempts of all runs that share a file, each written before sending and completed by its outcome, and the texts.

    An attempt that was cut off (``kill -9``) keeps the tokens that were reserved for it: the endpoint may charge them.

    Args:
        path: The SQLite file, made if it is missing. It is in WAL mode, so that a killed process leaves it whole. Beside it,
            while replies are under way, is a file ``.spare`` of reserved space.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._spare = path.with_name(f"{path.name}.spare")
        self._has_spare = False
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Where an event loop runs already, one thread opens the file and another one asks.
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            found = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, FORMAT):
                raise UserError(
                    f"{path}: written in format {found}, this version reads {FORMAT}. Use the version that wrote it."
                )
            self._connection.executescript(_TABLES + f"PRAGMA user_version={FORMAT};")

    def _run(self, statement: str, *values: object) -> list[Any]:
        with self._explained():
            return self._connection.execute(statement, values).fetchall()

    def begin(self, keys: Sequence[str], most: Spent, batch: str = "") -> int:
        """Note that a request is about to be sent, and the most that it can cost; returns the attempt's number.

        Args:
            keys: What its texts will be stored under; more than one where several texts are asked for at once.
            most: The most that it can cost.
            batch: Name of the batch that it is a line of.
        """
        self._run(
            "INSERT INTO attempts (keys, batch, sent_at, prompt_tokens, completion_tokens) VALUES (?, ?, ?, ?, ?)",
            *(" ".join(keys), batch, time.time(), most.prompt_tokens, most.completion_tokens),
        )
        [(attempt,)] = self._run("SELECT last_insert_rowid()")
        return attempt

    def finish(self, attempt: int, keys: Sequence[str], outcome: Outcome, cost: Spent) -> None:
        """Store the outcome of an attempt; texts beyond the keys are left out.

        Raises:
            UserError: It cannot be stored, or not without the reserved space (`set_aside`), which is given up for it then.
        """
        try:
            self._store(attempt, keys, outcome, cost)
        except UserError:
            if self._has_spare:
                self._give_up_spare()
                self._store(attempt, keys, outcome, cost)
            raise

    def _store(self, attempt: int, keys: Sequence[str], outcome: Outcome, cost: Spent) -> None:
        with self.together():
            self._run(
                "UPDATE attempts SET status = ?, failure = ?, prompt_tokens = ?, completion_tokens = ?, seconds = ? "
                "WHERE id = ?",
                *(outcome.status, outcome.failure, cost.prompt_tokens, cost.completion_tokens),
                *(round(outcome.seconds, 4), attempt),
            )
            for number, (key, (text, reason)) in enumerate(zip(keys, outcome.replies, strict=False)):
                row = (key, text, reason, attempt, number)
                self._run("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?)", *row)

    def set_aside(self, size: int) -> None:
        """Reserve `size` bytes of the disk, once, so that replies under way are not lost when it is full."""
        if not self._has_spare:
            with self._explained():
                self._spare.write_bytes(bytes(size))
            self._has_spare = True

    def _give_up_spare(self) -> None:
        self._has_spare = False
        with self._explained():
            self._spare.unlink(missing_ok=True)

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is written inside becomes visible, and safe from a kill, at once."""
        if self._connection.in_transaction:
            yield
            return
        with self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:
                yield

    def has(self, key: str) -> bool:
        """Whether the reply to a request has arrived."""
        return bool(self._run("SELECT 1 FROM replies WHERE key = ?", key))

    def reply(self, key: str) -> Draft | None:
        """The reply to a request, or None where none has arrived yet; the first of several from one request has its usage."""
        rows = self._run(
            "SELECT text, finish_reason, number, prompt_tokens, completion_tokens, seconds "
            "FROM replies JOIN attempts ON attempts.id = attempt WHERE key = ?",
            key,
        )
        if not rows:
            return None
        text, reason, number, *usage = rows[0]
        names = ("prompt_tokens", "completion_tokens", "seconds")
        return Draft(text, reason, usage={} if number else dict(zip(names, usage, strict=True)))

    def verdict(self, key: str) -> int | None:
        """Which choice a verifier ranked first, or None where it was not asked yet."""
        rows = self._run("SELECT best FROM verdicts WHERE key = ?", key)
        return rows[0][0] if rows else None

    def keep_verdicts(self, verdicts: Iterable[tuple[str, int]]) -> None:
        """Store what a verifier ranked first, by key."""
        with self.together():
            for verdict in verdicts:
                self._run("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", *verdict)

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

    def spent(self) -> Spent:
        """What was sent and used so far, over all runs."""
        tokens = "coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0)"
        [row] = self._run(f"SELECT count(*), {tokens} FROM attempts")
        return Spent(*row)

    def close(self) -> None:
        """Close the file; everything is in it already."""
        self._connection.close()
        if self._has_spare:
            self._give_up_spare()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            advice = _ADVICE.get(error.sqlite_errorcode & 0xFF, _UNUSABLE)
            raise UserError(f"{self.path}: {advice.format(error)}") from error
        except OSError as error:
            advice = _FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else _UNUSABLE
            raise UserError(f"{self.path}: {advice.format(error.strerror)}") from error
