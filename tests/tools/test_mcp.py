"""`kard mcp`: the official client asks, through standard input and output and in one process."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pytest

pytest.importorskip("mcp")

from mcp import Client, StdioServerParameters

from kard import Kard
from kard.tools.mcp import create_server

QUESTION = {"question": "Which colour has the ship of the north?", "choices": ["red", "green", "blue"]}


def call(server: Any, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """Results of some calls of tools, and before them the tools' names."""

    async def asked() -> list[Any]:
        async with Client(server) as client:
            tools = (await client.list_tools()).tools
            assert all(tool.description for tool in tools)
            return [{tool.name for tool in tools}, *[await client.call_tool(*one) for one in calls]]

    return asyncio.run(asked())


@pytest.fixture(scope="module")
def server(answering_run):
    return create_server(Kard.load(answering_run), answering_run)


def test_an_assistant_asks_searches_and_reads_by_the_command(answering_run):
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "kard", "mcp", str(answering_run)], env=environment
    )
    names, answered, found = call(command, ("answer", QUESTION), ("search", {"query": "ship north", "count": 2}))
    assert names == {"answer", "search", "documents"}
    expected = Kard.load(answering_run).answer(**QUESTION)
    assert not answered.is_error
    assert answered.structured_content["answer"] == expected.answer
    assert answered.structured_content["abstained"] is False
    assert [p["id"] for p in answered.structured_content["passages"]] == [expected.passages[0].passage.id]
    assert len(found.structured_content["passages"]) == 2


def test_documents_are_read_and_listed_to_their_end(server, answering_run):
    _, found = call(server, ("search", {"query": "ship north"}))
    first = found.structured_content["passages"][0]
    _, read = call(server, ("documents", {"document": first["document"]}))
    assert first["text"] in read.structured_content["text"]
    assert read.structured_content["source"] == first["source"]
    listed, begin = [], 0
    while begin is not None:
        _, part = call(server, ("documents", {"begin": begin, "count": 20}))
        listed += [row["id"] for row in part.structured_content["documents"]]
        begin = part.structured_content["next"]
    assert sorted(listed) == sorted(f"p{number}" for number in range(48))


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("answer", {"question": "  "}, "question"),
        ("answer", {"question": "Which?", "choices": ["red", "red"]}, "'red' is there twice"),
        ("documents", {"document": "p480"}, "document 'p480': there is none of this id. List them, or search."),
        ("search", {"query": "ship", "count": 51}, "less than or equal to 50"),
    ],
)
def test_a_mistake_is_told_to_the_assistant(server, tool, arguments, words):
    _, result = call(server, (tool, arguments))
    assert result.is_error
    assert words in result.content[0].text


def test_a_student_that_reads_nothing_offers_no_search(answering_run):
    from dataclasses import replace

    from kard.methods import METHODS

    kard = replace(Kard.load(answering_run), method=METHODS["distill"])
    assert call(create_server(kard, answering_run)) == [{"answer"}]
