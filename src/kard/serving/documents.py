"""``/v1/documents``: whoever has an admin key lists, adds and removes documents while the server answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from kard.artifacts.versions import current_version
from kard.data.metadata import checked_metadata
from kard.data.readers.documents import Document, LeftOut
from kard.documents import UnknownDocument, documents_of_run, put_documents, remove_documents
from kard.recipe.sections import KnowledgeSection
from kard.serving.refusal import Refusal
from kard.serving.schema import not_blank

PATH = "/v1/documents"
MOST_BYTES = 16 * 2**20
_MOST_AT_ONCE = 1_000
_WHERE = f"POST {PATH}"
_EXAMPLE: Any = {"id": "price list", "title": "Prices", "text": "A lamp is 20 euros.", "metadata": {"year": 2026}}


class NewDocument(BaseModel):
    """A document as a recipe's JSONL file has it."""

    model_config = ConfigDict(extra="forbid")
    id: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(not_blank)]
    title: str = Field("", max_length=1_000)
    text: Annotated[str, AfterValidator(not_blank)]
    metadata: dict[str, Any] = Field({}, description="Flat: texts, numbers, booleans, lists of texts")


class NewDocuments(BaseModel):
    """Documents to add."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"documents": [_EXAMPLE]}]})
    documents: list[NewDocument] = Field(min_length=1, max_length=_MOST_AT_ONCE)
    replace: bool = Field(False, description="A document whose id is there already takes the other one's place")
    dry_run: bool = Field(False, description="Say what would change, and change nothing")


class ChangeReply(BaseModel):
    """What was changed, by documents' ids."""

    version: int = Field(description="The version that is read now")
    added: list[str]
    replaced: list[str]
    removed: list[str]
    unchanged: list[str]
    left_out: dict[str, int] = Field(description="How many passages were left out, by reason, as duplicates are")
    first_left_out: dict[str, str]
    passages: int


class DocumentReply(BaseModel):
    """A document that is read."""

    id: str
    title: str
    source: str
    passages: int
    metadata: dict[str, Any]


class DocumentsReply(BaseModel):
    """Some of the documents that are read."""

    version: int
    total: int
    documents: list[DocumentReply]


def add_documents(app: FastAPI, run: Path, errors: dict[int | str, dict[str, Any]]) -> None:
    """Add the routes; the guard lets in whoever has an admin key.

    Args:
        app: The application.
        run: The run or export that is served.
        errors: How the routes' errors are described.
    """
    writing = asyncio.Lock()  # two requests wait for each other; another process is refused

    @app.get(PATH, response_model=DocumentsReply, responses=errors)
    async def documents(
        first: Annotated[int, Query(ge=0, le=2**31)] = 0, limit: Annotated[int, Query(ge=1, le=_MOST_AT_ONCE)] = 100
    ) -> Any:
        """List documents, in the order of their passages."""
        return await asyncio.to_thread(_listed, run, first, limit)

    @app.post(PATH, response_model=ChangeReply, responses=errors)
    async def add(request: NewDocuments) -> Any:
        """Add documents: questions that are asked from now on are answered from them."""

        def read(section: KnowledgeSection, left_out: LeftOut) -> Iterator[Document]:
            for one in request.documents:
                metadata = checked_metadata(one.metadata, f"{_WHERE}: document '{one.id}'", None)
                yield Document(one.id, one.title, one.text, _WHERE, metadata=metadata)

        async with writing:
            return asdict(await asyncio.to_thread(put_documents, run, read, request.replace, request.dry_run))

    @app.delete(PATH + "/{document:path}", response_model=ChangeReply, responses=errors)
    async def remove(document: str) -> Any:
        """Remove a document. Older versions still hold it, until `kard docs prune` deletes them."""
        async with writing:
            try:
                return asdict(await asyncio.to_thread(remove_documents, run, [document]))
            except UnknownDocument as error:
                raise Refusal(404, str(error), "document_not_found") from error


def _listed(run: Path, first: int, limit: int) -> dict[str, Any]:
    table = documents_of_run(run)
    rows = [asdict(row) for row in islice(table, first, first + limit)]
    return {"version": current_version(run), "total": len(table), "documents": rows}
