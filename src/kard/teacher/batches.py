"""The provider's batch API: requests are submitted as files, the command ends, and a later one collects the replies."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

import openai

from kard.errors import Unfinished, UserError
from kard.progress import say
from kard.recipe.teacher import TeacherSection
from kard.teacher.cache import ReplyCache
from kard.teacher.client import Groups, check_failures
from kard.teacher.endpoint import api_key, blocking_client
from kard.teacher.limits import exceeded, most_of, used_up
from kard.teacher.prompting import PATHS, Request, base_url
from kard.teacher.replies import UNPAID, Hide, Outcome, completion_in, first_words, hiding, parsed, rejection_in

# What OpenAI takes in one batch; files stay far below its limit of bytes.
LARGEST = 10_000
_FINAL = ("completed", "failed", "expired", "cancelled")
_TRIES = 2
_METADATA = "kard_batch"


def ask_in_batches(groups: Groups, total: int, section: TeacherSection, cache: ReplyCache) -> dict[str, str]:
    """Collect the batches that are done, and submit what is still missing.

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
    requests = {request.key: request for group in groups for request in group}
    hide = hiding(api_key(section))
    try:
        with blocking_client(section) as client:
            while True:
                _collect_all(client, section, cache, hide)
                failures = cache.failures()
                missing = [one for key, one in requests.items() if not cache.has(key)]
                again = [one for one in missing if len(failures.get(one.key, ())) < _TRIES]
                if not again:
                    break
                _submit_all(again, client, section, cache)
    except openai.OpenAIError as error:
        raise UserError(
            f"teacher: {base_url(section)} answers {first_words(hide(str(error)))}. Batches and replies so far are kept: "
            "mend it and run again."
        ) from None
    final = {one.key: f"{failures[one.key][-1]} ({_TRIES} batches)" for one in missing}
    check_failures(final, total, total, section)
    return final


def _collect_all(client: openai.OpenAI, section: TeacherSection, cache: ReplyCache, hide: Hide) -> None:
    """Store what finished batches hold; raises `Unfinished` where some are under way."""
    counts = []
    for name, identity in cache.open_batches():
        batch = _answer(client.get(f"/batches/{identity}", cast_to=bytes)) if identity else _find(name, client)
        if batch is None:
            cache.forget_batch(name)
        elif batch.get("status") in _FINAL:
            _collect(name, batch, client, cache, hide)
        else:
            counts.append(_in(batch, "request_counts"))
    if counts:
        done, total = (sum(_whole(one.get(key)) for one in counts) for key in ("completed", "total"))
        raise Unfinished(
            f"teacher: {len(counts)} batches are under way at {base_url(section)}, {done:,} of {total:,} requests answered. "
            "Run the same command again to collect them."
        )


def _answer(content: bytes) -> dict[str, Any]:
    """What the provider says of a file or a batch."""
    found = parsed(content.decode("utf-8", errors="replace"))
    if not isinstance(found, dict) or not isinstance(found.get("id"), str):
        raise openai.OpenAIError("what is no answer to a request about batches. Check teacher.base_url")
    return found


def _find(name: str, client: openai.OpenAI) -> dict[str, Any] | None:
    """The batch whose submission was cut off, or None where it never got there; the latest ones are listed first."""
    listed = parsed(
        client.get("/batches", cast_to=bytes, options={"params": {"limit": 100}}).decode("utf-8", errors="replace")
    )
    if not isinstance(listed, dict) or not isinstance(listed.get("data"), list):
        raise openai.OpenAIError("what is no list of batches. Check teacher.base_url")
    batches = (row for row in listed["data"] if isinstance(row, dict))
    return next((row for row in batches if _in(row, "metadata").get(_METADATA) == name), None)


def _in(row: dict[str, Any], key: str) -> dict[str, Any]:
    found = row.get(key)
    return found if isinstance(found, dict) else {}


def _whole(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 10**9 else 0


def _collect(name: str, batch: dict[str, Any], client: openai.OpenAI, cache: ReplyCache, hide: Hide) -> None:
    files = [file for file in (batch.get("output_file_id"), batch.get("error_file_id")) if file]
    contents = [client.get(f"/files/{file}/content", cast_to=bytes) for file in files]
    # Only ends of lines end a line: texts may hold what else Python takes for one.
    lines = [line for content in contents for line in content.split(b"\n") if line.strip()]
    attempts = cache.attempts_of(name)
    with cache.together():
        for line in lines:
            key, outcome = _outcome(line.decode("utf-8-sig", errors="replace"), hide)
            if begun := attempts.pop(key, None):
                cache.finish(begun[0], [key], outcome, outcome.cost_at_most(begun[1]))
        unanswered = Outcome(failure=_why_unanswered(batch, hide))
        for key, (attempt, _) in attempts.items():
            cache.finish(attempt, [key], unanswered, UNPAID)
        cache.close_batch(name)
    say(
        f"  ask teacher: collected {len(lines):,} lines of a batch, {len(attempts):,} of its requests were not answered"
    )


def _why_unanswered(batch: dict[str, Any], hide: Hide) -> str:
    status = batch["status"] if batch["status"] != "completed" else "left it out"
    errors = _in(batch, "errors").get("data")
    words = [row.get("message") for row in errors if isinstance(row, dict)] if isinstance(errors, list) else []
    return "; ".join([f"the batch {status}", *(first_words(hide(str(one))) for one in words[:3])])


def _outcome(line: str, hide: Hide) -> tuple[str, Outcome]:
    """Key and outcome of a line of an output or error file; a line that is none has no key."""
    row = parsed(line)
    row = row if isinstance(row, dict) else {}
    response = _in(row, "response")
    body, status = response.get("body"), response.get("status_code")
    if status == 200:
        outcome = completion_in(body, line, hide)
    else:
        outcome = rejection_in({"error": row["error"]} if row.get("error") else body, line, hide, _whole(status))
    return str(row.get("custom_id")), outcome


def _submit_all(requests: Sequence[Request], client: openai.OpenAI, section: TeacherSection, cache: ReplyCache) -> None:
    """Submit what the budget allows; raises where it allows nothing."""
    spent = cache.spent()
    affordable: list[Request] = []
    for request in requests:
        spent += most_of(request.body, section)
        if limit := exceeded(spent, section.resources):
            if not affordable:
                raise used_up(limit, cache.spent(), section.resources)
            say(f"  ask teacher: teacher.resources.{limit} allows {len(affordable):,} of {len(requests):,} requests")
            break
        affordable.append(request)
    for begin in range(0, len(affordable), LARGEST):
        _submit(affordable[begin : begin + LARGEST], client, section, cache)


def _submit(requests: Sequence[Request], client: openai.OpenAI, section: TeacherSection, cache: ReplyCache) -> None:
    """Submit one batch; it is noted before, so that a submission that is cut off is found again and not repeated."""
    path = f"/v1{PATHS[section.endpoint]}"
    rows = ({"custom_id": one.key, "method": "POST", "url": path, "body": one.body} for one in requests)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = _answer(client.files.with_raw_response.create(file=("kard.jsonl", lines), purpose="batch").content)
    name = uuid.uuid4().hex
    with cache.together():
        cache.open_batch(name)
        for request in requests:
            cache.begin([request.key], most_of(request.body, section), name)
    asked = {"input_file_id": file["id"], "endpoint": path, "completion_window": "24h", "metadata": {_METADATA: name}}
    batch = _answer(client.post("/batches", cast_to=bytes, body=asked))
    cache.name_batch(name, batch["id"])
    say(f"  ask teacher: submitted {len(requests):,} requests as batch {batch['id']}")
