"""Whatever an endpoint sends, in any types, at any depth, becomes an outcome that can be stored and judged."""

import json
import re
from typing import get_args
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kard.data.question import Question
from kard.errors import UserError, printable
from kard.recipe.teacher import TeacherSection
from kard.teacher.cache import ReplyCache
from kard.teacher.client import check_failures, in_the_servers_words
from kard.teacher.filter import judged
from kard.teacher.limits import LARGEST_COUNT, Spent
from kard.teacher.rationale import Status
from kard.teacher.replies import hiding, readable, response_in

KEY = "sk-plan/ted+4711-0815"
MOST = Spent(1, 3264, 256)
QUESTION = Question("q", "Which is a gas?", ("iron", "oxygen"), 1)
TEXT = "Oxygen boils at -183 degrees."


def read(body, status=200, headers=None, hide=str):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return response_in(status, headers or {}, content, hide)


def of(message, finish_reason="stop", **more):
    return {"choices": [{"message": message, "finish_reason": finish_reason}], **more}


# fmt: off
names = st.sampled_from([
    "choices", "message", "content", "text", "type", "refusal", "finish_reason", "usage", "error", "code", "detail", "tool_calls"
])
texts = st.text(st.characters(codec=None), max_size=9) | st.sampled_from([
    "length", "text", "<think>", "</think>", "<|channel|>final<|message|>", "\x1b[31m", "\0", "\ud83d", KEY
])  # of them lone surrogates as well
# fmt: on
scalars = st.sampled_from([None, True, 0, -7, 10**30, 1e308, float("nan"), float("-inf")]) | texts
inner = scalars | st.lists(scalars, max_size=2) | st.dictionaries(names, scalars, max_size=2)
values = scalars | st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2)
choices = st.fixed_dictionaries(
    {"message": st.dictionaries(names, values, max_size=2) | scalars, "finish_reason": scalars}
)
usages = st.fixed_dictionaries({"prompt_tokens": scalars, "completion_tokens": scalars}) | scalars
completions = st.fixed_dictionaries({"choices": st.lists(choices | choices | inner, max_size=2), "usage": usages})
jsons = (completions | completions | values).map(lambda value: json.dumps(value).encode())
bodies = st.binary(max_size=50) | jsons | jsons | jsons
waits = st.text(max_size=20) | st.floats().map(str) | st.sampled_from(["1e400", "-3", "Mon, 99 Foo 0000"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return ReplyCache(tmp_path_factory.mktemp("fuzz") / "c.sqlite")


@settings(max_examples=2000, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(bodies, st.sampled_from([200, 200, 200, 204, 301, 400, 429, 500, 999]), waits)
def test_any_response_becomes_a_reply_or_a_failure_that_is_stored(cache, body, status, wait):
    outcome = read(body, status, {"retry-after": wait, "location": wait}, hiding(KEY))
    assert bool(outcome.replies) != bool(outcome.failure)
    assert outcome.retry_after is None or 0 < outcome.retry_after < float("inf")
    assert printable(outcome.failure) == outcome.failure
    assert KEY not in str(outcome)
    cost = outcome.cost_at_most(MOST)
    assert 0 <= cost.prompt_tokens <= LARGEST_COUNT
    assert 0 <= cost.completion_tokens <= LARGEST_COUNT
    keys = [f"{cache.spent().requests}/{number}" for number in range(len(outcome.replies))]
    cache.finish(cache.begin(keys, MOST), keys, outcome, cost)
    for key in keys:
        reply = cache.reply(key)
        [rationale] = judged(QUESTION, [reply], TeacherSection(), "tester")
        assert rationale.status in get_args(Status)
        rationale.text.encode()


@pytest.mark.parametrize("depth", [900, 200_000])
@pytest.mark.parametrize("status", [200, 500])
def test_deep_nesting_is_a_failure(depth, status):
    nested = b'{"choices": ' + b"[" * depth + b"]" * depth + b"}"
    assert read(nested, status).failure.startswith(f"{status} ")
    assert read(b'{"error": ' + nested + b"}", status).failure


@pytest.mark.parametrize(
    ("message", "finish_reason", "text", "reason"),
    [
        ({"content": [{"type": "text", "text": "Oxygen "}, {"type": "text", "text": "boils."}]}, "stop", "Oxygen boils.", "stop"),
        ({"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": TEXT}]}, "stop", TEXT, "stop"),
        ({"content": [{"type": "reasoning", "text": "Hm."}]}, "stop", "", "reasoning_only"),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "stop", "No.", "refusal"),
        ({"content": {"text": TEXT}}, "stop", TEXT, "stop"),
        ({"content": ["Oxygen ", "boils."]}, None, "Oxygen boils.", ""),
        ({"content": None, "reasoning_content": "Hm."}, "stop", "", "reasoning_only"),
        ({"content": "", "reasoning": "Hm."}, "length", "", "length"),
        ({"content": None, "tool_calls": [{"id": "1"}]}, "stop", "", "tool_calls"),
        ({"content": 5, "refusal": ["no"]}, ["stop"], "", ""),
        ({"content": "As \ud83d\ude00 and \ud83d\x00 go\x1b[31m."}, "s\ud83d", "As 😀 and \ufffd go[31m.", "s\ufffd"),
    ],
)  # fmt: skip
def test_texts_are_found_in_all_their_forms(message, finish_reason, text, reason):
    assert read(of(message, finish_reason)).replies == ((text, reason),)


def test_an_odd_choice_does_not_take_the_others_with_it():
    body = of({"content": TEXT}) | {"usage": []}
    assert read({**body, "choices": [None, 5, {"message": "no"}, *body["choices"]]}).replies == ((TEXT, "stop"),)


@pytest.mark.parametrize(
    ("tokens", "counts"),
    [
        ((200, 20), (200, 20)),
        ((5000, 900), (5000, 900)),
        ((10, 20), (3264, 20)),
        ((-200, -1), (3264, 256)),
        ((True, False), (3264, 256)),
        ((200.0, "20"), (3264, 256)),
        ((10**30, 10**9), (3264, 256)),
        ((None, [20]), (3264, 256)),
    ],
)
def test_usage_that_cannot_be_true_counts_with_the_most(tokens, counts):
    usage = dict(zip(("prompt_tokens", "completion_tokens"), tokens, strict=True))
    assert read(of({"content": TEXT * 10}, usage=usage)).cost_at_most(MOST) == Spent(1, *counts)


@pytest.mark.parametrize("value", ["inf", "nan", "1e400", "-5", "0", "soon", "", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_retry_after_that_is_no_time_to_wait_asks_for_nothing(value):
    assert read({}, 429, {"retry-after": value}).retry_after is None
    assert read({}, 429, {"retry-after-ms": value, "retry-after": "7"}).retry_after == 7


@pytest.mark.parametrize(
    "shown",
    [
        KEY,
        KEY[:-6] + "…",
        "…" + KEY[5:],
        KEY.replace("/", "\\/"),
        quote(KEY, safe=""),
        quote(quote(KEY, safe=""), safe=""),
        KEY.replace("-", "\\u002d"),
        KEY.replace("+", "&#43;"),
        f"{KEY} and {quote(KEY, safe='')}",
        "x" * 270 + KEY,
    ],
)
def test_a_key_is_hidden_before_anything_is_cut(shown):
    hide = hiding(KEY)
    outcomes = [
        read(of({"content": f"It is {shown}."}, f"because {shown}"), hide=hide),
        read({"error": {"message": f"bad key {shown}"}}, 500, hide=hide),
        read(f"<html>{shown}".encode(), hide=hide),
        read({"detail": [{"input": shown}]}, 422, hide=hide),
        read(b"", 302, {"location": f"/{shown}"}, hide=hide),
    ]
    for outcome in outcomes:
        assert "[key" in str(outcome)
        said = str(outcome).replace("\\", "")
        assert not any(KEY[start : start + 8] in said for start in range(len(KEY) - 7))


def test_a_text_without_the_key_stays_as_it_is_and_a_word_is_no_key():
    text = "100 %25 of A&amp;B are \\u0041, so none is EMPTY."
    assert hiding(KEY)(text) == hiding("none")(text) == text


def test_terminal_escapes_are_shown_as_text():
    outcome = read({"error": {"message": "\x1b]0;owned\x07\x1b[2J‮ \x9b31m"}}, 500)
    assert outcome.failure == "500 \\x1b]0;owned\\x07\\x1b[2J\\u202e \\x9b31m"
    assert readable("a\x0bb\x1b\x00c") == "a bc"
    assert printable("a\tb\n") == "a\tb\n"


@pytest.mark.parametrize(
    ("status", "body", "settings_", "words"),
    [
        (404, "404 page not found", {"base_url": "http://x:1"}, "/v1 at the end of teacher.base_url"),
        (404, "no model", {"base_url": "http://x:1/v1"}, "http://x:1/v1/chat/completions answers 404"),
        (404, "no", {"base_url": "http://x/d/m?api-version=1"}, "http://x/d/m/chat/completions?api-version=1 answers"),
        (404, "no", {"base_url": "http://x/v1/chat/completions/"}, "http://x/v1/chat/completions answers 404"),
        (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}, {}, "extra_body: {KEY: null}"),
        (
            400,
            {"error": {"message": "Unsupported parameter: 'max_tokens'"}},
            {},
            "{KEY: null} takes a key of the request out",
        ),
        (400, {"error": {"message": "max_tokens is too large"}}, {}, "Mend the teacher section"),
        (200, {"error": {"message": "Insufficient credits", "code": 402}}, {}, "402 Insufficient credits. Fill up"),
        (301, "", {}, "teacher.base_url"),
    ],
)
def test_a_refusal_says_what_to_do(status, body, settings_, words):
    outcome = read(body.encode() if isinstance(body, str) else body, status)
    assert outcome.hopeless
    section = TeacherSection(kind="openai", model="m", **settings_)
    assert words in in_the_servers_words(outcome, section)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("422 Extra inputs are not permitted", "teacher.extra_body: {KEY: null} takes a key of the request out"),
        ("400 Unsupported parameter: 'max_tokens'.", "'max_tokens'. Mend the teacher section"),
        ("200 with invalid JSON (<!DOCTYPE html>) (9 tries)", "Check teacher.base_url"),
        ("503 overloaded (9 tries)", "Run the same command again when the endpoint answers"),
        ("429 too many requests (9 tries)", "Run the same command again when the endpoint answers"),
        ("no reply within 10 s (9 tries)", "Run the same command again when the endpoint answers"),
    ],
)
def test_failures_that_are_too_many_say_what_to_do(reason, advice):
    with pytest.raises(UserError, match=re.escape(advice)):
        check_failures({"a": reason}, 1, 4, TeacherSection(kind="openai", model="m"))
