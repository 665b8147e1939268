"""The cache of paid replies: whole after a kill, never silent about damage."""

import sqlite3

import pytest

from kard.errors import UserError
from kard.teacher.cache import Reply, ReplyCache
from kard.teacher.limits import Spent

MOST = Spent(1, 50, 60)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "räume mit leer" / "replies.sqlite"


def test_a_reply_comes_back_as_it_was(path):
    reply = Reply("Wärme\nsteigt.", "stop", "", 200, 12, 3, 0.25)
    cache = ReplyCache(path)
    cache.finish(cache.begin("k", MOST), reply)
    cache.close()
    again = ReplyCache(path)
    assert again.reply("k") == reply
    assert again.reply("other") is None


def test_a_failed_attempt_is_stored_but_answers_nothing(path):
    cache = ReplyCache(path)
    cache.finish(cache.begin("k", MOST), Reply(failure="503 overloaded", status=503))
    assert cache.reply("k") is None
    cache.finish(cache.begin("k", MOST), Reply("text", status=200))
    assert cache.reply("k").text == "text"
    rows = sqlite3.connect(path).execute("SELECT answered, status, failure FROM attempts ORDER BY id").fetchall()
    assert rows == [(0, 503, "503 overloaded"), (1, 200, "")]


def test_spending_counts_failures_and_attempts_that_were_cut_off(path):
    cache = ReplyCache(path)
    assert cache.spent() == Spent()
    cache.finish(cache.begin("a", MOST), Reply("text", prompt_tokens=10, completion_tokens=5))
    cache.finish(cache.begin("b", MOST), Reply(failure="503"))
    cache.begin("c", MOST)
    assert cache.spent() == Spent(requests=3, prompt_tokens=60, completion_tokens=65)


def test_the_file_survives_a_kill_and_can_be_read_meanwhile(path):
    cache = ReplyCache(path)
    cache.begin("k", MOST)
    other = sqlite3.connect(path)
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert other.execute("SELECT count(*) FROM attempts").fetchone() == (1,)


def test_a_file_that_is_no_database_is_an_error(path):
    path.parent.mkdir()
    path.write_text("this was never a database, whatever its name says " * 100, encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        ReplyCache(path)


def test_another_format_is_an_error(path):
    ReplyCache(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(UserError, match="format 99"):
        ReplyCache(path)


def test_a_full_disk_is_one_sentence_and_loses_nothing(path):
    cache = ReplyCache(path)
    cache.finish(cache.begin("k", MOST), Reply("paid for"))
    cache._connection.execute("PRAGMA max_page_count=4")
    with pytest.raises(UserError, match="disk space"):
        cache.finish(cache.begin("l", MOST), Reply("long " * 10_000))
    cache.close()
    assert ReplyCache(path).reply("k").text == "paid for"
