"""OpenAI's own client, and curl, talk to the server as they talk to OpenAI."""

from __future__ import annotations

import asyncio
import html
import json
import re
import shlex
import shutil
import subprocess

import httpx2 as httpx
import openai
import pytest

from kard.serving.chat import first_tokens, split_choices
from tests.serving.conftest import ASKED, COLOURS

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Good morning"},
    {"role": "assistant", "content": "Good morning."},
    {"role": "user", "content": ASKED},
]
ASK = {"model": "kard_reranker", "messages": MESSAGES, "extra_body": {"choices": COLOURS}}


@pytest.fixture
def official(address) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def test_a_completion(official):
    reply = official.chat.completions.create(**ASK, temperature=0.7, user="somebody")
    [choice] = reply.choices
    assert choice.finish_reason == "stop"
    assert choice.message.role == "assistant"
    assert choice.message.content == reply.kard["text"]
    assert reply.kard["answer"] in COLOURS
    assert reply.model == "kard_reranker"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 20


def test_passages_stand_where_clients_keep_them(official):
    """As citations of the message; and in the text, for clients that keep nothing but that."""
    [read] = official.chat.completions.create(**ASK).kard["passages"]
    body = {**ASK["extra_body"], "sources": True}
    message = official.chat.completions.create(**{**ASK, "extra_body": body}).choices[0].message
    text, _, listed = message.content.partition("\n\nSources:\n")
    assert listed == f"[1] {read['title']}. {read['text']} ({read['source']})"
    [cited] = [annotation.url_citation for annotation in message.annotations]
    assert (cited.title, cited.text, cited.source) == (read["title"], read["text"], read["source"])
    assert (cited.start_index, cited.end_index, cited.url) == (0, len(text), f"passage:{read['id']}")
    chunks = list(official.chat.completions.create(**{**ASK, "extra_body": body}, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == message.content
    assert chunks[-1].choices[0].delta.annotations == [annotation.model_dump() for annotation in message.annotations]


def test_a_stream_is_the_completion_in_pieces(official):
    whole = official.chat.completions.create(**ASK)
    chunks = list(official.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert len(chunks) > 4
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage
    assert len({c.id for c in chunks}) == 1


def test_the_async_client_whole_and_streaming(address):
    async def both() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none") as client:
            whole, stream = await asyncio.gather(
                client.chat.completions.create(**ASK), client.chat.completions.create(**ASK, stream=True)
            )
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content, "".join(pieces)

    whole, streamed = asyncio.run(both())
    assert whole == streamed != ""


def test_models_are_listed_and_found(official):
    assert [model.id for model in official.models.list()] == ["kard_reranker", "kard_bm25", "no_passages"]
    assert official.models.retrieve("no_passages").owned_by == "kard"
    with pytest.raises(openai.NotFoundError, match="There are: kard_reranker"):
        official.chat.completions.create(**{**ASK, "model": "gpt-4"})


def test_a_limit_on_tokens_is_kept(official):
    long = official.chat.completions.create(**ASK)
    short = official.chat.completions.create(**ASK, max_tokens=3)
    streamed = list(official.chat.completions.create(**ASK, max_completion_tokens=3, stream=True))
    text = short.choices[0].message.content
    assert long.choices[0].message.content.startswith(text)
    assert 0 < len(text) < len(long.choices[0].message.content)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == text
    assert streamed[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("form", [str, lambda stop: ["never there", stop]])
def test_the_text_ends_before_a_stop(official, form):
    """In a stream nothing is sent of it either, though it comes in pieces."""
    long = official.chat.completions.create(**ASK).choices[0].message.content
    for begin in range(1, len(long) - 6, 5):
        stop = long[begin : begin + 6]
        short = official.chat.completions.create(**ASK, stop=form(stop))
        streamed = official.chat.completions.create(**ASK, stop=form(stop), stream=True)
        pieces = "".join(c.choices[0].delta.content or "" for c in streamed)
        assert short.choices[0].message.content == pieces == long[: long.index(stop)]
        assert short.choices[0].finish_reason == "stop"
    with pytest.raises(openai.APIStatusError, match="stop: List should have at most 4"):
        official.chat.completions.create(**ASK, stop=["a"] * 5)
    with pytest.raises(openai.APIStatusError, match=r"stop\.0: String should have at least 1"):
        official.chat.completions.create(**ASK, stop="")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n": 2}, "n: a student"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools: a student"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": [{"role": "system", "content": "x"}]}, "none has the role 'user'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "text alone"),
        ({"messages": [{"role": "user", "content": "x" * 6000}]}, "longer than student.max_input_tokens"),
    ],
)
def test_what_a_student_cannot_do_is_refused(official, changes, says):
    with pytest.raises(openai.BadRequestError, match=says):
        official.chat.completions.create(**{**ASK, **changes})
    with pytest.raises(openai.BadRequestError, match=says):
        official.chat.completions.create(**{**ASK, **changes}, stream=True)


def test_a_message_in_parts_is_read(official):
    parts = [{"type": "text", "text": "Which colour has"}, {"type": "text", "text": "the ship of the north?"}]
    reply = official.chat.completions.create(**{**ASK, "messages": [{"role": "user", "content": parts}]})
    assert reply.kard["answer"] in COLOURS


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_examples_of_the_reference_work(address):
    page = httpx.get(f"{address}/docs").text
    assert "whole number from 1 to 50" in page
    commands = [html.unescape(text) for text in re.findall(r"<code>(curl .*?)</code>", page, re.DOTALL)]
    assert len(commands) == len(httpx.get(f"{address}/openapi.json").json()["paths"])
    for command in commands:
        asked = shlex.split(command.replace("localhost:8000", address).replace("\\\n", " "))
        done = subprocess.run([*asked, "-sS", "--fail-with-body"], capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(address):
    body = json.dumps({"question": ASKED, "choices": COLOURS})
    command = ["curl", "-sS", f"{address}/v1/answer", "-H", "Content-Type: application/json", "-d", body]
    reply = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert reply["answer"] in COLOURS


@pytest.mark.parametrize(
    ("text", "question", "choices"),
    [
        ("Which?\nChoices:\n- a b\n- c", "Which?", ["a b", "c"]),
        ("Which?\nChoices:\n\n- a\n", "Which?", ["a"]),
        ("Which?\nChoices:\n- a\nand more", None, []),
        ("Which?\nChoices:", None, []),
        ("Choices: - a", None, []),
    ],
)
def test_choices_in_a_message(text, question, choices):
    assert split_choices(text) == (question or text, choices)


def test_first_tokens(kard):
    tokenizer = kard.student.tokenizer
    assert first_tokens(tokenizer, "The ship is red.", None) == "The ship is red."
    assert first_tokens(tokenizer, "The ship is red.", 99) == "The ship is red."
    cut = first_tokens(tokenizer, "The ship is red.", 2)
    assert "The ship is red.".startswith(cut)
    assert len(tokenizer(cut).input_ids) == 2
