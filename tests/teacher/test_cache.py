"""The cache of paid replies: whole after a kill, never silent about damage."""

import sqlite3
from contextlib import suppress

import pytest

from kard.errors import UserError
from kard.teacher.cache import ReplyCache
from kard.teacher.limits import Spent
from kard.teacher.rationale import Draft
from kard.teacher.replies import Outcome

MOST = Spent(1, 50, 60)
UNPAID = Spent(1, 0, 0)


def answered(cache, key, *replies, cost=UNPAID, **outcome):
    """One attempt from its beginning to its outcome."""
    cache.finish(cache.begin([key], MOST), [key], Outcome(replies, cost=cost, **outcome), cost)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "räume mit leer" / "replies.sqlite"


def test_a_reply_comes_back_as_it_was(path):
    cache = ReplyCache(path)
    answered(cache, "k", ("Wärme\nsteigt.", "stop"), cost=Spent(1, 12, 3), seconds=0.25)
    cache.close()
    again = ReplyCache(path)
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "seconds": 0.25}
    assert again.reply("k") == Draft("Wärme\nsteigt.", "stop", usage=usage)
    assert again.has("k")
    assert again.reply("other") is None
    assert not again.has("other")


def test_several_texts_of_one_request_are_one_attempt_and_the_first_has_its_usage(path):
    cache = ReplyCache(path)
    keys = ["a", "b", "c"]
    two = Outcome((("one", "stop"), ("two", "length")), cost=Spent(1, 10, 6))
    cache.finish(cache.begin(keys, MOST), keys, two, two.cost)
    assert cache.spent() == Spent(1, 10, 6)
    assert cache.reply("a").usage["completion_tokens"] == 6
    assert cache.reply("b") == Draft("two", "length")
    assert not cache.has("c")


def test_a_reply_that_is_there_stays_as_it_is(path):
    cache = ReplyCache(path)
    answered(cache, "k", ("first", "stop"))
    answered(cache, "k", ("second", "stop"))
    assert cache.reply("k").text == "first"
    assert cache.spent().requests == 2


def test_what_is_written_together_is_there_as_a_whole_or_not_at_all(path):
    cache = ReplyCache(path)
    with suppress(RuntimeError), cache.together():
        answered(cache, "k", ("text", "stop"))
        raise RuntimeError
    assert not cache.has("k")
    assert cache.spent() == Spent()


def test_verdicts_are_kept(path):
    cache = ReplyCache(path)
    cache.keep_verdicts([("k", 2), ("l", 0)])
    cache.keep_verdicts([("k", 1)])
    assert [cache.verdict(key) for key in "klm"] == [1, 0, None]


def test_a_failed_attempt_is_stored_but_answers_nothing(path):
    cache = ReplyCache(path)
    answered(cache, "k", failure="503 overloaded", status=503)
    assert cache.reply("k") is None
    answered(cache, "k", ("text", "stop"), status=200)
    assert cache.reply("k").text == "text"
    rows = sqlite3.connect(path).execute("SELECT status, failure FROM attempts ORDER BY id").fetchall()
    assert rows == [(503, "503 overloaded"), (200, "")]


def test_spending_counts_failures_and_attempts_that_were_cut_off(path):
    cache = ReplyCache(path)
    assert cache.spent() == Spent()
    answered(cache, "a", ("text", "stop"), cost=Spent(1, 10, 5))
    answered(cache, "b", failure="503")
    cache.begin(["c"], MOST)
    assert cache.spent() == Spent(requests=3, prompt_tokens=60, completion_tokens=65)


def test_the_file_survives_a_kill_and_can_be_read_meanwhile(path):
    cache = ReplyCache(path)
    cache.begin(["k"], MOST)
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
    answered(cache, "k", ("paid for", "stop"))
    cache._connection.execute("PRAGMA max_page_count=12")
    with pytest.raises(UserError, match="disk space"):
        answered(cache, "l", ("long " * 50_000, "stop"))
    cache.close()
    assert ReplyCache(path).reply("k").text == "paid for"


def test_batches_are_noted_named_found_again_and_closed(path):
    cache = ReplyCache(path)
    for name in ("first", "second"):
        cache.open_batch(name)
        cache.begin([f"{name} key"], MOST, name)
    cache.name_batch("first", "batch_1")
    assert cache.open_batches() == [("first", "batch_1"), ("second", "")]
    [(key, (attempt, most))] = cache.attempts_of("first").items()
    assert most == MOST
    cache.finish(attempt, [key], Outcome(failure="expired"), UNPAID)
    cache.close_batch("first")
    assert cache.attempts_of("first") == {}
    assert cache.failures() == {"first key": ["expired"]}
    cache.forget_batch("second")
    assert cache.open_batches() == []
    assert cache.spent() == UNPAID
