"""Errors as OpenAI's clients read them: every exception that ends a request, with its status and what is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from kard.data.filters import FilterError
from kard.errors import UserError

_DOCS = "/docs shows what can be sent where."
_SEND = "Send one JSON object in UTF-8, with content-type: application/json; /docs shows its keys."


class Refusal(Exception):
    """A request that gets an error for an answer.

    Attributes:
        body: The error as OpenAI's clients read it.
    """

    def __init__(
        self, status: int, message: str, code: str, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def response(self, **headers: str) -> JSONResponse:
        """The reply, with some more headers."""
        return JSONResponse(self.body, self.status, {**(self.headers or {}), **headers})


def refusal_of(error: Exception) -> Refusal:
    """What the asker is told of an exception; of one that nobody expected, nothing but where to look."""
    match error:
        case Refusal():
            return error
        case FilterError():
            return Refusal(400, str(error), "bad_filter", "filter")
        case UserError():
            return Refusal(400, str(error), "bad_question")
        case TimeoutError():
            return Refusal(504, "no answer within the time limit. Try again later, or shorten the question.", "timeout")
        case RequestValidationError() | ValidationError():
            return _invalid(error.errors())
        case HTTPException():  # FastAPI's 400 is a body that is not UTF-8
            message = f"{error.detail}. {_SEND if error.status_code == 400 else _DOCS}"
            return Refusal(error.status_code, message, f"http_{error.status_code}", headers=dict(error.headers or {}))
    return Refusal(500, "the server failed; its log says why.", "failed")


def _invalid(errors: Sequence[Any]) -> Refusal:
    # The value itself is not sent back: it may be long, or hold half of a surrogate pair, which no JSON can carry.
    first = errors[0]
    param = ".".join(_printable(str(part)) for part in first["loc"] if part != "body")
    message = _printable(str(first["msg"]).removeprefix("Value error, "))
    if first["type"] == "json_invalid":
        param, message = "", f"no JSON at character {param}: {first['ctx']['error']}. {_SEND}"
    elif first["type"] != "value_error":  # our own messages say what to do
        message = f"{message}. {_DOCS if param else _SEND}"
    return Refusal(422, f"{param or 'body'}: {message}", "invalid", param or None)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")[:200]


async def refused(request: Request, error: Exception) -> Response:
    """What an application answers where a request ended in an exception."""
    return refusal_of(error).response()


# What a request may end in; what nobody expected is logged as well.
ENDS = (Refusal, UserError, TimeoutError, RequestValidationError, ValidationError, HTTPException, Exception)
HANDLERS: dict[int | type[Exception], Any] = dict.fromkeys(ENDS, refused)
