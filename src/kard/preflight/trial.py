"""How fast this machine computes: a trial of some seconds of a few layers in the real model's shapes, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForTextEncoding,
)

from kard.machine.cores import each_on_its_cores
from kard.machine.precision import compute_dtype
from kard.machine.processes import compute_device
from kard.models.weights import model_config
from kard.recipe import RerankerSection, StudentSection
from kard.student.batching import aligned
from kard.student.decoding import continuations
from kard.student.generation import Student
from kard.student.loss import token_loss
from kard.student.training import ATTENTION_CPU, with_adapters

_LAYERS, _WORDS = 2, 512  # of the models that are tried
_SECONDS = 0.15  # for one measurement, at least one round
_READ_AT_ONCE, _FEW_ROWS, _STEPS = 1024, 4, 6


@dataclass(frozen=True)
class StudentSpeed:
    """Seconds of a student's work.

    Attributes:
        token_learned: A token of a training example, through all layers and back.
        target_learned: On top of it for each token that is to be written: the output layer.
        token_read: A token of a prompt.
        token_step: A decoding step, whatever the batch.
        token_written: On top of it for each row of the batch.
    """

    token_learned: float
    target_learned: float
    token_read: float
    token_step: float
    token_written: float


@dataclass(frozen=True)
class RerankerSpeed:
    """Seconds of a reranker's work: a training step, a text of the passage side, a text of the question side."""

    step: float
    passage: float
    query: float


# Settings that leave a step's time as it is: one trial serves all of their values.
_ANY_STUDENT = {
    "epochs": 1.0,
    "lr": 1.0,
    "train_questions": None,
    "rationales": None,
}
_ANY_RERANKER = {"epochs": 1.0, "lr": 1.0, "train_questions": None, "tau_rationale": 1.0, "tau_question": 1.0}


def student_speed(section: StudentSection, read: int, written: int, vocabulary: int | None) -> StudentSpeed | None:
    """Train and write a few tokens with two layers of the student's model.

    Args:
        section: The recipe's ``student``.
        read: Tokens of a prompt, as long as most.
        written: Tokens that are learned of an example.
        vocabulary: How many tokens the model knows; None: what its configuration says.

    Returns:
        None where the model's configuration is not on this machine yet.
    """
    return _student_speed(section.model_copy(update=_ANY_STUDENT), read, written, vocabulary)


@cache
@torch.random.fork_rng()
def _student_speed(section: StudentSection, read: int, written: int, vocabulary: int | None) -> StudentSpeed | None:
    whole = model_config(section.model)
    if whole is None:
        return None
    config = whole.get_text_config()
    layers, words = int(config.num_hidden_layers), vocabulary or int(config.vocab_size)
    dtype = compute_dtype(section.dtype)
    weights = dtype if section.method == "lora" else torch.float32
    model = _few_layers(whole, weights)
    head = _Head(int(config.hidden_size), words, weights, trained=section.method == "full")
    body = _training_step(model, section, dtype, read, written)
    of_head = head.training_step(section.batch_size * written, dtype)
    again = 1.33 if section.resources.gradient_checkpointing else 1.0
    learned = again * layers / _LAYERS * body / (section.batch_size * (read + written))
    model = _few_layers(whole, dtype)
    prompt, few, many = _written(model, read, layers, head.seconds)
    rows = max(_FEW_ROWS + 1, _READ_AT_ONCE // aligned(read))
    each = max(0.0, (many - few) / (rows - _FEW_ROWS))
    target = of_head / (section.batch_size * written)
    return StudentSpeed(learned, target, prompt, max(few - _FEW_ROWS * each, 0.0), each)


def _few_layers(config: Any, dtype: torch.dtype) -> Any:
    """A model of the configuration's shapes with few layers and a small vocabulary."""
    config = deepcopy(config)
    for part in {id(one): one for one in (config, config.get_text_config())}.values():
        part.num_hidden_layers = _LAYERS
        if part.is_encoder_decoder:
            part.num_decoder_layers = part.decoder_layers = _LAYERS
        if kinds := part.to_dict().get("layer_types"):
            part.layer_types = kinds[-_LAYERS:]
        part.vocab_size, part.pad_token_id = _WORDS, None
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    attention = None if torch.cuda.is_available() else ATTENTION_CPU
    model = kind.from_config(config, dtype=dtype, attn_implementation=attention, trust_remote_code=False)
    return model.to(compute_device())


def _seconds(work: Callable[[], object]) -> float:
    """Of one call, after one that is not counted."""
    work()
    _wait()
    start, rounds = perf_counter(), 0
    while rounds == 0 or perf_counter() - start < _SECONDS:
        work()
        rounds += 1
    _wait()
    return (perf_counter() - start) / rounds


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _training_step(model: Any, section: StudentSection, dtype: torch.dtype, read: int, written: int) -> float:
    """Forward and backward pass of the layers alone; what comes in has gradients, as in all layers but the first."""
    trained = with_adapters(model, section) if section.method == "lora" else model
    is_pair = model.config.is_encoder_decoder
    widths = (aligned(read), aligned(written)) if is_pair else (aligned(read + written),)
    size = int(model.config.get_text_config().hidden_size)
    inputs = [torch.randn(section.batch_size, width, size, device=model.device).requires_grad_() for width in widths]
    names = ("inputs_embeds", "decoder_inputs_embeds")
    optimizer = torch.optim.AdamW([one for one in trained.parameters() if one.requires_grad], lr=0.0)
    extra = {} if is_pair else {"logits_to_keep": 1}

    def step() -> None:
        with torch.autocast(model.device.type, dtype, enabled=dtype == torch.bfloat16):
            out = trained(**dict(zip(names, inputs, strict=False)), use_cache=False, **extra)
        out.logits.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return _seconds(step)


class _Head:
    """The output layer, whose size is the vocabulary's."""

    def __init__(self, size: int, words: int, dtype: torch.dtype, trained: bool) -> None:
        device = compute_device()
        self.layer = nn.Linear(size, words, bias=False, dtype=dtype, device=device).requires_grad_(trained)
        self.size, self.device = size, device

    def training_step(self, tokens: int, dtype: torch.dtype) -> float:
        hidden = torch.randn(tokens, self.size, device=self.device).requires_grad_()
        targets = torch.zeros(tokens, dtype=torch.long, device=self.device)

        def step() -> None:
            with torch.autocast(torch.device(self.device).type, dtype, enabled=dtype == torch.bfloat16):
                logits = self.layer(hidden)
            token_loss(logits, targets).backward()

        return _seconds(step)

    @torch.inference_mode()
    def seconds(self, rows: int) -> float:
        """Of the scores of so many tokens."""
        hidden = torch.randn(rows, self.size, device=self.device, dtype=self.layer.weight.dtype)
        return _seconds(lambda: self.layer(hidden))


class _AnyText:
    """Stands in for an `AnswerGuide`: every row goes on to the limit, by a token that no draft foresees."""

    def __init__(self, rows: int, limit: int) -> None:
        self.limits, self.cue = [limit] * rows, [1]

    def choose(self, rows: list[int], written: list[list[int]], scores: Tensor) -> Tensor:
        return torch.randint(2, _WORDS, (len(rows),))

    def rest(self, row: int, text: list[int]) -> list[int]:
        return []


def _written(model: Any, read: int, layers: int, head: Callable[[int], float]) -> tuple[float, float, float]:
    """Seconds of a prompt's token, of a decoding step of few rows, and of one of as many as are read at once."""
    Student(model.eval(), None, None)  # type: ignore[arg-type]  # sets the model up as it is for writing
    found = []
    for rows in (_FEW_ROWS, max(_FEW_ROWS + 1, _READ_AT_ONCE // aligned(read))):
        ids = torch.randint(2, _WORDS, (rows, aligned(read)), device=model.device)

        def write(tokens: int, ids: Tensor = ids) -> None:
            continuations(model, ids, torch.ones_like(ids), -1, _AnyText(len(ids), tokens))  # type: ignore[arg-type]

        first = _seconds(lambda: write(1))
        step = max(_seconds(lambda: write(1 + _STEPS)) - first, 0.0) / _STEPS
        found.append((first / ids.numel(), layers / _LAYERS * step + head(rows)))
    return layers / _LAYERS * found[1][0], found[0][1], found[1][1]


def reranker_speed(section: RerankerSection, query: int, passage: int, queries: int) -> RerankerSpeed | None:
    """Train and encode with two layers of the reranker's encoder.

    Args:
        section: The recipe's ``reranker``.
        query: Tokens of a query.
        passage: Tokens of a passage.
        queries: How many a question has (one for each choice).

    Returns:
        None where the encoder's configuration is not on this machine yet.
    """
    return _reranker_speed(section.model_copy(update=_ANY_RERANKER), query, passage, queries)


@cache
@torch.random.fork_rng()
def _reranker_speed(section: RerankerSection, query: int, passage: int, queries: int) -> RerankerSpeed | None:
    whole = model_config(section.model)
    if whole is None:
        return None
    layers = int(whole.num_hidden_layers)
    frozen, config = section.frozen_layers / layers, deepcopy(whole)
    config.num_hidden_layers = _LAYERS
    plain = {} if torch.cuda.is_available() else {"attn_implementation": ATTENTION_CPU}
    kind = AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel
    model = kind.from_config(config, trust_remote_code=False, **plain).to(compute_device())
    at_once = section.step_candidates or section.rationale_candidates + section.question_candidates
    if section.kind == "cross_encoder":
        pair = layers / _LAYERS * _encoded(model, query + passage)
        step = section.batch_size * at_once * queries * pair * (3 - 2 * frozen)
        return RerankerSpeed(step, 0.0, pair)
    asked, read = (layers / _LAYERS * _encoded(model, tokens) for tokens in (query, passage))
    learned = layers / _LAYERS * _learned(model, section.batch_size * queries, query)
    step = learned * (1 - frozen) + asked * section.batch_size * queries * frozen
    if section.train == "both":
        step += section.batch_size * at_once * read * (3 - 2 * frozen)
    return RerankerSpeed(
        step + _interaction(section.batch_size, queries * query, at_once * passage, config), read, asked
    )


def _encoded(model: Any, tokens: int) -> float:
    """Seconds of a text, of which each core reads some."""
    rows, cores = max(1, _READ_AT_ONCE // tokens), torch.get_num_threads()
    ids = torch.ones(rows, tokens, dtype=torch.long, device=model.device)

    def read(part: Tensor) -> None:
        with torch.inference_mode(), _autocast(model):
            model(input_ids=part)

    return _seconds(lambda: each_on_its_cores(read, [ids] * cores)) / (rows * cores)


def _learned(model: Any, rows: int, tokens: int) -> float:
    inputs = torch.randn(rows, tokens, int(model.config.hidden_size), device=model.device).requires_grad_()

    def step() -> None:
        with _autocast(model):
            hidden = model(inputs_embeds=inputs).last_hidden_state
        hidden.float().square().mean().backward()

    return _seconds(step)


def _interaction(questions: int, asked: int, read: int, config: Any) -> float:
    """Forward and backward pass of comparing each token of a question's queries with each of its candidates."""
    device = compute_device()
    queries = torch.randn(questions, asked, int(config.hidden_size), device=device).requires_grad_()
    passages = torch.randn(questions, read, int(config.hidden_size), device=device)
    return _seconds(lambda: (queries @ passages.transpose(1, 2)).amax(dim=-1).sum().backward())


def _autocast(model: Any) -> Any:
    dtype = compute_dtype("auto")
    return torch.autocast(model.device.type, dtype, enabled=dtype == torch.bfloat16)
