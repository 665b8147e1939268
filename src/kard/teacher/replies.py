"""What an endpoint sends, read without trust: whatever its types, size or depth, it becomes an `Outcome`."""

from __future__ import annotations

import html
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote

from kard.errors import printable
from kard.teacher.limits import LARGEST_COUNT, TEMPLATE_TOKENS, Spent

# Finish reasons of ours, for replies without a text.
REASONING_ONLY = "reasoning_only"
TOOL_CALLS = "tool_calls"
# A request that an endpoint rejects counts, its tokens do not.
UNPAID = Spent(requests=1)
PASSING_STATUSES = (408, 409, 425, 429)
_SHOWN_CHARACTERS = 300
# No tokenizer makes tokens of more characters of a text, on average.
_LONGEST_TOKEN = 32
# A shorter key protects nothing ("none", "EMPTY") and may be a word of a text; a shorter part of a key tells nothing.
_SHORTEST_KEY, _KEY_PART = 6, 8
_UNICODE_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# How models mark what they think aloud, and what may stand in place of the marks of OpenAI's open models ("harmony").
_THINKING = r"(?:think(?:ing)?|thoughts?|reasoning|reflection|scratchpad|seed:think)"
# The first characters stand in front, so that a long text without any of them takes no time.
_OPENED = re.compile(rf"[<\[◁](?i:{_THINKING}>|think\]|think▷|\|begin_of_thought\|>)")
_CLOSED = re.compile(rf"[<\[◁](?i:/{_THINKING}>|/think\]|/think▷|\|end_of_thought\|>)")
_CHANNEL = re.compile(r"<\|channel\|>|^analysis(?=.*?assistant(?:final|commentary|analysis))", re.DOTALL)
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]{0,99}(?:<\|constrain\|>[^<]{0,99})?<\|message\|>|assistantfinal")
_MESSAGE_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")

Hide = Callable[[str], str]


@dataclass(frozen=True)
class Outcome:
    """What one attempt gave: texts, or a failure.

    Attributes:
        replies: Each text as the model wrote it, and why the model stopped, in the endpoint's words.
        failure: Why there is no usable text; empty where there is one.
        status: HTTP status, or None where there was no response.
        cost: What is to be paid for it; None if that is not known, or to be counted from `tokens`.
        tokens: Tokens in and out as the endpoint counts them, be it true or not; None where it does not.
        seconds: From sending to the end of the response.
        retry_after: Seconds that the endpoint asks to wait.
        hopeless: Whether trying again is pointless.
    """

    replies: tuple[tuple[str, str], ...] = ()
    failure: str = ""
    status: int | None = None
    cost: Spent | None = None
    tokens: tuple[int | None, int | None] = (None, None)
    seconds: float = 0.0
    retry_after: float | None = None
    hopeless: bool = False

    def cost_at_most(self, most: Spent) -> Spent:
        """What it counts: what the endpoint says as far as that can be true, else `most`, the most it can have cost."""
        if self.cost is not None:
            return self.cost

        def counted(tokens: int | None, characters: int, most_tokens: int) -> int:
            is_true = tokens is not None and characters // _LONGEST_TOKEN <= tokens <= LARGEST_COUNT
            return tokens if tokens is not None and is_true else most_tokens

        read, written = most.prompt_tokens - TEMPLATE_TOKENS, sum(len(text) for text, _ in self.replies)
        tokens_in, tokens_out = self.tokens
        return Spent(
            1, counted(tokens_in, read, most.prompt_tokens), counted(tokens_out, written, most.completion_tokens)
        )


def hiding(key: str) -> Hide:
    """A function that puts ``[key]`` in the place of a key, and of its parts: endpoints cut what they repeat.

    It also finds a key that is escaped as in JSON, URLs or HTML, and shows the text around it without escapes then.
    """
    if len(key) < _SHORTEST_KEY:
        return lambda text: text
    size = min(_KEY_PART, len(key))
    parts = {key[start : start + size] for start in range(len(key) - size + 1)}
    # Every place where a part begins, and what is left of the last one.
    places = re.compile(rf"(?:(?={'|'.join(map(re.escape, parts))}).)+.{{{size - 1}}}", re.DOTALL)

    def hide(text: str) -> str:
        for plain in (str, _unescaped, _unescaped):  # twice: an escaped text is repeated inside of JSON
            shown = plain(text)
            if any(part in shown for part in parts):
                text = places.sub("[key]", shown)
        return text

    return hide


def _unescaped(text: str) -> str:
    plain = _UNICODE_ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    return html.unescape(unquote(plain)).replace("\\", "")


def readable(text: str) -> str:
    """The text without control characters; a surrogate without its other half becomes U+FFFD."""
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _CONTROLS.sub(lambda found: " " if found[0].isspace() else "", whole)


def without_thinking(text: str) -> str:
    """The text without what a reasoning model thought aloud; some templates open that part before the reply begins."""
    if _CHANNEL.search(text):
        final = _FINAL.split(text)[1:]
        return _MESSAGE_END.split(final[-1], maxsplit=1)[0].strip() if final else ""
    answer = _CLOSED.split(text)[-1]
    before, *unfinished = _OPENED.split(answer, maxsplit=1)
    return before.strip() if unfinished else answer


def first_words(text: str) -> str:
    """The text in one line, not longer than a message should be, control characters shown as text.

    Take the key out before: a part of it would no longer be found.
    """
    line = printable(" ".join(text.split()))
    return line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + " …"


def response_in(status: int, headers: Mapping[str, str], content: bytes, hide: Hide) -> Outcome:
    """The outcome of a response: a completion, or a failure that is to be tried again or not."""
    text = content.decode("utf-8-sig", errors="replace")
    if 200 <= status < 300:
        return completion_in(parsed(text), text, hide, status)
    if 300 <= status < 400:
        words = first_words(hide(f"{status} and leads to {headers.get('location', 'another place')}"))
        return Outcome(failure=words, status=status, cost=UNPAID, hopeless=True)
    return replace(rejection_in(parsed(text), text, hide, status), retry_after=_retry_after(headers))


def parsed(text: str) -> Any:
    """The JSON in a text, or None where there is none, or it is nested too deep to be read."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def completion_in(payload: Any, text: str, hide: Hide, status: int = 200) -> Outcome:
    """The texts of a completion; anything that is none is a failure of the endpoint, to be tried again.

    Args:
        payload: The response, parsed; None where that was not possible.
        text: The response as it came.
        hide: Takes the key out.
        status: The HTTP status.
    """
    choices = payload.get("choices") if isinstance(payload, dict) else None
    replies = [_reply_in(one) for one in choices if _is_completion(one)] if isinstance(choices, list) else []
    if replies:
        shown = tuple((readable(hide(text)), first_words(hide(readable(reason)))) for text, reason in replies)
        return Outcome(shown, status=status, tokens=_tokens_in(payload))
    words, code = _error_in(payload)
    if type(code) is int and 400 <= code < 600:  # some routers pass a failure on in a response that is none
        return rejection_in(payload, text, hide, code)
    what = "without a completion" if payload is not None else "with invalid JSON"
    return Outcome(failure=f"{status} {what} ({first_words(hide(words or text))})", status=status)


def rejection_in(payload: Any, text: str, hide: Hide, status: int) -> Outcome:
    """The outcome of an HTTP error: 429 and 5xx pass, an empty purse and the client's own mistakes do not."""
    words, code = _error_in(payload)
    failure = f"{status} {first_words(hide(words or text))}".strip()
    if code in ("content_filter", "content_policy_violation"):
        return Outcome(((failure, "content_filter"),), status=status, cost=UNPAID)
    passing = status >= 500 or (status in PASSING_STATUSES and code != "insufficient_quota")
    return Outcome(failure=failure, status=status, cost=UNPAID, hopeless=not passing)


def _error_in(payload: Any) -> tuple[str, Any]:
    """Message and code of an error, in the forms that servers give it; empty and None where there is none."""
    body = payload if isinstance(payload, dict) else {}
    error = body.get("error")
    inner = error if isinstance(error, dict) else {}
    found = (inner.get("message"), error, body.get("message"), body.get("detail"))
    return next((words for words in found if words and isinstance(words, str)), ""), inner.get("code")


def _is_completion(choice: Any) -> bool:
    return isinstance(choice, dict) and (isinstance(choice.get("message"), dict) or "text" in choice)


def _reply_in(choice: dict[str, Any]) -> tuple[str, str]:
    """Text and finish reason of a choice, of chat or plain completions; without a text, the reason says what there was."""
    message = choice["message"] if isinstance(choice.get("message"), dict) else {"content": choice["text"]}
    content = message.get("content")
    listed = content if isinstance(content, list) else [content]
    parts = [part if isinstance(part, dict) else {"text": part} for part in listed]
    if refusal := _joined([message, *parts], "refusal"):
        return refusal, "refusal"
    text = _joined([part for part in parts if part.get("type", "text") in ("text", "output_text")], "text")
    reason = choice.get("finish_reason")
    reason = reason if isinstance(reason, str) else ""
    if text.strip() or reason == "length":
        return text, reason
    if message.get("tool_calls") or message.get("function_call"):
        return text, TOOL_CALLS
    thought = any(message.get(name) for name in ("reasoning_content", "reasoning", "thinking"))
    return text, REASONING_ONLY if thought or any("type" in part for part in parts) else reason


def _joined(parts: list[dict[str, Any]], name: str) -> str:
    return "".join(part[name] for part in parts if isinstance(part.get(name), str))


def _tokens_in(payload: dict[str, Any]) -> tuple[int | None, int | None]:
    """Tokens in and out as the endpoint counts them, if it does."""
    usage = payload.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    tokens_in, tokens_out = (counts.get(name) for name in ("prompt_tokens", "completion_tokens"))
    return tokens_in if type(tokens_in) is int else None, tokens_out if type(tokens_out) is int else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asks to wait, from either header and either form; None where it asks for no time."""
    milliseconds = _seconds_in(headers.get("retry-after-ms", ""))
    return _seconds_in(headers.get("retry-after", "")) if milliseconds is None else milliseconds / 1000


def _seconds_in(value: str) -> float | None:
    seconds = 0.0
    try:
        seconds = float(value)
    except ValueError:
        with suppress(ValueError, TypeError, OverflowError, OSError):
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
    return seconds if seconds > 0 and math.isfinite(seconds) else None
