"""One OpenAI-compatible endpoint, through openai's client: its key, one request, and the models that it has."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import openai

from kard.errors import UserError, nearest
from kard.progress import duration, say
from kard.recipe.teacher import TeacherSection
from kard.teacher.prompting import PATHS, base_url, request_url
from kard.teacher.replies import UNPAID, Outcome, completion_in, first_words, hiding, parsed, response_in

_LOOK_SECONDS = 10.0
_SHOWN_MODELS = 8


def api_key(section: TeacherSection) -> str:
    """The key from the environment, or nothing for an endpoint that needs none.

    Raises:
        UserError: OpenAI's own endpoint is asked without a key, or the variable holds what no header can carry.
    """
    name = section.resources.api_key_env
    key = os.environ.get(name, "").strip()
    if not key and section.base_url is None:
        raise UserError(
            f"teacher.resources.api_key_env: the environment variable {name} is not set. Put the key into it, or name another "
            "endpoint with teacher.base_url."
        )
    if not key.isascii() or len(key.split()) > 1 or not key.isprintable():
        raise UserError(
            f"teacher.resources.api_key_env: the variable {name} holds blanks or accents. Copy the key again."
        )
    return key


def _settings(section: TeacherSection) -> dict[str, Any]:
    """Address, key and limits, for both of openai's clients; what may be paid for is tried again by ourselves alone."""
    url = urlsplit(request_url(section))
    return {
        "api_key": api_key(section) or "none",
        "base_url": url._replace(path=url.path.removesuffix(PATHS[section.endpoint]), query="").geturl(),
        "default_query": dict(parse_qsl(url.query)),
        "timeout": section.resources.timeout,
        "max_retries": 0,
    }


def blocking_client(section: TeacherSection) -> openai.OpenAI:
    """A client for the few requests that are no completions; redirects are not followed, they could lead the key away."""
    return openai.OpenAI(**_settings(section), http_client=openai.DefaultHttpxClient(follow_redirects=False))


class Endpoint:
    """One endpoint that writes completions, until it is closed."""

    def __init__(self, section: TeacherSection) -> None:
        self._section = section
        self._client: openai.AsyncOpenAI | None = None
        self._hide = hiding("")

    async def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.close()

    def connect(self) -> openai.AsyncOpenAI:
        """The client, made when it is first needed: where all replies are there, no key is."""
        if self._client is None:
            self._client = openai.AsyncOpenAI(
                **_settings(self._section), http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False)
            )
            self._hide = hiding(api_key(self._section))
        return self._client

    async def exchange(self, body: Mapping[str, Any]) -> Outcome:
        """One attempt, no longer than ``teacher.resources.timeout``: whatever happens is an outcome."""
        client, seconds, start = self.connect(), self._section.resources.timeout, time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                content = await client.post(PATHS[self._section.endpoint], body=body, cast_to=bytes)
            text = content.decode("utf-8-sig", errors="replace")
            outcome = completion_in(parsed(text), text, self._hide)
        except openai.APIStatusError as error:
            outcome = response_in(error.status_code, error.response.headers, error.response.content, self._hide)
        except (TimeoutError, openai.APITimeoutError):
            outcome = Outcome(failure=f"no reply within {duration(seconds)}")
        except openai.APIConnectionError as error:
            # What never got there costs no tokens.
            words = first_words(self._hide(str(error.__cause__))) or type(error.__cause__).__name__
            outcome = Outcome(failure=f"no connection ({words})", cost=UNPAID if _never_got_there(error) else None)
        return replace(outcome, seconds=time.monotonic() - start)


def _never_got_there(error: openai.APIConnectionError) -> bool:
    """By its name: the class is httpx's or httpx2's, as openai's client has it."""
    return type(error.__cause__).__name__ == "ConnectError"


def check_endpoint(section: TeacherSection) -> None:
    """Ask for the endpoint's models (``GET /models``); one that has no such list is taken as it is.

    Once before hours of other work: a wrong name or key is found in a second.

    Raises:
        UserError: There is no key, the endpoint refuses it, nothing answers at its address, or it does not know the model.
    """
    where, model = base_url(section), str(section.model)
    names = _listed_models(section)
    if names and not any(_is_same(model, name) for name in names):
        listed = ", ".join(sorted(names)[:_SHOWN_MODELS]) + (" …" if len(names) > _SHOWN_MODELS else "")
        raise UserError(
            f"teacher.model: {where} does not know '{model}'{nearest(model, names)}. It has: {listed}. Name one of them."
        )
    if not names:
        say(f"  teacher: {where} names no models; whether it has '{model}' shows when it is first asked")


def _listed_models(section: TeacherSection) -> list[str]:
    """Names, none where the endpoint answers nothing that can be read; none of llama.cpp's server, which takes any name."""
    where, resources = base_url(section), section.resources
    try:
        with blocking_client(section) as client:
            timeout = min(_LOOK_SECONDS, resources.timeout)
            content = client.get("/models", cast_to=bytes, options={"timeout": timeout})
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise UserError(
            f"teacher: {where} refuses the key ({error.status_code}). Put a valid one into the environment variable "
            f"{resources.api_key_env} (teacher.resources.api_key_env)."
        ) from None
    except openai.APIConnectionError as error:
        if _never_got_there(error):
            raise UserError(
                f"teacher.base_url: nothing answers at {where} ({error.__cause__}). Start the server, or mend the address."
            ) from error
        return []
    except openai.APIError:
        return []
    payload = parsed(content.decode("utf-8", errors="replace"))
    rows = payload.get("data") if isinstance(payload, dict) else None
    models = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [str(row["id"]) for row in models if "id" in row and row.get("owned_by") != "llamacpp"]


def _is_same(name: str, known: str) -> bool:
    """Whether an endpoint means the same model: Ollama takes a name without its tag, routers one with a variant behind it."""
    return name == known or name == known.partition(":")[0] or name.partition(":")[0] == known
