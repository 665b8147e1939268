"""One OpenAI-compatible endpoint: a body goes out, and whatever happens comes back as an `Outcome`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.request import getproxies

import aiohttp

from kard.errors import UserError
from kard.progress import duration
from kard.recipe import TeacherSection
from kard.teacher.cache import Outcome
from kard.teacher.prompting import request_url
from kard.teacher.replies import UNPAID, first_words, hiding, response_in

LARGEST_RESPONSE = 16 * 2**20


def api_key(section: TeacherSection) -> str:
    """The key from the environment, or nothing for an endpoint that needs none.

    Raises:
        UserError: OpenAI's own endpoint is asked without a key, or the variable holds what no header can carry.
    """
    key = os.environ.get(section.api_key_env, "").strip()
    if not key and section.base_url is None:
        raise UserError(
            f"teacher.api_key_env: the environment variable {section.api_key_env} is not set. Put the key into it, or "
            "name another endpoint with teacher.base_url."
        )
    if not key.isascii() or len(key.split()) > 1 or not key.isprintable():
        raise UserError(
            f"teacher.api_key_env: the variable {section.api_key_env} holds blanks or accents. Copy the key again."
        )
    return key


class Endpoint:
    """One endpoint; used as an async context, so that its connections are closed."""

    def __init__(self, section: TeacherSection) -> None:
        self._section = section
        self._session: aiohttp.ClientSession | None = None
        self._hide = hiding("")

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    def connect(self) -> aiohttp.ClientSession:
        """The connections, made when they are first needed: where all replies are there, no key is.

        aiohttp and not openai's client: a request takes half the CPU time (benchmarks/teacher.py), and trying again, limits of
        time and reading what came are ours anyhow.
        """
        if self._session is None:
            key = api_key(self._section)
            self._hide = hiding(key)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                headers=_headers(key),
                timeout=aiohttp.ClientTimeout(self._section.timeout),
                trust_env=bool(getproxies()),  # looked up again for every request, so only where there are any
            )
        return self._session

    async def exchange(self, body: Mapping[str, Any]) -> Outcome:
        """One attempt, no longer than ``teacher.timeout``; redirects are not followed, they would be a second request."""
        session = self.connect()
        start = time.monotonic()
        url, data = request_url(self._section), json.dumps(body).encode()
        try:
            async with session.post(url, data=data, allow_redirects=False) as response:
                content = await _content_of(response)
                if content is None:
                    outcome = Outcome(failure=f"{response.status} with more than {LARGEST_RESPONSE:,} bytes")
                else:
                    outcome = response_in(response.status, response.headers, content, self._hide)
        except TimeoutError:
            outcome = Outcome(failure=f"no reply within {duration(self._section.timeout)}")
        except aiohttp.ClientError as error:
            # What never got there costs no tokens.
            cost = UNPAID if isinstance(error, aiohttp.ClientConnectorError) else None
            words = first_words(self._hide(str(error))) or type(error).__name__
            outcome = Outcome(failure=f"no connection ({words})", cost=cost)
        return replace(outcome, seconds=time.monotonic() - start)


async def _content_of(response: aiohttp.ClientResponse) -> bytes | None:
    """The body, or None where it is larger than any completion."""
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > LARGEST_RESPONSE:
            return None
    return bytes(content)


def _headers(key: str) -> dict[str, str]:
    """What openai's own client sends: the key, and the organization and project that its variables name."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key or 'none'}"}
    named = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
    return headers | {name: os.environ[variable] for name, variable in named.items() if os.environ.get(variable)}
