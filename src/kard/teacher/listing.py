"""Which models an endpoint knows, asked once before hours of other work: a wrong name or key is found in a second."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from kard.errors import UserError, nearest
from kard.progress import say
from kard.recipe import TeacherSection
from kard.teacher.endpoint import Endpoint
from kard.teacher.prompting import base_url
from kard.teacher.replies import parsed

_SECONDS = 10.0
_LARGEST = 4 * 2**20
_SHOWN = 8


def check_endpoint(section: TeacherSection) -> None:
    """Ask for the endpoint's models (``GET /models``); one that has no such list is taken as it is.

    Raises:
        UserError: There is no key, the endpoint refuses it, nothing answers at its address, or it does not know the model.
    """
    status, names = asyncio.run(_listed(section))
    where = base_url(section)
    if status in (401, 403):
        raise UserError(
            f"teacher: {where} refuses the key ({status}). Put a valid one into the environment variable {section.api_key_env} "
            "(teacher.api_key_env)."
        )
    if names and not any(_same(str(section.model), name) for name in names):
        listed = ", ".join(sorted(names)[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
        raise UserError(
            f"teacher.model: {where} does not know '{section.model}'{nearest(str(section.model), names)}. It has: {listed}. "
            "Name one of them."
        )
    if not names:
        say(f"  teacher: {where} names no models; whether it has '{section.model}' shows when it is first asked")


async def _listed(section: TeacherSection) -> tuple[int, list[str]]:
    """HTTP status and names; 0 and none where the endpoint answers nothing that can be read."""
    url = f"{base_url(section)}/models"
    timeout = aiohttp.ClientTimeout(min(_SECONDS, section.timeout))
    async with Endpoint(section) as endpoint:
        try:
            async with endpoint.connect().get(url, timeout=timeout, allow_redirects=False) as response:
                content = await response.content.read(_LARGEST)
                return response.status, _names_in(parsed(content.decode("utf-8", errors="replace")))
        except aiohttp.ClientConnectorError as error:
            raise UserError(
                f"teacher.base_url: nothing answers at {base_url(section)} ({error.os_error}). Start the server, "
                "or mend the address."
            ) from error
        except (aiohttp.ClientError, TimeoutError):
            return 0, []


def _names_in(payload: Any) -> list[str]:
    """The ids of a list of models; none of llama.cpp's server, which answers to any name."""
    rows = payload.get("data") if isinstance(payload, dict) else None
    models = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [str(row["id"]) for row in models if "id" in row and row.get("owned_by") != "llamacpp"]


def _same(name: str, known: str) -> bool:
    """Whether an endpoint means the same model: Ollama takes a name without its tag, routers one with a variant behind it."""
    return name == known or name == known.partition(":")[0] or name.partition(":")[0] == known
