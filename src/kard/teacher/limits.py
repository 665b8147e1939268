"""How fast a teacher is asked, and how much it may cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kard.recipe import TeacherSection

CHARACTERS_PER_TOKEN = 4
# What a chat template may add to the messages.
_TEMPLATE_TOKENS = 64
# No tokenizer makes tokens of more characters of a text, on average.
_LONGEST_TOKEN = 32
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

    def usd(self, section: TeacherSection) -> float:
        """The price in US dollars, by the recipe's prices a million tokens."""
        paid = self.prompt_tokens * section.input_price + self.completion_tokens * section.output_price
        return paid / 1_000_000


def spending(spent: Spent, section: TeacherSection) -> str:
    """What was spent, in words; in money as well where the recipe names prices."""
    words = f"{spent.requests:,} requests, {spent.prompt_tokens:,} tokens in, {spent.completion_tokens:,} out"
    return f"{words}, ${spent.usd(section):,.4f}" if section.input_price + section.output_price else words


def most_of(body: Mapping[str, Any], section: TeacherSection) -> Spent:
    """The most that one request can cost: no tokenizer makes more tokens than the text has bytes."""
    size = len(_text_of(body).encode("utf-8", "surrogatepass"))
    return Spent(1, size + _TEMPLATE_TOKENS, _longest_reply(body, section))


def counted(tokens: tuple[int | None, int | None], written: int, most: Spent) -> Spent:
    """What an answered request counts: what the endpoint says as far as it can be true, else the most it can have cost.

    Args:
        tokens: In and out, as the endpoint counts them.
        written: Characters of its texts.
        most: By `most_of`.
    """
    read = most.prompt_tokens - _TEMPLATE_TOKENS
    return Spent(1, _told(tokens[0], read, most.prompt_tokens), _told(tokens[1], written, most.completion_tokens))


def _told(count: int | None, characters: int, most: int) -> int:
    return count if count is not None and characters // _LONGEST_TOKEN <= count <= LARGEST_COUNT else most


def likely_cost(body: Mapping[str, Any], section: TeacherSection) -> Spent:
    """What one request is likely to cost: the prompt by its characters, and the longest reply."""
    return Spent(1, len(_text_of(body)) // CHARACTERS_PER_TOKEN, _longest_reply(body, section))


def _text_of(body: Mapping[str, Any]) -> str:
    """All that the model reads."""
    return "".join(message["content"] for message in body["messages"]) if "messages" in body else str(body["prompt"])


def _longest_reply(body: Mapping[str, Any], section: TeacherSection) -> int:
    longest = body.get("max_completion_tokens") or body.get("max_tokens") or section.max_tokens
    return longest * body.get("n", 1)


class Budget:
    """Lets a request go only if it fits even when everything in flight costs the most that it can.

    Args:
        section: The recipe's ``teacher``: max_requests, max_total_tokens, max_usd and the prices.
        spent: What earlier runs have spent.
    """

    def __init__(self, section: TeacherSection, spent: Spent) -> None:
        self.spent = spent
        self._section = section
        self._reserved = Spent()
        self._settled = asyncio.Event()

    async def reserve(self, most: Spent) -> str:
        """Set `most` aside, waiting for what is in flight where it does not fit yet.

        Returns:
            Nothing, or the key and value of the limit that it does not fit under, although nothing is in flight.
        """
        while limit := exceeded(self.spent + self._reserved + most, self._section):
            if not self._reserved.requests:
                return limit
            self._settled.clear()
            await self._settled.wait()
        self._reserved += most
        return ""

    def settle(self, most: Spent, cost: Spent) -> None:
        """Replace what was set aside by what it did cost."""
        self._reserved += -most
        self.spent += cost
        self._settled.set()


def exceeded(spent: Spent, section: TeacherSection) -> str:
    """Key and value of the first limit that is below what would be spent, or nothing."""
    used: dict[str, tuple[float, float | None]] = {
        "max_requests": (spent.requests, section.max_requests),
        "max_total_tokens": (spent.prompt_tokens + spent.completion_tokens, section.max_total_tokens),
        "max_usd": (spent.usd(section), section.max_usd),
    }
    over = (f"{key} ({limit:,})" for key, (amount, limit) in used.items() if limit is not None and amount > limit)
    return next(over, "")


class Pace:
    """Spreads requests evenly, so that no minute holds more of them, or more tokens, than the recipe allows."""

    def __init__(self, section: TeacherSection) -> None:
        self._section = section
        self._seconds_a_request = 60 / section.requests_per_minute if section.requests_per_minute else 0.0
        self._seconds_a_token = 60 / section.tokens_per_minute if section.tokens_per_minute else 0.0
        self._next = 0.0

    def delay(self, body: Mapping[str, Any]) -> float:
        """Seconds until this request may be sent; its turn is taken by asking."""
        likely = likely_cost(body, self._section)
        tokens = likely.prompt_tokens + likely.completion_tokens
        now = time.monotonic()
        turn = max(now, self._next)
        self._next = turn + max(self._seconds_a_request, tokens * self._seconds_a_token)
        return turn - now
