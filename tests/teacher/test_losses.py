"""No reply that was paid for is lost or paid twice: odd ones among many, a full disk, Ctrl-C, redirects, budgets."""

import asyncio
import random
import signal
import sqlite3

import pytest
from fault_server import completion, digest, good_answer, no_passages

from kard.errors import UserError
from kard.recipe.teacher import TeacherSection
from kard.teacher import client
from kard.teacher.cache import ReplyCache
from kard.teacher.collect import collect_rationales, why_none_is_kept
from kard.teacher.prompting import requests_of

ODD = [
    completion("As \ud83d\x00 goes."),
    completion("As it goes.", "st\ud83dop"),
    completion(None, "stop", reasoning_content="Hm."),
    completion([{"type": "text", "text": "As it goes."}]),
    {**completion("As it goes."), "usage": {"prompt_tokens": 10**30, "completion_tokens": -(10**30)}},
    {**completion("As it goes."), "usage": {"prompt_tokens": True, "completion_tokens": [1]}},
    {**completion("As it goes."), "usage": "none"},
]
ERRORS = [
    {"status": 500, "body": '{"error": ' + "[" * 200_000},
    {"status": 500, "body": {"error": {"message": "half \ud83d"}}},
    {"body": "[" * 200_000},
    {"status": 429, "headers": {"Retry-After": "1e400"}, "body": {"error": [{"message": 7}]}},
    {"status": 429, "headers": {"Retry-After": "nan"}, "body": "\x1b[2J"},
    {"status": 503, "headers": {"Retry-After": "-1"}, "body": "null"},
]


def odd_answer(body, attempt):
    chance = random.Random(digest(body))
    if attempt == 1 and chance.random() < 0.3:
        return chance.choice(ERRORS)
    return {"body": chance.choice(ODD)} if chance.random() < 0.5 else good_answer(body, attempt) | {"delay": 0.01}


def test_odd_replies_are_stored_beside_the_others(server, asking, questions, tmp_path):
    server.answer = odd_answer
    rationales = collect_rationales(questions(160), no_passages, asking(concurrency=32), 7, tmp_path / "c.sqlite")
    assert len(rationales) == 160
    assert {one.status for one in rationales} == {"kept", "error"}
    assert set(server.answered.values()) == {1}
    asked = server.received.total()
    assert collect_rationales(questions(160), no_passages, asking(), 7, tmp_path / "c.sqlite") == rationales
    assert server.received.total() == asked


@pytest.mark.parametrize("place", [0, 30])
def test_a_request_that_is_refused_for_its_own_fault_does_not_end_the_run(server, asking, questions, tmp_path, place):
    def answer(body, attempt):
        if f"number {place}?" in str(body):
            return {"status": 400, "body": {"error": {"message": "maximum context length is 512 tokens"}}}
        return good_answer(body, attempt) | {"delay": 0.02}

    server.answer = answer
    for _ in range(2):
        rationales = collect_rationales(questions(40), no_passages, asking(concurrency=4), 7, tmp_path / "c.sqlite")
        assert [r.question for r in rationales if r.status == "error"] == [f"q{place}"]
    assert server.received.total() == 41


def groups_of(questions, section):
    return [group for _, group in requests_of(questions, no_passages, section, 7)]


def test_what_is_under_way_when_the_disk_is_full_is_kept_and_not_asked_again(
    server, asking, questions, tmp_path, monkeypatch
):
    server.answer = lambda body, attempt: {"body": completion(digest(body) * 400), "delay": 0.05}
    section, path = asking(concurrency=8), tmp_path / "c.sqlite"
    groups = groups_of(questions(60), section)
    cache = ReplyCache(path)
    pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
    cache._connection.execute(f"PRAGMA max_page_count={pages + 12}")
    give_up = cache._give_up_spare

    def freed():  # the reserved space is what the disk has again
        assert path.with_name("c.sqlite.spare").stat().st_size >= 8 * section.max_tokens
        give_up()
        cache._connection.execute("PRAGMA max_page_count=1000000")

    monkeypatch.setattr(cache, "_give_up_spare", freed)
    with pytest.raises(UserError, match="Free some disk space"):
        client.ask(groups, 60, section, cache)
    cache.close()
    assert 8 <= server.answered.total() < 40
    assert not (tmp_path / "c.sqlite.spare").exists()
    collect_rationales(questions(60), no_passages, section, 7, path)
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == 60
    assert ReplyCache(path).spent().requests == server.received.total()
    assert not (tmp_path / "c.sqlite.spare").exists()


def test_nothing_is_sent_where_no_space_can_be_reserved(server, asking, questions, tmp_path):
    (tmp_path / "c.sqlite.spare").mkdir()
    with pytest.raises(UserError, match=r"c\.sqlite: cannot be used"):
        collect_rationales(questions(9), no_passages, asking(), 7, tmp_path / "c.sqlite")
    assert server.received.total() == 0


def test_what_is_under_way_at_a_ctrl_c_is_stored(server, asking, questions, tmp_path):
    def answer(body, attempt):
        if server.received.total() == 7:
            signal.raise_signal(signal.SIGINT)
        return good_answer(body, attempt) | {"delay": 0.3}

    server.answer = answer
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            collect_rationales(questions(50), no_passages, asking(concurrency=7), 7, tmp_path / "c.sqlite")
    finally:
        signal.signal(signal.SIGINT, before)
    rows = sqlite3.connect(tmp_path / "c.sqlite").execute("SELECT count(*) FROM replies").fetchone()
    assert rows[0] == server.received.total() == 7


def test_a_redirect_is_not_followed(server, asking, questions, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-4711")
    server.answer = lambda body, attempt: {"status": 307, "headers": {"Location": f"{server.url}/chat/completions"}}
    with pytest.raises(UserError, match="307 and leads to http"):
        collect_rationales(questions(9), no_passages, asking(concurrency=1), 7, tmp_path / "c.sqlite")
    assert server.received.total() == ReplyCache(tmp_path / "c.sqlite").spent().requests == 1


@pytest.mark.parametrize("asked", ["31536000", "1e300"])
def test_a_wait_is_never_longer_than_a_minute(server, asking, questions, tmp_path, monkeypatch, capsys, asked):
    server.answer = lambda body, attempt: {"status": 429, "headers": {"Retry-After": asked}, "body": {}}
    for name, value in (("RETRIES", 2), ("MAX_FAILURES", 1.0)):
        monkeypatch.setattr(client, name, value)
    section = asking()
    rationales = collect_rationales(questions(3), no_passages, section, 7, tmp_path / "c.sqlite")
    assert {one.reason for one in rationales} == {"429 {} (3 tries)"}
    assert "; it asks for " in capsys.readouterr().err


def test_where_an_event_loop_runs_already_the_teacher_is_asked_all_the_same(asking, questions, tmp_path):
    async def cell():
        return collect_rationales(questions(5), no_passages, asking(), 7, tmp_path / "c.sqlite")

    assert [one.status for one in asyncio.run(cell())] == ["kept"] * 5


@pytest.mark.parametrize("tokens", [-9000, True, 0, 2.5])
def test_no_usage_widens_a_budget(server, asking, questions, tmp_path, tokens):
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens}
    server.answer = lambda body, attempt: {"body": good_answer(body, attempt)["body"] | {"usage": usage}}
    section = asking(concurrency=32, max_usd=0.05, input_price=1.0, output_price=2.0)
    with pytest.raises(UserError, match="max_usd"):
        collect_rationales(questions(200), no_passages, section, 7, tmp_path / "c.sqlite")
    assert server.received.total() < 20


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (completion("<think>Hm", "length"), "4 truncated: raise teacher.max_tokens"),
        (completion(None, reasoning_content="Hm."), "4 error: reasoning only, no text"),
        (completion(None, "tool_calls", tool_calls=[{}]), "4 error: calls a tool"),
        (completion(""), "4 error: the reply is empty"),
        (completion("No."), "4 too_short: ask another teacher"),
    ],
)
def test_where_none_is_kept_it_is_said_why(server, asking, questions, tmp_path, body, words):
    server.answer = lambda asked, attempt: {"body": body}
    section = asking()
    rationales = collect_rationales(questions(4), no_passages, section, 7, tmp_path / "c.sqlite")
    assert why_none_is_kept(rationales, section).startswith(words)
    assert "ask a language model" not in why_none_is_kept(rationales, section)
    assert "ask a language model" in why_none_is_kept([], TeacherSection())
