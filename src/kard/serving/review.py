"""`kard review`: a local page on which people accept, mend or reject questions and rationales, one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from kard import __version__
from kard.artifacts.folders import check_stages, locked, manifest_of
from kard.data.passage import Passage
from kard.data.reviews import (
    MENDED,
    UNDO,
    Decisions,
    Item,
    agreement,
    check_mended,
    default_decisions,
    standing,
)
from kard.errors import UserError
from kard.progress import say
from kard.reviews import items_of
from kard.run import Run
from kard.serving.guard import Guard
from kard.serving.listening import listen
from kard.serving.metrics import Metrics
from kard.serving.pages import add_pages, page_files
from kard.serving.refusal import HANDLERS, Refusal
from kard.serving.settings import Settings

ASSETS = {
    "/": ("review.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/review.css": ("review.css", "text/css"),
    "/review.js": ("review.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HOST = "127.0.0.1"
SHOWN = 20  # passages of an item; a gold document may be long
_MOST_BYTES = 2**20


def review(run: Path, path: Path | None, reviewer: str, port: int) -> None:
    """Serve the page until the process is told to stop.

    Args:
        run: A run whose questions are made.
        path: The file of decisions; None: ``reviewed.jsonl`` beside the run.
        reviewer: The name that the page proposes.
        port: Where to listen, on this machine alone.

    Raises:
        UserError: The run has no questions yet, another command writes the file, or it cannot be written or read.
    """
    check_stages(run)
    opened = Run.open(run)
    path = path or default_decisions(run)
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{path}: cannot be written. Name a file in a folder that is there.")
    items = items_of(opened)
    with locked(path, beside=True):
        decisions = Decisions(path)
        say(f"{len(items):,} questions to review; decisions are in {path}")
        listen(create_review(opened, items, decisions, reviewer), HOST, port, f"Reviewing {run}")
    for line in summary(items, decisions):
        say(line)


def summary(items: Sequence[Item], decisions: Decisions) -> list[str]:
    """How far the review is, and how far two reviewers agree."""
    decided = len(standing(decisions.rows).keys() & {item.id for item in items})
    lines = [f"Stopped: {decided:,} of {len(items):,} questions are decided; decisions are in {decisions.path}"]
    for pair in agreement(decisions.rows):
        kappa = "not defined" if pair["kappa"] is None else f"{pair['kappa']:.2f}"
        lines.append(
            f"{' and '.join(pair['reviewers'])}: {pair['same']:,} of {pair['both']:,} the same, Cohen's kappa {kappa}"
        )
    return lines


class Sent(BaseModel):
    """A decision as the page sends it; `since` is how many decisions of the file the page knows."""

    model_config = ConfigDict(extra="forbid")
    id: str
    decision: Literal["accept", "mend", "reject", "undo"]
    reviewer: str = Field(min_length=1, max_length=100, pattern=r"\S")
    since: int = Field(ge=0)
    question: str | None = None
    choices: list[str] | None = Field(None, max_length=100)
    answer: StrictInt | StrictStr | None = None
    rationale: str | None = None


def create_review(run: Run, items: Sequence[Item], decisions: Decisions, reviewer: str) -> FastAPI:
    """The application: items, their passages, and decisions, of which each is on the disk before it is confirmed."""
    app = FastAPI(title="kard review", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.exception_handlers.update(HANDLERS)
    by_id = {item.id: item for item in items}
    passages = _passages(run, items)
    about = {"run": str(run.folder), "file": str(decisions.path), "reviewer": reviewer}
    listed = json.dumps({**about, "items": [asdict(item) for item in items]}, ensure_ascii=False)

    # Each of these runs on the server's only thread from its beginning to its end: no two decisions are written at once.
    @app.get("/api/items")
    async def all_items() -> Response:
        return Response(listed, media_type="application/json")

    @app.get("/api/passages")
    async def passages_of(id: str) -> Any:
        if id not in by_id:
            raise Refusal(404, "no question has this id. Load the page again.", "unknown")
        return passages(by_id[id])

    @app.get("/api/decisions")
    async def decided(since: int = 0) -> Any:
        return decisions.rows[since:]

    @app.post("/api/decisions")
    async def decide(sent: Sent, request: Request) -> Any:
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Refusal(403, "only this page may decide. Open it at its own address.", "other_site")
        _check(sent, by_id, decisions)
        try:
            decisions.add(_row(sent))
        except OSError as error:
            raise Refusal(
                507, f"{decisions.path}: not written ({error}). Free some space, then decide.", "disk"
            ) from error
        return decisions.rows[sent.since :]

    @app.get("/api/agreement")
    async def agreements() -> Any:
        return agreement(decisions.rows)

    add_pages(app, page_files(ASSETS))
    settings = Settings(most_bytes=_MOST_BYTES, hosts=("localhost", HOST))
    app.add_middleware(Guard, settings=settings, metrics=Metrics(), paths=[*ASSETS])
    return app


def _check(sent: Sent, by_id: dict[str, Item], decisions: Decisions) -> None:
    """Raise Refusal or UserError where a decision cannot be taken: nothing is written then."""
    if sent.id not in by_id:
        raise Refusal(404, "no question has this id. Load the page again.", "unknown")
    newer = decisions.rows[sent.since :]
    if any((row["id"], row["reviewer"]) == (sent.id, sent.reviewer) for row in newer):
        raise Refusal(409, "this question was decided in another tab meanwhile. Look at it, then decide.", "decided")
    if sent.decision == "mend":
        check_mended(by_id[sent.id], _row(sent))
    if sent.decision == UNDO and sent.reviewer not in standing(decisions.rows).get(sent.id, {}):
        raise Refusal(409, "there is nothing to undo. Load the page again.", "nothing")


def _row(sent: Sent) -> dict[str, Any]:
    """The row of the file."""
    given = sent.model_dump(include=set(MENDED), exclude_unset=True) if sent.decision == "mend" else {}
    time = datetime.now(UTC).isoformat(timespec="seconds")
    return {"id": sent.id, "decision": sent.decision, **given, "reviewer": sent.reviewer, "time": time}


def _passages(run: Run, items: Sequence[Item]) -> Any:
    """What gives an item's passages, as rows; none where the run has no knowledge base yet."""
    if manifest_of(run.folder / "knowledge") is None:
        return lambda item: []
    stored = run.passages()
    places = run.positions({name for item in items for name in item.passages})

    def rows(item: Item) -> list[dict[str, Any]]:
        own = list(dict.fromkeys(place for name in item.passages for place in places.get(name, [])))
        return [_shown(stored[place]) for place in own[:SHOWN]]

    return rows


def _shown(passage: Passage) -> dict[str, Any]:
    return {"id": passage.id, "title": passage.title, "text": passage.text, "source": passage.source}
