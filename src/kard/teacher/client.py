"""Asking an OpenAI-compatible endpoint: each request is answered, tried again, or given up for a reason."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from kard.errors import UserError
from kard.progress import Advance, duration, progress, say
from kard.recipe import TeacherSection
from kard.teacher.cache import Outcome, ReplyCache
from kard.teacher.endpoint import Endpoint
from kard.teacher.limits import Budget, Pace, most_of, spending
from kard.teacher.prompting import Request, base_url, joined

SAY_EVERY_SECONDS = 5.0
SPENDING_EVERY_SECONDS = 60.0
# The share of failures is not judged on fewer requests than this.
_JUDGED_FROM = 50
_HINTS = {
    400: "Mend the teacher section of the recipe.",
    401: "Put a valid key into the environment variable {key} (teacher.api_key_env).",
    403: "Check what the key in the environment variable {key} may use.",
    404: "Check teacher.model and teacher.base_url.",
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
    return asyncio.run(_ask(iter(groups), total, section, cache))


async def _ask(
    groups: Iterator[Sequence[Request]], total: int, section: TeacherSection, cache: ReplyCache
) -> dict[str, str]:
    before = cache.spent()
    with progress("ask teacher", total, "replies") as advance:
        async with Endpoint(section) as endpoint:
            work = _Work(section, cache, endpoint, total, advance)
            await asyncio.gather(*(work.run(groups) for _ in range(section.concurrency)))
    if work.surplus:
        say(f"  ask teacher: {work.surplus:,} texts came that were not asked for, and were left out")
    if work.error:
        raise work.error
    if work.budget.spent != before:
        say(f"  ask teacher: {spending(work.budget.spent, section)} in all runs")
    return work.failures


_NOT_SENT = Outcome(failure="not sent: the budget is used up")


class _Work:
    """What the workers of one call share: the state of the endpoint, the failures, and the reason to stop."""

    def __init__(
        self, section: TeacherSection, cache: ReplyCache, endpoint: Endpoint, total: int, advance: Advance
    ) -> None:
        self.section = section
        self.cache = cache
        self.endpoint = endpoint
        self.total = total
        self.advance = advance
        self.budget = Budget(section, cache.spent())
        self.failures: dict[str, str] = {}
        self.surplus = 0
        self.error: UserError | None = None
        self._stopping = asyncio.Event()
        self._in_flight: set[str] = set()
        self._finished = 0
        self._pace = Pace(section)
        self._closed_until = 0.0
        self._say_waiting_from = 0.0
        self._say_spending_from = time.monotonic() + SPENDING_EVERY_SECONDS

    async def run(self, groups: Iterator[Sequence[Request]]) -> None:
        """One worker: takes the next requests as long as there are any and nothing stops the work."""
        for group in groups:
            # Two questions with the same words are one request.
            missing = [one for one in group if one.key not in self._in_flight and not self.cache.has(one.key)]
            if missing:
                self._in_flight.update(one.key for one in missing)
                await self._settle(missing)
                self._in_flight.difference_update(one.key for one in missing)
            else:
                await asyncio.sleep(0)
            if self._stopping.is_set():
                return
            self._finished += len(group)
            self.advance(len(group))
            self._say_spending()
            self._check_failures()

    async def _settle(self, missing: Sequence[Request]) -> None:
        """Send requests until they are answered, given up, or the work stops; a reply may hold fewer texts than asked for."""
        failed = 0
        while missing and failed <= self.section.retries:
            await self._wait_for_turn(missing)
            if self._stopping.is_set():
                return
            outcome = await self._send(missing)
            if outcome is _NOT_SENT:
                return
            if outcome.hopeless:
                self._stop(UserError(self._in_the_servers_words(outcome)))
                return
            missing = missing[len(outcome.replies) :]
            failed = failed + 1 if outcome.failure else 0
            if outcome.failure and failed <= self.section.retries:
                await self._wait_after(outcome, failed - 1)
        self.failures |= {one.key: f"{outcome.failure} ({failed} tries)" for one in missing}

    async def _send(self, missing: Sequence[Request]) -> Outcome:
        """One attempt, noted in the cache before and after; it counts with the most it can have cost if no one says."""
        self.endpoint.connect()
        body = joined(missing)
        most = most_of(body, self.section)
        if limit := await self.budget.reserve(most):
            self._stop(self._budget_used_up(limit))
            return _NOT_SENT
        keys = [one.key for one in missing]
        attempt = self.cache.begin(keys, most)
        outcome = await self.endpoint.exchange(body)
        cost = outcome.cost or most
        self.cache.finish(attempt, keys, outcome, cost)
        self.budget.settle(most, cost)
        self.surplus += max(0, len(outcome.replies) - len(keys))
        return outcome

    async def _wait_after(self, outcome: Outcome, attempt: int) -> None:
        """Back off: as long as the endpoint asks, or ever longer with jitter, so that not all come back at once."""
        seconds = min(self.section.max_wait, 2.0**attempt) * random.uniform(0.5, 1.0)
        if outcome.retry_after is not None:
            # The endpoint means everyone; a little jitter keeps the workers from knocking together.
            self._closed_until = max(self._closed_until, time.monotonic() + outcome.retry_after)
            seconds = outcome.retry_after + random.uniform(0.0, min(1.0, 0.1 * outcome.retry_after))
        self._say_waiting(seconds, str(outcome.status or outcome.failure))
        await self._pause(seconds)

    async def _wait_for_turn(self, missing: Sequence[Request]) -> None:
        if delay := self._pace.delay(joined(missing)):
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
        if error := too_many_failures(self.failures, self._finished, self.total, self.section):
            self._stop(error)

    def _stop(self, error: UserError) -> None:
        self.error = self.error or error
        self._stopping.set()

    def _budget_used_up(self, limit: str) -> UserError:
        return UserError(
            f"teacher.{limit} does not allow another request. So far: {spending(self.budget.spent, self.section)}. "
            "The replies are kept: raise the limit and run the same command again."
        )

    def _in_the_servers_words(self, outcome: Outcome) -> str:
        hint = _HINTS.get(outcome.status or 0, _HINTS[400]).format(key=self.section.api_key_env)
        return f"teacher: {base_url(self.section)} answers {outcome.failure}. {hint} The replies so far are kept."


def too_many_failures(
    failures: Mapping[str, str], finished: int, total: int, section: TeacherSection
) -> UserError | None:
    """The error to stop with where a larger share failed than ``teacher.max_failures`` allows."""
    if len(failures) <= section.max_failures * max(finished, min(_JUDGED_FROM, total)):
        return None
    common = Counter(failures.values()).most_common(5)
    reasons = "; ".join(f"{count} × {reason}" for reason, count in common)
    return UserError(
        f"teacher: {len(failures)} of {finished} requests failed, more than "
        f"teacher.max_failures ({section.max_failures:g}) allows: {reasons}. "
        "The replies so far are kept: run the same command again when the endpoint answers."
    )
