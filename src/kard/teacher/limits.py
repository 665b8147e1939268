"""What asking a teacher may cost, and what it did."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kard.errors import UserError
from kard.recipe.teacher import TeacherResources, TeacherSection

CHARACTERS_PER_TOKEN = 4
# What a chat template may add to the messages.
TEMPLATE_TOKENS = 64
# In one request; what an endpoint says beyond it is no count of tokens.
LARGEST_COUNT = 10_000_000


@dataclass(frozen=True)
class Spent:
    """Requests sent, tokens in and tokens out."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def __neg__(self) -> Spent:
        return Spent(-self.requests, -self.prompt_tokens, -self.completion_tokens)

    def usd(self, resources: TeacherResources) -> float:
        """The price in US dollars, by the recipe's prices a million tokens."""
        paid = self.prompt_tokens * resources.input_price + self.completion_tokens * resources.output_price
        return paid / 1_000_000


def spending(spent: Spent, resources: TeacherResources) -> str:
    """What was spent, in words; in money as well where the recipe names prices."""
    words = f"{spent.requests:,} requests, {spent.prompt_tokens:,} tokens in, {spent.completion_tokens:,} out"
    return f"{words}, ${spent.usd(resources):,.4f}" if resources.has_prices else words


def most_of(body: Mapping[str, Any], section: TeacherSection) -> Spent:
    """The most that one request can cost: no tokenizer makes more tokens than the text has bytes."""
    size = len(_text_of(body).encode("utf-8", "surrogatepass"))
    return Spent(1, size + TEMPLATE_TOKENS, _longest_reply(body, section))


def likely_cost(body: Mapping[str, Any], section: TeacherSection, reply: str | None = None) -> Spent:
    """What one request is likely to cost: the prompt by its characters, and a reply as long as this one, or the longest."""
    written = _longest_reply(body, section) if reply is None else _tokens(reply)
    return Spent(1, _tokens(_text_of(body)), written)


def _tokens(text: str) -> int:
    return max(1, len(text) // CHARACTERS_PER_TOKEN)


def _text_of(body: Mapping[str, Any]) -> str:
    return body["messages"][0]["content"] if "messages" in body else body["prompt"]


def _longest_reply(body: Mapping[str, Any], section: TeacherSection) -> int:
    longest = body.get("max_completion_tokens") or body.get("max_tokens") or section.max_tokens
    return longest * body.get("n", 1)


class Budget:
    """Lets a request go only if it fits even when everything in flight costs the most that it can.

    Args:
        resources: The recipe's ``teacher.resources``: max_total_tokens, max_usd and the prices.
        spent: What earlier runs have spent.
    """

    def __init__(self, resources: TeacherResources, spent: Spent) -> None:
        self.spent = spent
        self._resources = resources
        self._reserved = Spent()
        self._settled = asyncio.Event()

    async def reserve(self, most: Spent) -> None:
        """Set `most` aside, waiting for what is in flight where it does not fit yet.

        Raises:
            UserError: It does not fit, although nothing is in flight.
        """
        while limit := exceeded(self.spent + self._reserved + most, self._resources):
            if not self._reserved.requests:
                raise used_up(limit, self.spent, self._resources)
            self._settled.clear()
            await self._settled.wait()
        self._reserved += most

    def spend(self, most: Spent, cost: Spent) -> None:
        """Replace what was set aside by what it did cost."""
        self._reserved += -most
        self.spent += cost
        self._settled.set()


def exceeded(spent: Spent, resources: TeacherResources) -> str:
    """Key and value of the first limit that is below what would be spent, or nothing."""
    tokens, usd = resources.max_total_tokens, resources.max_usd
    if tokens is not None and spent.prompt_tokens + spent.completion_tokens > tokens:
        return f"max_total_tokens ({tokens:,})"
    return f"max_usd ({usd:,})" if usd is not None and spent.usd(resources) > usd else ""


def used_up(limit: str, spent: Spent, resources: TeacherResources) -> UserError:
    """The error where a limit, as `exceeded` names it, lets nothing more go."""
    return UserError(
        f"teacher.resources.{limit} does not allow another request. So far: {spending(spent, resources)}. "
        "The replies are kept: raise the limit and run the same command again."
    )
