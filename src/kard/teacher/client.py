"""Asking an OpenAI-compatible endpoint: each request is answered, tried again, or given up for a reason."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from kard.errors import UserError
from kard.progress import Advance, duration, progress, say
from kard.recipe import TeacherSection
from kard.teacher.cache import Reply, ReplyCache
from kard.teacher.limits import Budget, Pace, Spent, most_of, spending
from kard.teacher.prompting import Request, base_url

SAY_EVERY_SECONDS = 5.0
SPENDING_EVERY_SECONDS = 60.0
# The share of failures is not judged on fewer requests than this.
_JUDGED_FROM = 50
# A request that an endpoint rejects counts, its tokens do not; one that never got there costs no tokens either.
_UNPAID = Spent(requests=1)
_NEVER_SENT = ("ConnectError", "ConnectTimeout")
_PASSING_STATUSES = (408, 409, 425, 429)
_HINTS = {
    400: "Mend the teacher section of the recipe.",
    401: "Put a valid key into the environment variable {key} (teacher.api_key_env).",
    403: "Check what the key in the environment variable {key} may use.",
    404: "Check teacher.model and teacher.base_url.",
    429: "Raise the quota at the provider.",
}


@dataclass(frozen=True)
class Outcome:
    """What one attempt gave.

    Attributes:
        reply: The reply or the failure.
        cost: What is to be paid for it; None if that is not known.
        retry_after: Seconds that the endpoint asks to wait.
        hopeless: Whether trying again, or asking anything else, is pointless.
    """

    reply: Reply
    cost: Spent | None = None
    retry_after: float | None = None
    hopeless: bool = False


def ask(requests: Iterable[Request], total: int, section: TeacherSection, cache: ReplyCache) -> dict[str, str]:
    """Send every request that has no reply in the cache yet, and store each reply the moment it arrives.

    Args:
        requests: Taken one by one as workers become free, so any number costs no memory.
        total: How many there are.
        section: The recipe's ``teacher``.
        cache: Where replies are and go.

    Returns:
        Keys of the requests that failed for good, with the reason in words.

    Raises:
        UserError: The endpoint refuses for a reason that trying again cannot mend, or too many requests failed. What
            was in flight is waited for and stored first.
    """
    return asyncio.run(_ask(iter(requests), total, section, cache))


async def _ask(requests: Iterator[Request], total: int, section: TeacherSection, cache: ReplyCache) -> dict[str, str]:
    before = cache.spent()
    with progress("ask teacher", total, "replies") as advance:
        async with _Endpoint(section) as endpoint:
            work = _Work(section, cache, endpoint, total, advance)
            await asyncio.gather(*(work.run(requests) for _ in range(section.concurrency)))
    if work.error:
        raise work.error
    if work.budget.spent != before:
        say(f"  ask teacher: {spending(work.budget.spent, section)} in all runs")
    return work.failures


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
    if not key.isascii() or len(key.split()) > 1:
        raise UserError(
            f"teacher.api_key_env: the variable {section.api_key_env} holds blanks or accents. Copy the key again."
        )
    return key


_NOT_SENT = Outcome(Reply(failure="not sent: the budget is used up"))


class _Work:
    """What the workers of one call share: the state of the endpoint, the failures, and the reason to stop."""

    def __init__(
        self, section: TeacherSection, cache: ReplyCache, endpoint: _Endpoint, total: int, advance: Advance
    ) -> None:
        self.section = section
        self.cache = cache
        self.endpoint = endpoint
        self.total = total
        self.advance = advance
        self.budget = Budget(section, cache.spent())
        self.failures: dict[str, str] = {}
        self.error: UserError | None = None
        self._stopping = asyncio.Event()
        self._in_flight: set[str] = set()
        self._finished = 0
        self._pace = Pace(section)
        self._closed_until = 0.0
        self._say_waiting_from = 0.0
        self._say_spending_from = time.monotonic() + SPENDING_EVERY_SECONDS

    async def run(self, requests: Iterator[Request]) -> None:
        """One worker: takes the next request as long as there is one and nothing stops the work."""
        for request in requests:
            # Two questions with the same words are one request.
            if request.key not in self._in_flight and self.cache.reply(request.key) is None:
                self._in_flight.add(request.key)
                await self._settle(request)
                self._in_flight.discard(request.key)
            else:
                await asyncio.sleep(0)
            if self._stopping.is_set():
                return
            self._finished += 1
            self.advance(1)
            self._say_spending()
            self._check_failures()

    async def _settle(self, request: Request) -> None:
        """Send one request until it is answered, given up, or the work stops."""
        for attempt in range(self.section.retries + 1):
            await self._wait_for_turn(request)
            if self._stopping.is_set():
                return
            outcome = await self._send(request)
            if not outcome.reply.failure or outcome is _NOT_SENT:
                return
            if outcome.hopeless:
                self._stop(UserError(self._in_the_servers_words(outcome.reply)))
                return
            if attempt < self.section.retries:
                await self._wait_after(outcome, attempt)
        self.failures[request.key] = f"{outcome.reply.failure} ({self.section.retries + 1} tries)"

    async def _send(self, request: Request) -> Outcome:
        """One attempt, noted in the cache before and after; it counts with the most it can have cost if no one says."""
        self.endpoint.connect()
        most = most_of(request.body, self.section)
        if limit := await self.budget.reserve(most):
            self._stop(self._budget_used_up(limit))
            return _NOT_SENT
        attempt = self.cache.begin(request.key, most)
        outcome = await self.endpoint.exchange(request.body)
        cost = outcome.cost or most
        reply = replace(outcome.reply, prompt_tokens=cost.prompt_tokens, completion_tokens=cost.completion_tokens)
        self.cache.finish(attempt, reply)
        self.budget.settle(most, cost)
        return outcome

    async def _wait_after(self, outcome: Outcome, attempt: int) -> None:
        """Back off: as long as the endpoint asks, or ever longer with jitter, so that not all come back at once."""
        seconds = min(self.section.max_wait, 2.0**attempt) * random.uniform(0.5, 1.0)
        if outcome.retry_after is not None:
            # The endpoint means everyone; a little jitter keeps the workers from knocking together.
            self._closed_until = max(self._closed_until, time.monotonic() + outcome.retry_after)
            seconds = outcome.retry_after + random.uniform(0.0, min(1.0, 0.1 * outcome.retry_after))
        self._say_waiting(seconds, str(outcome.reply.status or outcome.reply.failure))
        await self._pause(seconds)

    async def _wait_for_turn(self, request: Request) -> None:
        if delay := self._pace.delay(request.body):
            await self._pause(delay)
        while (seconds := self._closed_until - time.monotonic()) > 0 and not self._stopping.is_set():
            await self._pause(seconds)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def _say_waiting(self, seconds: float, why: str) -> None:
        if time.monotonic() >= self._say_waiting_from:
            self._say_waiting_from = time.monotonic() + SAY_EVERY_SECONDS
            say(f"  ask teacher: waiting {duration(seconds)}: {why}")

    def _say_spending(self) -> None:
        if time.monotonic() >= self._say_spending_from:
            self._say_spending_from = time.monotonic() + SPENDING_EVERY_SECONDS
            say(f"  ask teacher: so far {spending(self.budget.spent, self.section)}")

    def _check_failures(self) -> None:
        judged_on = max(self._finished, min(_JUDGED_FROM, self.total))
        if len(self.failures) > self.section.max_failures * judged_on:
            common = Counter(self.failures.values()).most_common(5)
            reasons = "; ".join(f"{count} × {reason}" for reason, count in common)
            self._stop(
                UserError(
                    f"teacher: {len(self.failures)} of {self._finished} requests failed, more than "
                    f"teacher.max_failures ({self.section.max_failures:g}) allows: {reasons}. "
                    "The replies so far are kept: run the same command again when the endpoint answers."
                )
            )

    def _stop(self, error: UserError) -> None:
        self.error = self.error or error
        self._stopping.set()

    def _budget_used_up(self, limit: str) -> UserError:
        return UserError(
            f"teacher.{limit} does not allow another request. So far: {spending(self.budget.spent, self.section)}. "
            "The replies are kept: raise the limit and run the same command again."
        )

    def _in_the_servers_words(self, reply: Reply) -> str:
        hint = _HINTS.get(reply.status or 0, _HINTS[400]).format(key=self.section.api_key_env)
        return f"teacher: {base_url(self.section)} answers {reply.failure}. {hint} The replies so far are kept."


class _Endpoint:
    """One endpoint: sends a body, and turns whatever happens into an `Outcome`."""

    def __init__(self, section: TeacherSection) -> None:
        self._section = section
        self._client: openai.AsyncOpenAI | None = None
        self._key = ""

    async def __aenter__(self) -> _Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    def connect(self) -> openai.AsyncOpenAI:
        """The client, made when it is first needed: where all replies are there, no key is."""
        if self._client is None:
            self._key = api_key(self._section)
            # Trying again and the limit of time are ours; the client's own would hide what they do.
            self._client = openai.AsyncOpenAI(
                api_key=self._key or "none", base_url=base_url(self._section), max_retries=0, timeout=None
            )
        return self._client

    async def exchange(self, body: dict[str, Any]) -> Outcome:
        """One attempt, no longer than ``teacher.timeout``."""
        client = self.connect()
        start = time.monotonic()
        try:
            async with asyncio.timeout(self._section.timeout):
                # The body is right as it is: chat.completions.create would take a third more CPU to go through it.
                content = await client.post("/chat/completions", cast_to=str, body=body)
            outcome = _outcome_in(content)
        except openai.APIStatusError as error:
            outcome = _rejected(error)
        except TimeoutError:
            outcome = Outcome(Reply(failure=f"no reply within {duration(self._section.timeout)}"))
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            cost = _UNPAID if type(cause).__name__ in _NEVER_SENT else None
            outcome = Outcome(
                Reply(failure=f"no connection ({_first_words(str(cause)) or type(cause).__name__})"), cost
            )
        seconds = time.monotonic() - start
        reply = replace(
            outcome.reply,
            seconds=seconds,
            text=self._safe(outcome.reply.text),
            failure=self._safe(outcome.reply.failure),
        )
        return replace(outcome, reply=reply)

    def _safe(self, text: str) -> str:
        """The text without the key: some endpoints repeat it in their errors."""
        return text.replace(self._key, "[key]") if self._key else text


def _outcome_in(content: str) -> Outcome:
    """Read a completion; anything that is none is a failure of the endpoint, to be tried again."""
    try:
        payload = json.loads(content)
    except ValueError:
        return Outcome(Reply(status=200, failure=f"200 with invalid JSON ({_first_words(content)})"))
    try:
        choice = payload["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content") or "", message.get("refusal") or ""
        finish_reason = "refusal" if refusal else str(choice.get("finish_reason") or "")
        return Outcome(Reply(str(refusal or text), finish_reason, status=200), cost=_usage_in(payload))
    except (KeyError, IndexError, TypeError, AttributeError):
        return Outcome(Reply(status=200, failure=f"200 without a completion ({_first_words(str(payload))})"))


def _usage_in(payload: dict[str, Any]) -> Spent | None:
    """Tokens as the endpoint counted them, if it did."""
    usage = payload.get("usage")
    if not isinstance(usage, dict):
        return None
    tokens_in, tokens_out = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return Spent(1, tokens_in, tokens_out) if isinstance(tokens_in, int) and isinstance(tokens_out, int) else None


def _rejected(error: openai.APIStatusError) -> Outcome:
    """An HTTP error: 429 and 5xx pass, an empty purse and the client's own mistakes do not."""
    status = error.status_code
    words = error.body.get("message") if isinstance(error.body, dict) else None
    reply = Reply(status=status, failure=f"{status} {_first_words(str(words or error.response.text))}".strip())
    if error.code in ("content_filter", "content_policy_violation"):
        return Outcome(replace(reply, failure="", finish_reason="content_filter", text=reply.failure), _UNPAID)
    passing = status in _PASSING_STATUSES and error.code != "insufficient_quota"
    return Outcome(reply, _UNPAID, _retry_after(error), hopeless=status < 500 and not passing)


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds that the endpoint asks to wait, from either header and either form."""
    headers = error.response.headers
    with suppress(ValueError):
        return (
            max(0.0, float(headers["retry-after-ms"]) / 1000) if "retry-after-ms" in headers else _seconds_in(headers)
        )
    return None


def _seconds_in(headers: Any) -> float | None:
    value = headers.get("retry-after")
    if value is None:
        return None
    with suppress(ValueError):
        return max(0.0, float(value))
    return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())


def _first_words(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:300] + " …"
