"""Asking an OpenAI-compatible endpoint: each request is answered, tried again, or given up for a reason."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kard.errors import UserError
from kard.progress import Advance, duration, progress, say
from kard.recipe import TeacherSection
from kard.teacher.cache import Outcome, ReplyCache
from kard.teacher.endpoint import Endpoint
from kard.teacher.limits import Budget, Pace, Spent, counted, most_of, spending
from kard.teacher.prompting import Request, joined, request_url

SAY_EVERY_SECONDS = 5.0
SPENDING_EVERY_SECONDS = 60.0
# The share of failures is not judged on fewer requests than this.
_JUDGED_FROM = 50
_BYTES_A_TOKEN = 16
_LONGEST_SAID = 1e9
# Statuses that one request can earn by its length or its words.
_OWN_FAULTS = (400, 413, 422)
_UNKNOWN_KEY = re.compile(
    r"extra|(?:un|not )(?:supported|known|recogni[sz]ed|expected|permitted|allowed)|does not support", re.IGNORECASE
)
_SENT_KEYS = ("max_tokens", "temperature", "top_p", "stop", "seed")
_HINTS = {
    400: "Mend the teacher section of the recipe.",
    402: "Fill up the account at the provider.",
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
            await work.run(groups)
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
        self._rejection: UserError | None = None
        self._rejected = 0  # workers that wait whether others fare better
        self._at_work = 0
        self._any_answered = False
        self._judged = asyncio.Event()  # something was answered, or the work stops
        self._stopping = asyncio.Event()
        self._in_flight: set[str] = set()
        self._finished = 0
        self._pace = Pace(section)
        # For what is under way; a text is hardly ever longer.
        texts = section.concurrency * (section.rationales or 1)
        self._room = max(2**20, texts * _BYTES_A_TOKEN * section.max_tokens)
        self._closed_until = 0.0
        self._say_waiting_from = 0.0
        self._say_spending_from = time.monotonic() + SPENDING_EVERY_SECONDS

    async def run(self, groups: Iterator[Sequence[Request]]) -> None:
        """Send all there is; whatever ends the work early, what is in flight is waited for and stored."""
        workers = [asyncio.create_task(self._work(groups)) for _ in range(self.section.concurrency)]
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            if self._in_flight:
                say(f"  ask teacher: stopping, {len(self._in_flight):,} replies under way are waited for")
            self._halt()
            ends = await asyncio.gather(*workers, return_exceptions=True)
        for error in ends:
            if error is not None:
                raise error

    async def _work(self, groups: Iterator[Sequence[Request]]) -> None:
        self._at_work += 1
        try:
            await self._work_off(groups)
        finally:
            self._at_work -= 1
            self._stop_if_all_are_rejected()

    async def _work_off(self, groups: Iterator[Sequence[Request]]) -> None:
        """One worker: takes the next requests as long as there are any and nothing stops the work."""
        for group in groups:
            there = [one for one in group if self.cache.has(one.key)]
            self._note_answers(len(there))
            # Two questions with the same words are one request.
            missing = [one for one in group if one not in there and one.key not in self._in_flight]
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
        outcome = Outcome()
        while missing and failed <= self.section.retries and not outcome.hopeless:
            await self._wait_for_turn(missing)
            if self._stopping.is_set():
                return
            outcome = await self._send(missing)
            if outcome is _NOT_SENT:
                return
            missing = missing[len(outcome.replies) :]
            failed = failed + 1 if outcome.failure else 0
            if outcome.hopeless:
                await self._reject(outcome)
            elif outcome.failure and failed <= self.section.retries:
                await self._wait_after(outcome, failed - 1)
        tries = "" if outcome.hopeless else f" ({failed} tries)"
        self.failures |= {one.key: f"{outcome.failure}{tries}" for one in missing}

    async def _reject(self, outcome: Outcome) -> None:
        """Stop, unless it is this request's own fault: too long, say, while others with the same settings are answered."""
        self._rejection = UserError(in_the_servers_words(outcome, self.section))
        if outcome.status not in _OWN_FAULTS:
            self._stop(self._rejection)
        elif not self._any_answered:
            self._rejected += 1
            self._stop_if_all_are_rejected()
            await self._judged.wait()
            self._rejected -= 1

    def _stop_if_all_are_rejected(self) -> None:
        if self._rejection and self._rejected >= self._at_work and not self._any_answered:
            self._stop(self._rejection)

    def _note_answers(self, count: int) -> None:
        if count:
            self._any_answered = True
            self._judged.set()

    async def _send(self, missing: Sequence[Request]) -> Outcome:
        """One attempt, noted in the cache before and after; it counts with the most it can have cost if no one says."""
        self.endpoint.connect()
        body = joined(missing)
        most = most_of(body, self.section)
        if limit := await self.budget.reserve(most):
            self._stop(self._budget_used_up(limit))
            return _NOT_SENT
        cost = Spent()
        try:
            if self._stopping.is_set():
                return _NOT_SENT
            outcome, cost = await self._exchange([one.key for one in missing], body, most)
        except UserError as error:  # of the cache: nothing more is sent that could not be stored
            self._stop(error)
            return _NOT_SENT
        finally:
            self.budget.settle(most, cost)
        self._note_answers(len(outcome.replies))
        self.surplus += max(0, len(outcome.replies) - len(missing))
        return outcome

    async def _exchange(self, keys: Sequence[str], body: Mapping[str, Any], most: Spent) -> tuple[Outcome, Spent]:
        """Ask for one body; its outcome is stored, and comes with what it counts."""
        self.cache.set_aside(self._room)
        attempt = self.cache.begin(keys, most)
        outcome = await self.endpoint.exchange(body)
        cost = cost_of(outcome, most)
        self.cache.finish(attempt, keys, outcome, cost)
        return outcome, cost

    async def _wait_after(self, outcome: Outcome, attempt: int) -> None:
        """Back off: as long as the endpoint asks, or ever longer with jitter, so that not all come back at once."""
        longest, why = self.section.max_wait, str(outcome.status or outcome.failure)
        seconds = min(longest, 2.0 ** min(attempt, 60)) * random.uniform(0.5, 1.0)
        if outcome.retry_after is not None:
            if outcome.retry_after > longest:
                why += f"; it asks for {duration(min(outcome.retry_after, _LONGEST_SAID))}, teacher.max_wait is less"
            asked = min(longest, outcome.retry_after)
            # The endpoint means everyone; a little jitter keeps the workers from knocking together.
            self._closed_until = max(self._closed_until, time.monotonic() + asked)
            seconds = asked + random.uniform(0.0, min(1.0, 0.1 * asked))
        self._say_waiting(seconds, why)
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
        self._halt()

    def _halt(self) -> None:
        self._stopping.set()
        self._judged.set()

    def _budget_used_up(self, limit: str) -> UserError:
        return UserError(
            f"teacher.{limit} does not allow another request. So far: {spending(self.budget.spent, self.section)}. "
            "The replies are kept: raise the limit and run the same command again."
        )


def cost_of(outcome: Outcome, most: Spent) -> Spent:
    """What an attempt counts, never less than it can have cost."""
    if outcome.cost is not None:
        return outcome.cost
    return counted(outcome.tokens, sum(len(text) for text, _ in outcome.replies), most)


def in_the_servers_words(outcome: Outcome, section: TeacherSection) -> str:
    """Why an endpoint takes no request, with what to do."""
    what = _advice(outcome, section)
    return (
        f"teacher: {request_url(section)} answers {outcome.failure.rstrip('. ')}. {what} The replies so far are kept."
    )


def _advice(outcome: Outcome, section: TeacherSection) -> str:
    status, words = outcome.status or 0, outcome.failure
    if 300 <= status < 400:
        return "Set teacher.base_url to where it leads."
    if status in (404, 405) and section.base_url and not re.search(r"/v\d", request_url(section)):
        return f"{_HINTS[404]} Most servers want /v1 at the end of teacher.base_url."
    named = re.findall(r"\w+", words) if status in (400, 422) and _UNKNOWN_KEY.search(words) else []
    sent = {*_SENT_KEYS, *section.extra_body}
    if key := next((word for word in named if word in sent), ""):
        instead = ", max_completion_tokens: 2000" if key == "max_tokens" else ""
        return f"Take the key out: teacher.extra_body: {{{key}: null{instead}}}."
    return _HINTS.get(status, _HINTS[400]).format(key=section.api_key_env)


def too_many_failures(
    failures: Mapping[str, str], finished: int, total: int, section: TeacherSection
) -> UserError | None:
    """The error to stop with where a larger share failed than ``teacher.max_failures`` allows."""
    if len(failures) <= section.max_failures * max(finished, min(_JUDGED_FROM, total)):
        return None
    common = Counter(failures.values()).most_common(5)
    reasons = "; ".join(f"{count} × {reason}" for reason, count in common)
    return UserError(
        f"teacher: {len(failures)} of {finished} requests to {request_url(section)} failed, more than "
        f"teacher.max_failures ({section.max_failures:g}) allows: {reasons}. "
        "The replies so far are kept: run the same command again when the endpoint answers."
    )
