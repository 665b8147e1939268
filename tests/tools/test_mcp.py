"""`kard mcp`: the official client asks, through standard input and output and in one process."""

from __future__ import annotations

import asyncio
import os
import shutil
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


def test_a_filter_chooses_documents(answering_run, tmp_path):
    from kard.documents import files_to_read, put_documents
    from tests.conftest import write_rows

    shutil.copytree(answering_run, tmp_path / "run")
    write_rows(tmp_path / "new.jsonl", [{"id": "new", "text": "The ship of the north sank.", "year": 2020}])
    put_documents(tmp_path / "run", files_to_read([tmp_path / "new.jsonl"]))
    server, only = create_server(Kard.load(tmp_path / "run"), tmp_path / "run"), {"filter": {"year": {"$gt": 2000}}}
    asked = ("answer", QUESTION | only), ("search", {"query": "ship", **only}), ("search", {"query": "ship"})
    _, *found = call(server, *asked)
    answered, few, every = ([row["id"] for row in one.structured_content["passages"]] for one in found)
    assert answered == few == ["new"]
    assert len(every) == 5


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
        ("search", {"query": "ship", "filter": {"year": 1}}, "filter: no document has the key 'year'. Keys: none."),
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
