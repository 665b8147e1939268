"""The teacher's section: who explains the answers, and which explanations are kept."""

from __future__ import annotations

import json
import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from kard.errors import UserError
from kard.recipe.base import NotNegative, PathIn, Positive, Section, Size


class TeacherResources(Section):
    """What asking a teacher takes in time and money; no rationale depends on it."""

    api_key_env: str = Field("OPENAI_API_KEY", description="openai: the environment variable that holds the key")
    concurrency: Size = 8
    timeout: Positive = Field(120.0, description="openai: seconds for one request")
    input_price: NotNegative = Field(0.0, description="openai: US dollars a million tokens in")
    output_price: NotNegative = Field(0.0, description="openai: US dollars a million tokens out")
    max_usd: Positive | None = Field(None, description="openai: stop before all runs together have cost more")
    max_total_tokens: Size | None = Field(None, description="openai: stop before all runs together have used more")
    context_tokens: Size = Field(
        4096, description="llama_cpp: longest prompt and reply together, for each request under way"
    )

    @property
    def has_prices(self) -> bool:
        """Whether money can be counted."""
        return self.input_price + self.output_price > 0

    @model_validator(mode="after")
    def _settings_fit(self) -> TeacherResources:
        # A ValueError would be shown with the value that was found, and that may be the key itself.
        if not re.fullmatch("[A-Z][A-Z0-9_]*", self.api_key_env):
            raise UserError(
                "teacher.resources.api_key_env: not the name of an environment variable. Give one, as OPENAI_KEY."
            )
        if self.max_usd is not None and not self.has_prices:
            raise ValueError("max_usd needs input_price and output_price, in US dollars a million tokens")
        return self


class TeacherSection(Section):
    """Who explains the answers, and which explanations are kept."""

    kind: Literal["recorded", "extractive", "openai", "llama_cpp", "transformers"] = "recorded"
    replies: PathIn | None = Field(
        None,
        description="recorded: a folder of raw OpenAI replies, one file a row of the training questions (00000.json …), in "
        "place of the rationales that came with the questions",
    )
    rationales: Size | None = Field(None, description="at most this many a question; null: all recorded, one asked")
    sentences: Size = Field(1, description="extractive: sentences of the gold passages (with a conclusion: of each)")
    model: str | None = Field(
        None,
        description="openai: its name at the endpoint; llama_cpp: a GGUF file; transformers: hub id, folder, package:NAME",
    )
    base_url: str | None = Field(None, description="openai: the endpoint, as http://localhost:8000/v1; null: OpenAI's")
    mode: Literal["live", "batch"] = Field("live", description="openai: ask now, or by the provider's batch API")
    endpoint: Literal["chat", "completions"] = Field("chat", description="openai: chat, or plain text to be continued")
    prompt: PathIn | None = Field(None, description="LLM: your own prompt file; null: the paper's, by kind of question")
    temperature: NotNegative | None = Field(
        0.7,
        description="LLM: 0 always takes the likeliest word; null: none is sent, so the endpoint's own holds (1 at OpenAI)",
    )
    max_tokens: Size = 256
    extra_body: dict[str, Any] = Field(
        {}, description="LLM: more keys of the request (top_p, stop …); null takes one of ours out"
    )
    sees_answer: bool = Field(True, description="LLM: show the gold answer in the prompt, as the paper does")
    sees_gold_passages: bool = Field(False, description="LLM: show the gold passages in the prompt")
    max_words: Size = Field(200, description="longer rationales are rejected")
    reject_leaks: bool = Field(
        False, description="reject rationales that speak of the passage, the prompt or the given answer"
    )
    rewrite: Literal["keep", "ask"] | None = Field(
        None,
        description="not constructive ones: keep the sentences that lead to the answer, or ask the teacher for them; "
        "constructive ones come first, so that student.rationales takes them",
    )
    verifier: str | None = Field(
        None, description="a model (hub id, folder, package:NAME) that must find the gold choice from the rationale"
    )
    verifier_by: Literal["letter", "text"] = Field(
        "letter", description="the verifier ranks the choices' letters or texts"
    )
    resources: TeacherResources = TeacherResources()

    @property
    def at_once(self) -> bool:
        """Whether one request asks for all rationales of a question, which pays its prompt once: where ``n`` is known."""
        return self.kind == "openai" and self.base_url is None and self.mode == "live"

    @property
    def asks(self) -> bool:
        """Whether a language model writes the rationales."""
        return self.kind in ("openai", "llama_cpp", "transformers")

    @property
    def asked_for(self) -> int:
        """How many rationales of a question a language model is asked for."""
        return self.rationales or 1

    @model_validator(mode="after")
    def _settings_fit(self) -> TeacherSection:
        if self.asks and self.model is None:
            raise ValueError(f"kind {self.kind} needs a model")
        if self.replies is not None and self.kind != "recorded":
            raise ValueError(f"kind {self.kind} reads no replies: set kind: recorded, or remove replies")
        if self.mode == "batch" and self.kind != "openai":
            raise ValueError("mode batch needs kind openai")
        if self.rewrite == "ask" and not self.asks:
            raise ValueError(
                f"rewrite ask needs a teacher that can be asked, kind {self.kind} cannot: set rewrite: keep"
            )
        if self.asks and self.temperature == 0 and self.asked_for > 1:
            raise ValueError("temperature 0 writes the same rationale every time: raise it, or set rationales: 1")
        return self

    @model_validator(mode="after")
    def _url_fits(self) -> TeacherSection:
        if self.base_url is None:
            return self
        if "@" in self.base_url:  # a ValueError would show it
            raise UserError("teacher.base_url: holds a password. Put it into the variable that api_key_env names.")
        url = urlsplit(self.base_url)  # a ValueError says what is wrong with brackets and ports
        if url.scheme not in ("http", "https") or not url.hostname or url.port == 0:
            raise ValueError("base_url must begin with http:// or https://, and name a host")
        return self

    @model_validator(mode="after")
    def _body_fits(self) -> TeacherSection:
        body = self.extra_body
        if fixed := {"model", "messages", "prompt", "n", "stream"} & set(body):
            raise ValueError(f"extra_body cannot set {', '.join(sorted(fixed))}: use the keys of this section")
        for name in ("max_tokens", "max_completion_tokens"):
            if (value := body.get(name)) is not None and (type(value) is not int or value < 1):
                raise ValueError(f"extra_body.{name} must be a whole number above 0: a budget counts with it")
        if body.get("max_tokens", 1) is None and not body.get("max_completion_tokens"):
            raise ValueError(
                "extra_body takes max_tokens out: put max_completion_tokens in, so that a reply has an end"
            )
        try:
            json.dumps(body)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"extra_body must hold what JSON can ({error}): quote it") from error
        return self
