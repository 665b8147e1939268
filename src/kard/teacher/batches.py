"""The provider's batch API: requests are submitted as files, the command ends, and a later one collects the replies."""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import openai
from openai.types import Batch, BatchRequestCounts, FileObject
from pydantic import BaseModel

from kard.errors import Unfinished, UserError
from kard.progress import say
from kard.recipe import TeacherSection
from kard.teacher.cache import Outcome, ReplyCache
from kard.teacher.client import Groups, cost_of, too_many_failures
from kard.teacher.endpoint import api_key
from kard.teacher.limits import exceeded, most_of, spending
from kard.teacher.prompting import PATHS, Request, base_url, request_url
from kard.teacher.replies import UNPAID, Hide, completion_in, first_words, hiding, parsed, rejection_in

# What OpenAI takes in one batch; files stay far below its limit of bytes.
LARGEST = 10_000
POLL_SECONDS = 20.0
_FINAL = ("completed", "failed", "expired", "cancelled")
_TRIES = 2
_METADATA = "kard_batch"


def ask_in_batches(groups: Groups, total: int, section: TeacherSection, cache: ReplyCache) -> dict[str, str]:
    """Collect the batches that are under way, and submit what is still missing.

    Args:
        groups: The requests.
        total: How many there are.
        section: The recipe's ``teacher``.
        cache: Knows replies, attempts and batches.

    Returns:
        Keys of the requests that failed in two batches, with the reason in words.

    Raises:
        Unfinished: Batches are under way; the same command collects them later.
        UserError: The endpoint refuses, a budget is used up, or too many requests failed.
    """
    requests = list({request.key: request for group in groups for request in group}.values())
    until = time.monotonic() + section.batch_wait * 60
    with _client(section) as (client, hide):
        while True:
            _collect_all(client, section, cache, until, hide)
            failures = cache.failures()
            missing = [one for one in requests if not cache.has(one.key)]
            again = [one for one in missing if len(failures.get(one.key, ())) < _TRIES]
            if not again:
                final = {one.key: f"{failures[one.key][-1]} ({_TRIES} batches)" for one in missing}
                if error := too_many_failures(final, total, total, section):
                    raise error
                return final
            _submit_all(again, client, section, cache)


@contextmanager
def _client(section: TeacherSection) -> Iterator[tuple[openai.OpenAI, Hide]]:
    key = api_key(section)
    hide = hiding(key)
    url = urlsplit(request_url(section))
    try:
        with openai.OpenAI(
            api_key=key or "none",
            base_url=url._replace(path=url.path.removesuffix(PATHS[section.endpoint]), query="").geturl(),
            default_query=dict(parse_qsl(url.query)),
            max_retries=section.retries,
            timeout=section.timeout,
        ) as client:
            yield client, hide
    except openai.OpenAIError as error:
        raise UserError(
            f"teacher: {base_url(section)} answers {first_words(hide(str(error)))}. Batches and replies so far are kept: "
            "mend it and run again."
        ) from None


def _collect_all(client: openai.OpenAI, section: TeacherSection, cache: ReplyCache, until: float, hide: Hide) -> None:
    """Store what finished batches hold, waiting for the others until it is time to let go."""
    open_batches = {name: identity or _find(name, client) for name, identity in cache.open_batches()}
    while open_batches:
        counts = []
        for name, identity in list(open_batches.items()):
            batch = _understood(client.batches.retrieve, identity) if identity else None
            if batch is None or batch.status in _FINAL:
                _collect(name, batch, client, cache, hide)
                del open_batches[name]
            elif isinstance(batch.request_counts, BatchRequestCounts):
                counts.append(batch.request_counts)
        done, total = sum(one.completed for one in counts), sum(one.total for one in counts)
        if open_batches and time.monotonic() >= until:
            raise Unfinished(
                f"teacher: {len(open_batches)} batches are under way at {base_url(section)}, {done:,} of {total:,} requests "
                "answered. Run the same command again to collect them; teacher.batch_wait waits for them."
            )
        if open_batches:
            say(f"  ask teacher: {len(open_batches)} batches under way, {done:,} of {total:,} requests answered")
            time.sleep(max(0.0, min(POLL_SECONDS, until - time.monotonic())))


def _find(name: str, client: openai.OpenAI) -> str:
    """The id of a batch whose submission was cut off, or nothing where it never got there."""
    batches = _understood(lambda: list(client.batches.list()), of=list)
    return next((batch.id for batch in batches if batch.metadata and batch.metadata.get(_METADATA) == name), "")


def _understood(call: Callable[..., Any], *arguments: Any, of: type = BaseModel, **named: Any) -> Any:
    """What the provider answers; openai's client hands on what is no JSON, or something else than was asked for."""
    try:
        found = call(*arguments, **named)
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise openai.OpenAIError(f"what is no answer to a request about batches ({error})") from error
    if not isinstance(found, of) or (isinstance(found, FileObject | Batch) and not isinstance(found.id, str)):
        raise openai.OpenAIError("what is no answer to a request about batches. Check teacher.base_url")
    return found


def _collect(name: str, batch: Any, client: openai.OpenAI, cache: ReplyCache, hide: Hide) -> None:
    if batch is None:
        cache.forget_batch(name)
        return
    files = [file for file in (batch.output_file_id, batch.error_file_id) if file]
    # Only ends of lines end a line: texts may hold what else Python takes for one.
    lines = [line for file in files for line in client.files.content(file).content.split(b"\n") if line.strip()]
    attempts = cache.attempts_of(name)
    unanswered = Outcome(failure=_why_unanswered(batch, hide), cost=UNPAID)
    with cache.together():
        for line in lines:
            text = line.decode("utf-8-sig", errors="replace")
            key, outcome = _outcome(text, hide)
            if begun := attempts.pop(key, None):
                cache.finish(begun[0], [key], outcome, cost_of(outcome, begun[1]))
        for key, (attempt, _) in attempts.items():
            cache.finish(attempt, [key], unanswered, UNPAID)
        cache.close_batch(name)
    say(
        f"  ask teacher: collected {len(lines):,} lines of a batch, {len(attempts):,} of its requests were not answered"
    )


def _why_unanswered(batch: Any, hide: Hide) -> str:
    errors = [first_words(hide(str(error.message))) for error in (batch.errors.data or ())] if batch.errors else []
    return "; ".join([f"the batch {batch.status if batch.status != 'completed' else 'left it out'}", *errors[:3]])


def _outcome(line: str, hide: Hide) -> tuple[str, Outcome]:
    """Key and outcome of a line of an output or error file; a line that is none has no key."""
    row = parsed(line)
    row = row if isinstance(row, dict) else {}
    response = row["response"] if isinstance(row.get("response"), dict) else {}
    body, status = response.get("body"), response.get("status_code")
    if status == 200:
        outcome = completion_in(body, line, hide)
    else:
        outcome = rejection_in({"error": row["error"]} if row.get("error") else body, line, hide, _whole(status))
    return str(row.get("custom_id")), outcome


def _whole(status: Any) -> int:
    return status if type(status) is int and 0 <= status < 1000 else 0


def _submit_all(requests: Sequence[Request], client: openai.OpenAI, section: TeacherSection, cache: ReplyCache) -> None:
    """Submit what the budget allows; raises where it allows nothing."""
    spent = cache.spent()
    affordable: list[Request] = []
    for request in requests:
        spent += most_of(request.body, section)
        if limit := exceeded(spent, section):
            if not affordable:
                raise UserError(
                    f"teacher.{limit} does not allow another request. So far: {spending(cache.spent(), section)}. "
                    "The replies are kept: raise the limit and run the same command again."
                )
            say(f"  ask teacher: teacher.{limit} allows {len(affordable):,} of {len(requests):,} requests")
            break
        affordable.append(request)
    for begin in range(0, len(affordable), LARGEST):
        _submit(affordable[begin : begin + LARGEST], client, section, cache)


def _submit(requests: Sequence[Request], client: openai.OpenAI, section: TeacherSection, cache: ReplyCache) -> None:
    """Submit one batch; it is noted before, so that a submission that is cut off is found again and not repeated."""
    path = f"/v1{PATHS[section.endpoint]}"
    lines = ("kard.jsonl", io.BytesIO(_lines(requests, path)))
    file = _understood(client.files.create, file=lines, purpose="batch")
    name = uuid.uuid4().hex
    with cache.together():
        cache.open_batch(name)
        for request in requests:
            cache.begin([request.key], most_of(request.body, section), name)
    batch = _understood(
        client.batches.create,
        input_file_id=file.id,
        endpoint=path,
        completion_window="24h",
        metadata={_METADATA: name},
    )
    cache.name_batch(name, batch.id)
    say(f"  ask teacher: submitted {len(requests):,} requests as batch {batch.id}")


def _lines(requests: Iterable[Request], path: str) -> bytes:
    rows = ({"custom_id": one.key, "method": "POST", "url": path, "body": one.body} for one in requests)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
