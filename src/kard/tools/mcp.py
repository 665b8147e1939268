"""`kard mcp`: answers, search and documents of a run as tools of the Model Context Protocol, for assistants that speak it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from kard import __version__
from kard.data.filters import Restriction
from kard.data.passage import positions_of
from kard.data.question import Question
from kard.documents import documents_of_run
from kard.errors import UserError
from kard.kard import Kard
from kard.run import Run
from kard.tools.batch import answer_row

if TYPE_CHECKING:
    from pathlib import Path

    from mcp.server.mcpserver import MCPServer

_ABOUT = (
    "A small model that answers questions from a collection of documents, and names the passages that it has read. Where "
    "`abstained` is true the answer is too unsure to be given: say so. `citations` has what each sentence of the rationale "
    "stands on; where `supported` is false no passage says so: say that too. Cite `source`."
)
Count = Annotated[int, Field(ge=1, le=50)]
Filter = Annotated[
    dict[str, Any] | None,
    Field(
        description="Of documents whose metadata fits alone, as {'year': {'$gte': 2020}}; `documents` shows metadata"
    ),
]
Place = Annotated[int, Field(ge=0, description="`next` of the part before")]


def create_server(kard: Kard, run: Path) -> MCPServer:
    """A server of the official SDK with the tools ``answer``, ``search`` and ``documents``; the last two where passages are read.

    Args:
        kard: Answers; one call at a time uses it.
        run: The folder that it was loaded from.
    """
    from mcp.server.mcpserver import MCPServer

    def answer(question: str, choices: list[str] | None = None, filter: Filter = None) -> dict[str, Any]:
        """Answer a question from the documents, with choices or without; the passages that were read come with it."""
        asked, restriction = Question("question", question, tuple(choices or ())), Restriction.of(filter)
        kard.check(asked, restriction=restriction)
        return answer_row(kard.answer_each([(asked, kard.method)], restrictions=[restriction])[0])

    def search(query: str, count: Count = 5, filter: Filter = None) -> dict[str, Any]:
        """Find passages of the documents, best first, as they would be found for answering."""
        asked, restriction = Question("question", query), Restriction.of(filter)
        kard.check(asked, restriction=restriction)
        [found] = kard.finder.candidates(kard.method, [asked], {}, count, [restriction])
        return {"passages": [{**item.row(), "document": item.passage.document} for item in found[:count]]}

    def documents(document: str | None = None, begin: Place = 0, count: Count = 20) -> dict[str, Any]:
        """Read a whole document by its id (as `search` names it), or list the documents part by part."""
        if document is not None:
            return _read(kard, run, document)
        rows = documents_of_run(run, kard.finder.documents)
        part = [asdict(row) for row in islice(rows, begin, begin + count)]
        return {"documents": part, "next": begin + count if begin + count < len(rows) else None}

    server, one_at_a_time = MCPServer("kard", instructions=_ABOUT, version=__version__), _one_at_a_time()
    for tool in (answer, search, documents) if kard.method.reads_passages else (answer,):
        server.add_tool(one_at_a_time(tool))
    return server


def _read(kard: Kard, run: Path, document: str) -> dict[str, Any]:
    places = positions_of(Run.open(run, kard.finder.documents).searched("knowledge"), [document]).get(document)
    if not places:
        raise UserError(f"document '{document}': there is none of this id. List them, or search.")
    passages = [kard.finder.passages[place] for place in places]
    first, text = passages[0], "\n".join(passage.text for passage in passages)
    return {"id": first.document, "title": first.title, "source": first.source, "text": text}


def _one_at_a_time() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What makes calls wait for each other, and turns a UserError into one that the assistant reads."""
    from mcp.server.mcpserver.exceptions import ToolError

    lock = Lock()

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            try:
                with lock:
                    return function(*arguments, **named)
            except UserError as error:
                raise ToolError(str(error)) from error

        return call

    return decorated
