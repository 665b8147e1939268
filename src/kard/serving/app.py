"""The application: routes, errors, streams."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.sse import EventSourceResponse, format_sse_event

from kard import __version__
from kard.data.filters import Restriction
from kard.data.question import Question
from kard.errors import nearest
from kard.kard import Kard, Listener
from kard.methods import Method
from kard.report.numbers import retriever
from kard.serving import schema
from kard.serving.chat import ChatRequest, Completion, question_of
from kard.serving.completions import CompletionRequest, completion_reply, prompts_of
from kard.serving.documents import add_documents
from kard.serving.guard import Guard
from kard.serving.metrics import Metrics
from kard.serving.pages import add_pages, page_files
from kard.serving.reference import glossary_page, reference_page
from kard.serving.refusal import HANDLERS, Refusal, refusal_of
from kard.serving.settings import Settings
from kard.serving.worker import Done, Job, Worker, check_examples, is_guarded

ASSETS = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_ABOUT = "Ask a student of knowledge-augmented reasoning distillation. Any OpenAI client works with base URL `/v1`."
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.ErrorReply, "description": description}
    for status, description in {
        400: "Cannot be put to this student",
        401: "Key missing or wrong",
        404: "No such model",
        408: "Body too slow",
        413: "Body too long",
        422: "Not in the right form",
        429: "Queue full: try again after Retry-After seconds",
        503: "Stopping",
        504: "Time limit reached",
    }.items()
}

Events = AsyncIterator[tuple[str | None, Any]]


def create_app(
    kard: Kard, settings: Settings, examples: Sequence[dict[str, Any]] = (), run: Path | None = None
) -> FastAPI:
    """The application that serves a loaded run.

    Args:
        kard: Run or export; a single thread uses it.
        settings: Limits and keys.
        examples: Questions with choices that the page offers to try.
        run: Where `kard` was loaded from: new versions of its documents are taken up, and admin keys may make some.
    """
    check_examples(kard)
    metrics = Metrics()
    worker = Worker(kard, settings, metrics, run)
    metrics.queue.set_function(lambda: worker.waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(worker.start)
        yield
        # The server has answered all that it accepted by now; the worker has nothing left to do.
        await asyncio.to_thread(worker.stop)

    app = FastAPI(
        title="kard",
        version=__version__,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers=HANDLERS,
    )
    app.state.worker = worker
    desk = Desk(worker, settings.timeout)
    _add_answering(app, desk, copy.deepcopy(kard.student.tokenizer))
    _add_rest(app, desk, metrics, list(examples))
    if run is not None and settings.admin_keys:
        add_documents(app, run, _ERRORS)
    texts = {"/docs": reference_page(app.openapi()), "/glossary": glossary_page()}
    add_pages(app, page_files(ASSETS) | {path: (text, "text/html") for path, text in texts.items()})
    app.add_middleware(Guard, settings=settings, metrics=metrics, paths=[*app.openapi()["paths"], *ASSETS])
    return app


class Desk:
    """Hands questions to the worker and waits for what comes of them."""

    def __init__(self, worker: Worker, timeout: float) -> None:
        self.worker = worker
        self.timeout = timeout
        self.methods = worker.kard.methods()

    def method(self, name: str | None) -> tuple[str, Method]:
        """A model by its name; the first where none is named. Names are looked up in a table and lead nowhere else."""
        chosen = next(iter(self.methods)) if name is None else name
        if chosen not in self.methods:
            hint = f"{nearest(chosen, self.methods)}. There are: {', '.join(self.methods)}."
            raise Refusal(404, f"no model of this name{hint}", "model_not_found")
        return chosen, self.methods[chosen]

    async def done(self, job: Job) -> Done:
        """Put a job into the queue and wait for it."""
        self.worker.submit(job)
        return await asyncio.wait_for(asyncio.wrap_future(job.future), self.timeout)

    async def events(self, question: Question, method: Method, restriction: Restriction) -> AsyncIterator[Any]:
        """What happens to a question: the passages found, each state of the text, and in the end what came of it.

        A question that is answered once more, because another one failed its batch, is told nothing twice.
        """
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def put(event: Any) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, event)

        job = Job(question, method, restriction, listener=Listener(found=put, text=put))
        job.future.add_done_callback(put)
        self.worker.submit(job)
        deadline, found, text = loop.time() + self.timeout, False, ""
        try:
            # No asyncio.timeout here: a stream is begun by one task and carried on by another.
            while (event := await asyncio.wait_for(queue.get(), deadline - loop.time())) is not job.future:
                if isinstance(event, str):
                    if event.startswith(text) and event != text:
                        yield (text := event)
                elif not found:
                    found = True
                    yield event
            yield job.future.result()
        finally:
            job.future.cancel()


def _add_answering(app: FastAPI, desk: Desk, tokenizer: Any) -> None:
    @app.post("/v1/answer", response_model=schema.AnswerReply, responses=_ERRORS)
    async def answer(request: schema.AnswerRequest, http: Request) -> Any:
        """Answer a question, with all that led to the answer."""
        name, method = desk.method(request.model)
        restriction = _restriction(request, http)
        if request.stream:
            return await _stream(_answer_events(desk, request, name, method, restriction))
        done = await desk.done(Job(_question(request), method, restriction))
        return schema.answer_reply(done, name, request.show)

    @app.post("/v1/chat/completions", responses=_ERRORS, response_model=None)
    async def chat(request: ChatRequest, http: Request) -> Any:
        """Answer the last user message, in OpenAI's protocol; `kard` in the reply is what /v1/answer returns."""
        _, method = desk.method(request.model)
        question, restriction = _question(question_of(request)), _restriction(request, http)
        completion = Completion(request, tokenizer)
        if request.stream:
            return await _stream(_chat_events(completion, desk.events(question, method, restriction)))
        return completion.whole(await desk.done(Job(question, method, restriction)))

    @app.post("/v1/completions", responses=_ERRORS, response_model=None)
    async def complete(request: CompletionRequest, http: Request) -> Any:
        """Answer prompts, or say how likely the answers are that stand in them, in OpenAI's older protocol."""
        _, method = desk.method(request.model)
        prompts, restriction = prompts_of(request, tokenizer), _restriction(request, http)
        jobs = [
            Job(
                _question(one.question),
                method,
                restriction,
                scored=one.tokens[one.answered :] if request.scores else (),
            )
            for one in prompts
        ]
        done = await asyncio.gather(*(desk.done(job) for job in jobs))
        return completion_reply(request, prompts, done, tokenizer)

    @app.post("/v1/search", response_model=schema.SearchReply, responses=_ERRORS)
    async def search(request: schema.SearchRequest, http: Request) -> Any:
        """Find passages for a question, as they would be found for answering it."""
        name, method = desk.method(request.model)
        if not method.reads_passages:
            readers = [other for other, one in desk.methods.items() if one.reads_passages]
            there = f"Choose of: {', '.join(readers)}" if readers else "Serve a method that does"
            raise Refusal(400, f"model: {name} reads no passages. {there}.", "reads_nothing")
        question = Question("question", request.query, tuple(request.choices))
        done = await desk.done(Job(question, method, _restriction(request, http), only_search=True))
        rows = schema.passage_rows(done.found, request.k, 0)
        return {"model": name, "passages": rows, "milliseconds": done.milliseconds}


def _question(request: schema.AnswerRequest) -> Question:
    return Question("question", request.question, tuple(request.choices))


def _restriction(
    request: schema.AnswerRequest | schema.SearchRequest | ChatRequest | CompletionRequest, http: Request
) -> Restriction:
    """What may be read for a request: what its filter says, of what its key's groups may read (the guard knows them)."""
    return Restriction.of(request.filter, http.state.groups)


async def _answer_events(
    desk: Desk, request: schema.AnswerRequest, name: str, method: Method, restriction: Restriction
) -> Events:
    read, sent = desk.worker.kard.recipe.evaluation.passages, ""
    async for event in desk.events(_question(request), method, restriction):
        if isinstance(event, Done):
            yield "answer", schema.answer_reply(event, name, request.show)
        elif isinstance(event, str):
            yield "text", event.removeprefix(sent)
            sent = event
        else:
            yield "passages", schema.passage_rows(event, read if request.show is None else request.show, read)


async def _chat_events(completion: Completion, events: AsyncIterator[Any]) -> Events:
    sent = ""
    async for event in events:
        if isinstance(event, list):
            continue
        text = completion.cut(event, whole=False) if isinstance(event, str) else completion.cut(event.answer.text)
        if not text.startswith(sent):
            raise Refusal(500, "what was written anew came out otherwise. Ask again.", "failed")
        if piece := text.removeprefix(sent):
            yield None, completion.piece(piece, first=not sent)
            sent = text
        if isinstance(event, Done):
            for last in completion.end(event):
                yield None, last
    yield None, "[DONE]"


async def _stream(events: Events) -> EventSourceResponse:
    """Server-sent events. The first one is awaited here, so that a refusal is still a status of its own."""
    first = await anext(events)

    async def lines() -> AsyncIterator[bytes]:
        yield _line(*first)
        try:
            async for event in events:
                yield _line(*event)
        except Exception as error:
            refusal = refusal_of(error)
            yield _line("error", refusal.body)
            if refusal is not error and refusal.status == 500:  # nobody expected it: into the log
                raise

    return EventSourceResponse(lines(), headers={"cache-control": "no-store"})


def _line(name: str | None, data: Any) -> bytes:
    text = data if data == "[DONE]" else json.dumps(data, ensure_ascii=False)
    return format_sse_event(data_str=text, event=name)


def _add_rest(app: FastAPI, desk: Desk, metrics: Metrics, examples: list[dict[str, Any]]) -> None:
    recipe = desk.worker.kard.recipe

    def row(name: str) -> dict[str, Any]:
        return {"id": name, "label": desk.methods[name].label, "reads": desk.methods[name].reads}

    @app.get("/v1/models", response_model=schema.Models, responses={401: _ERRORS[401]})
    async def models() -> Any:
        """All ways of answering; the first is the default."""
        rows = [row(name) for name in desk.methods]
        found_by, read = retriever(recipe.retriever.kind), recipe.evaluation.passages
        shown = [] if is_guarded(desk.worker.kard) else examples  # a run's questions may tell what its documents say
        return {"data": rows, "recipe": recipe.name, "retriever": found_by, "passages": read, "examples": shown}

    @app.get(
        "/v1/models/{model}", response_model=schema.Model, responses={key: _ERRORS[key] for key in (401, 404, 422)}
    )
    async def model(model: str) -> Any:
        """One way of answering."""
        return row(desk.method(model)[0])

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: _ERRORS[503]})
    async def ready() -> dict[str, str]:
        """Questions are answered."""
        desk.worker.check_alive()
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response)
    async def counts() -> Response:
        """Counters in Prometheus's format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")
