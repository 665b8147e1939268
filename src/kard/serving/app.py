"""The application: routes, errors, streams."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from kard import __version__
from kard.data.question import Question
from kard.errors import UserError, nearest
from kard.finder import Found
from kard.kard import Kard, Listener
from kard.methods import Method
from kard.report.numbers import retriever
from kard.serving import schema
from kard.serving.chat import ChatRequest, Completion, question_of
from kard.serving.guard import Guard, error_body
from kard.serving.metrics import Metrics
from kard.serving.reference import glossary_page, reference_page
from kard.serving.worker import Done, Failed, Job, QueueFull, Stopping, Worker

ASSETS = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_ABOUT = "Ask a student of knowledge-augmented reasoning distillation. Any OpenAI client works with base URL `/v1`."
_DOCS = "/docs shows what can be sent where."
_SEND = "Send one JSON object in UTF-8, with content-type: application/json; /docs shows its keys."
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


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        batch_size: Most questions that are answered together.
        gather_seconds: How long a batch waits for others at least.
        queue: How many requests may wait; more are answered 429.
        timeout: Seconds until a request is given up (504).
        most_bytes: Longer bodies are refused (413).
        keys: Keys that open ``/v1/``; none: everybody may ask.
        hosts: Names under which the server may be addressed; ``*`` is any.
    """

    batch_size: int = 64
    gather_seconds: float = 0.005
    queue: int = 128
    timeout: float = 120.0
    most_bytes: int = 65536
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ("*",)


class Refusal(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, status: int, message: str, code: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers

    @property
    def body(self) -> dict[str, Any]:
        return error_body(
            self.message, self.code, kind="server_error" if self.status >= 500 else "invalid_request_error"
        )


def create_app(kard: Kard, settings: Settings, examples: Sequence[dict[str, Any]] = ()) -> FastAPI:
    """The application that serves a loaded run.

    Args:
        kard: Run or export; a single thread uses it.
        settings: Limits and keys.
        examples: Questions with choices that the page offers to try.
    """
    metrics = Metrics()
    worker = Worker(kard, settings.batch_size, settings.gather_seconds, settings.queue, metrics)
    metrics.queue.set_function(lambda: worker.waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(worker.start)
        yield
        # The server has answered all that it accepted by now; the worker has nothing left to do.
        await asyncio.to_thread(worker.stop)

    app = FastAPI(
        title="kard", version=__version__, description=_ABOUT, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.state.worker = worker
    app.state.desk = desk = Desk(worker, settings.timeout)
    _handle_errors(app)
    _add_answering(app, desk, copy.deepcopy(kard.student.tokenizer))
    _add_rest(app, desk, metrics, list(examples))
    paths = [str(path) for path in app.openapi()["paths"]] + list(ASSETS)
    app.add_middleware(
        Guard,
        keys=settings.keys,
        hosts=settings.hosts,
        most_bytes=settings.most_bytes,
        metrics=metrics,
        paths=[p for p in paths if "{" not in p],
    )
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
        self._submit(job)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job.future), self.timeout)
        except (UserError, Failed, TimeoutError) as error:
            raise self._refusal(error) from error

    async def events(self, question: Question, method: Method) -> AsyncIterator[Any]:
        """What happens to a question: the passages found, each state of the text, and in the end what came of it.

        A question that is answered once more, because another one failed its batch, is told nothing twice.

        Raises:
            Refusal: Before anything was yielded, where the question cannot be answered.
        """
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def put(event: Any) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, event)

        job = Job(question, method, listener=Listener(found=put, text=put))
        job.future.add_done_callback(put)
        self._submit(job)
        deadline, found, told = loop.time() + self.timeout, False, ""
        try:
            # No asyncio.timeout here: a stream is begun by one task and carried on by another.
            while (event := await asyncio.wait_for(queue.get(), deadline - loop.time())) is not job.future:
                if not isinstance(event, str):
                    if not found:
                        yield event
                    found = True
                elif event.startswith(told):
                    yield (told := event)
            yield job.future.result()
        except (UserError, Failed, TimeoutError) as error:
            raise self._refusal(error) from error
        finally:
            job.future.cancel()

    def _submit(self, job: Job) -> None:
        try:
            self.worker.submit(job)
        except QueueFull as error:
            raise Refusal(429, f"{error}.", "queue_full", {"retry-after": str(error.retry_after)}) from error
        except Stopping as error:
            raise Refusal(503, "the server is stopping. Try again later.", "stopping") from error

    def _refusal(self, error: Exception) -> Refusal:
        if isinstance(error, UserError):
            return Refusal(400, str(error), "bad_question")
        if isinstance(error, Failed):
            return Refusal(500, str(error), "failed")
        late = f"no answer within {self.timeout:g} s. Try again later, or shorten the question."
        return Refusal(504, late, "timeout")


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _invalid(error.errors())

    @app.exception_handler(ValidationError)
    async def invalid_question(request: Request, error: ValidationError) -> Response:
        return _invalid(error.errors())

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        # FastAPI's 400 is a body that is not UTF-8.
        message = f"{error.detail}. {_SEND if error.status_code == 400 else _DOCS}"
        return JSONResponse(error_body(message, f"http_{error.status_code}"), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse(error_body("the server failed; its log says why.", "failed", kind="server_error"), 500)


def _invalid(errors: Sequence[Any]) -> Response:
    # The value itself is not sent back: it may be long, or hold half of a surrogate pair, which no JSON can carry.
    first = errors[0]
    param = ".".join(_printable(str(part)) for part in first["loc"] if part != "body")
    message = _printable(str(first["msg"]).removeprefix("Value error, "))
    if first["type"] == "json_invalid":
        param, message = "", f"no JSON at character {param}: {first['ctx']['error']}. {_SEND}"
    elif first["type"] != "value_error":  # our own messages say what to do
        message = f"{message}. {_DOCS if param else _SEND}"
    return JSONResponse(error_body(f"{param or 'body'}: {message}", "invalid", param or None), 422)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")[:200]


def _add_answering(app: FastAPI, desk: Desk, tokenizer: Any) -> None:
    @app.post("/v1/answer", response_model=schema.AnswerReply, responses=_ERRORS)
    async def answer(request: schema.AnswerRequest) -> Any:
        """Answer a question, with all that led to the answer."""
        name, method = desk.method(request.model)
        if request.stream:
            return await _stream(_answer_events(desk, request, name, method))
        done = await desk.done(Job(_question(request), method))
        return schema.answer_reply(done, name, request.show)

    @app.post("/v1/chat/completions", responses=_ERRORS, response_model=None)
    async def chat(request: ChatRequest) -> Any:
        """Answer the last user message, in OpenAI's protocol; `kard` in the reply is what /v1/answer returns."""
        _, method = desk.method(request.model)
        try:
            asked = question_of(request)
        except UserError as error:
            raise Refusal(400, str(error), "bad_question") from error
        completion = Completion(request, tokenizer)
        if request.stream:
            return await _stream(_chat_events(desk, completion, _question(asked), method))
        return completion.whole(await desk.done(Job(_question(asked), method)))

    @app.post("/v1/search", response_model=schema.SearchReply, responses=_ERRORS)
    async def search(request: schema.SearchRequest) -> Any:
        """Find passages for a question, as they would be found for answering it."""
        name, method = desk.method(request.model)
        if not method.reads_passages:
            readers = [other for other, one in desk.methods.items() if one.reads_passages]
            there = f"Choose of: {', '.join(readers)}" if readers else "Serve a method that does"
            raise Refusal(400, f"model: {name} reads no passages. {there}.", "reads_nothing")
        question = Question("question", request.query, tuple(request.choices))
        done = await desk.done(Job(question, method, only_search=True))
        rows = schema.passage_rows(done.found, request.k, 0)
        return {"model": name, "passages": rows, "milliseconds": done.milliseconds}


def _question(request: schema.AnswerRequest) -> Question:
    return Question("question", request.question, tuple(request.choices))


async def _answer_events(
    desk: Desk, request: schema.AnswerRequest, name: str, method: Method
) -> AsyncIterator[tuple[str, Any]]:
    read, sent = desk.worker.kard.recipe.evaluation.passages, ""
    async for event in desk.events(_question(request), method):
        if isinstance(event, list):
            found: list[Found] = event
            yield "passages", schema.passage_rows(found, read if request.show is None else request.show, read)
        elif isinstance(event, str):
            piece, sent = event.removeprefix(sent), event
            if piece:
                yield "text", piece
        else:
            yield "answer", schema.answer_reply(event, name, request.show)


async def _chat_events(
    desk: Desk, completion: Completion, question: Question, method: Method
) -> AsyncIterator[tuple[str, Any]]:
    sent = ""
    yielded = False
    async for event in desk.events(question, method):
        if isinstance(event, list):
            continue
        text = completion.cut(event, whole=False) if isinstance(event, str) else completion.cut(event.answer.text)
        if not text.startswith(sent):
            raise Refusal(500, "what was written anew came out otherwise. Ask again.", "failed")
        piece = text.removeprefix(sent)
        if piece:
            yield "", completion.piece(piece, first=not yielded)
            sent, yielded = text, True
        if isinstance(event, Done):
            for last in completion.end(event):
                yield "", last
    yield "", "[DONE]"


async def _stream(events: AsyncIterator[tuple[str, Any]]) -> StreamingResponse:
    """Server-sent events. The first one is awaited here, so that a refusal is still a status of its own."""
    first = await anext(events)

    async def lines() -> AsyncIterator[str]:
        yield _line(*first)
        try:
            async for event in events:
                yield _line(*event)
        except Refusal as refusal:
            yield _line("error", refusal.body)
        except Exception:
            yield _line("error", error_body("the server failed; its log says why.", "failed", kind="server_error"))
            raise

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})


def _line(name: str, data: Any) -> str:
    text = data if data == "[DONE]" else json.dumps(data, ensure_ascii=False)
    return f"event: {name}\ndata: {text}\n\n" if name else f"data: {text}\n\n"


def _add_rest(app: FastAPI, desk: Desk, metrics: Metrics, examples: list[dict[str, Any]]) -> None:
    recipe = desk.worker.kard.recipe

    def row(name: str) -> dict[str, Any]:
        return {"id": name, "label": desk.methods[name].label, "reads": desk.methods[name].reads}

    @app.get("/v1/models", response_model=schema.Models, responses={401: _ERRORS[401]})
    async def models() -> Any:
        """All ways of answering; the first is the default."""
        rows = [row(name) for name in desk.methods]
        found_by, read = retriever(recipe.retriever.kind), recipe.evaluation.passages
        return {"data": rows, "recipe": recipe.name, "retriever": found_by, "passages": read, "examples": examples}

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
        if not desk.worker.alive:
            raise Refusal(503, "the server is stopping. Try again later.", "stopping")
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response)
    async def counts() -> Response:
        """Counters in Prometheus's format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    made = {"/docs": reference_page(app.openapi()), "/glossary": glossary_page()}
    pages = {path: (page.encode("utf-8"), "text/html") for path, page in made.items()}
    folder = resources.files("kard") / "serving" / "page"
    for path, (name, kind) in ASSETS.items():
        pages[path] = ((folder / name).read_bytes(), kind)
    for path, (content, kind) in pages.items():
        app.add_api_route(path, _fixed(content, kind), include_in_schema=False)


def _fixed(content: bytes, kind: str) -> Any:
    async def page() -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return page
