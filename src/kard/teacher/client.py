"""Asking an OpenAI-compatible endpoint: each request is answered, tried again, or given up for a reason."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from kard.errors import UserError
from kard.progress import Advance, duration, progress, say
from kard.recipe.teacher import TeacherSection
from kard.teacher.cache import ReplyCache
from kard.teacher.endpoint import Endpoint
from kard.teacher.limits import Budget, Spent, most_of, spending
from kard.teacher.prompting import Request, joined, request_url
from kard.teacher.replies import PASSING_STATUSES, Outcome

RETRIES = 8
# Before one of them, in seconds, also where the endpoint asks for a longer wait.
LONGEST_WAIT = 60.0
# A larger share of failures ends the work; it is not judged on fewer requests than so many.
MAX_FAILURES = 0.2
_JUDGED_FROM = 50
SAY_EVERY_SECONDS = 5.0
_BYTES_A_TOKEN = 16
# Statuses that one request can earn by its length or its words.
_OWN_FAULTS = (400, 413, 422)
# By status, or by its hundreds.
_HINTS = {
    2: "Check teacher.base_url; most servers want /v1 at its end.",
    3: "Set teacher.base_url to where it leads.",
    4: "Mend the teacher section of the recipe; teacher.extra_body: {{KEY: null}} takes a key of the request out.",
    401: "Put a valid key into the environment variable {key} (teacher.resources.api_key_env).",
    402: "Fill up the account at the provider.",
    403: "Check what the key in the environment variable {key} may use.",
    404: "Check teacher.model and teacher.base_url; most servers want /v1 at the end of teacher.base_url.",
    429: "Raise the quota at the provider.",
}
Groups = Iterable[Sequence[Request]]


def ask(groups: Groups, total: int, section: TeacherSection, cache: ReplyCache) -> dict[str, str]:
    """Send every request that has no reply in the cache yet, and store each reply the moment it arrives.

    Args:
        groups: Requests that may be sent as one (``n``), taken as workers become free, so that any number costs no memory.
        total: How many requests there are.
        section: The recipe's ``teacher``.
        cache: Where replies are and go.

    Returns:
        Keys of the requests that failed for good, with the reason in words.

    Raises:
        UserError: The endpoint refuses for a reason that trying again cannot mend, or too many requests failed. What
            was in flight is waited for and stored first.
    """
    before = cache.spent()
    with progress("ask teacher", total, "replies") as advance:
        work = _Work(section, cache, total, advance)
        _run(work.run(iter(groups)))
    if work.surplus:
        say(f"  ask teacher: {work.surplus:,} texts came that were not asked for, and were left out")
    if work.error:
        raise work.error
    if work.budget.spent != before:
        say(f"  ask teacher: {spending(work.budget.spent, section.resources)} in all runs")
    return work.failures


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end; where an event loop runs already, as in Jupyter, with a loop in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
    else:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, work).result()


class _Work:
    """What the workers of one call share: the state of the endpoint, the failures, and the reason to stop."""

    def __init__(self, section: TeacherSection, cache: ReplyCache, total: int, advance: Advance) -> None:
        self.section = section
        self.cache = cache
        self.total = total
        self.advance = advance
        self.endpoint = Endpoint(section)
        self.budget = Budget(section.resources, cache.spent())
        self.failures: dict[str, str] = {}
        self.surplus = 0
        self.error: UserError | None = None
        self._stopping = asyncio.Event()
        self._any_answered = False
        self._in_flight: set[str] = set()
        self._finished = 0
        # When the next request may go: by the recipe's limit a minute, and by what the endpoint asks for.
        self._next_turn = 0.0
        self._say_waiting_from = 0.0

    async def run(self, groups: Iterator[Sequence[Request]]) -> None:
        """Send all there is; whatever ends the work early, what is in flight is waited for and stored."""
        workers = [asyncio.create_task(self._work(groups)) for _ in range(self.section.resources.concurrency)]
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            if self._in_flight:
                say(f"  ask teacher: stopping, {len(self._in_flight):,} replies under way are waited for")
            self._stopping.set()
            ends = await asyncio.gather(*workers, return_exceptions=True)
            await self.endpoint.close()
        for error in ends:
            if error is not None:
                raise error

    async def _work(self, groups: Iterator[Sequence[Request]]) -> None:
        """One worker: takes the next requests as long as there are any and nothing stops the work."""
        try:
            for group in groups:
                await self._work_off(group)
                if self._stopping.is_set():
                    return
                self._finished += len(group)
                self.advance(len(group))
                check_failures(self.failures, self._finished, self.total, self.section)
        except UserError as error:
            self.error = self.error or error
            self._stopping.set()

    async def _work_off(self, group: Sequence[Request]) -> None:
        there = [one for one in group if self.cache.has(one.key)]
        self._any_answered |= bool(there)
        # Two questions with the same words are one request.
        missing = [one for one in group if one not in there and one.key not in self._in_flight]
        if not missing:
            return await asyncio.sleep(0)
        keys = {one.key for one in missing}
        self._in_flight |= keys
        try:
            await self._settle(missing)
        finally:
            self._in_flight -= keys

    async def _settle(self, missing: Sequence[Request]) -> None:
        """Send requests until they are answered, given up, or the work stops; a reply may hold fewer texts than asked for."""
        failed = 0
        while missing:
            await self._wait_for_turn()
            outcome = await self._send(missing)
            if outcome is None:
                return
            missing = missing[len(outcome.replies) :]
            failed = failed + 1 if outcome.failure else 0
            if outcome.hopeless or failed > RETRIES:
                self._give_up(missing, outcome, failed)
                return
            if outcome.failure:
                await self._wait_after(outcome, failed)

    def _give_up(self, missing: Sequence[Request], outcome: Outcome, failed: int) -> None:
        """Note the failure; it ends the work, unless it is this request's own fault: too long, say, while others are answered."""
        tries = "" if outcome.hopeless else f" ({failed} tries)"
        self.failures |= {one.key: f"{outcome.failure}{tries}" for one in missing}
        some_fail = len(self.failures) < min(self.section.resources.concurrency, self.total)
        own_fault = outcome.status in _OWN_FAULTS and (self._any_answered or some_fail)
        if outcome.hopeless and not own_fault:
            raise UserError(in_the_servers_words(outcome, self.section))

    async def _send(self, missing: Sequence[Request]) -> Outcome | None:
        """One attempt, noted in the cache before and after; None where the work stops before."""
        self.endpoint.connect()
        body, keys = joined(missing), [one.key for one in missing]
        most, cost = most_of(body, self.section), Spent()
        await self.budget.reserve(most)
        try:
            if self._stopping.is_set():
                return None
            # For all texts that can be under way; one is hardly ever longer.
            texts = self.section.resources.concurrency * self.section.asked_for
            self.cache.set_aside(max(2**20, texts * _BYTES_A_TOKEN * self.section.max_tokens))
            attempt = self.cache.begin(keys, most)
            outcome = await self.endpoint.exchange(body)
            cost = outcome.cost_at_most(most)
            self.cache.finish(attempt, keys, outcome, cost)
        finally:
            self.budget.spend(most, cost)
        self._any_answered |= bool(outcome.replies)
        self.surplus += max(0, len(outcome.replies) - len(missing))
        return outcome

    async def _wait_after(self, outcome: Outcome, failed: int) -> None:
        """Back off: as long as the endpoint asks, or ever longer with jitter, so that not all come back at once."""
        why = outcome.failure
        seconds = min(LONGEST_WAIT, 2.0 ** (failed - 1)) * random.uniform(0.5, 1.0)
        if outcome.retry_after is not None:
            if outcome.retry_after > LONGEST_WAIT:
                why += "; it asks for more"
            asked = min(LONGEST_WAIT, outcome.retry_after)
            # The endpoint means everyone; a little jitter keeps the workers from knocking together.
            self._next_turn = max(self._next_turn, time.monotonic() + asked)
            seconds = asked + random.uniform(0.0, min(1.0, 0.1 * asked))
        if time.monotonic() >= self._say_waiting_from:
            self._say_waiting_from = time.monotonic() + SAY_EVERY_SECONDS
            say(f"  ask teacher: waiting {duration(seconds)}: {why}")
        await self._pause(seconds)

    async def _wait_for_turn(self) -> None:
        while (seconds := self._next_turn - time.monotonic()) > 0 and not self._stopping.is_set():
            await self._pause(seconds)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


def in_the_servers_words(outcome: Outcome, section: TeacherSection) -> str:
    """Why an endpoint takes no request, with what to do."""
    words = outcome.failure.rstrip(". ")
    hint = _hint(outcome.status or 400, section)
    return f"teacher: {request_url(section)} answers {words}. {hint} The replies so far are kept."


def _hint(status: int, section: TeacherSection) -> str:
    hint = _HINTS.get(status) or _HINTS.get(status // 100, "Run the same command again when the endpoint answers.")
    return hint.format(key=section.resources.api_key_env)


def check_failures(failures: Mapping[str, str], finished: int, total: int, section: TeacherSection) -> None:
    """Raise UserError where too large a share of the requests failed."""
    if len(failures) <= MAX_FAILURES * max(finished, min(_JUDGED_FROM, total)):
        return
    common = Counter(failures.values()).most_common(5)
    reasons = "; ".join(f"{count} × {reason.rstrip('. ')}" for reason, count in common)
    found = re.match(r"\d{3}\b", common[0][0])  # a reason begins with the status, where there was one
    status = int(found[0]) if found and int(found[0]) not in PASSING_STATUSES else 0
    raise UserError(
        f"teacher: {len(failures)} of {finished} requests to {request_url(section)} failed, more than a share of "
        f"{MAX_FAILURES:g}: {reasons}. {_hint(status, section)} The replies so far are kept."
    )
