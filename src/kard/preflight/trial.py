"""How fast this machine computes: a trial of about two seconds of two layers in the real model's shapes, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForTextEncoding,
)

from kard.machine.cores import each_on_its_cores
from kard.machine.processes import compute_device
from kard.models.precision import autocast, compute_dtype
from kard.models.weights import model_config
from kard.recipe.sections import RerankerSection, StudentSection
from kard.student.batching import aligned
from kard.student.constraint import AnswerConstraint
from kard.student.cpu_engine.int8 import Int8Linear
from kard.student.generation import local_writer
from kard.student.training import ATTENTION_CPU, with_adapters
from kard.student.writer import Task, Writer

_LAYERS, _WORDS, _TOKENS, _TARGETS = 2, 512, 512, 64  # of the models that are tried, and of what they read and learn
_SECONDS = 0.1  # for one measurement, at least one round
_FEW, _MANY, _STEPS, _BEGUN = 4, 64, 4, 16  # rows of two batches, and steps of each behind so many tokens


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


@cache
@torch.random.fork_rng()
def student_speed(
    section: StudentSection, read: int, written: int, vocabulary: int | None, int8: bool = False
) -> StudentSpeed | None:
    """Train and write a few tokens with two layers of the student's model.

    Args:
        section: The recipe's ``student``.
        read: Tokens of a prompt, as long as most.
        written: Tokens that are learned of an example.
        vocabulary: How many tokens the model knows; None: what its configuration says.
        int8: Whether it writes in 8 bits.

    Returns:
        None where the model's configuration is not on this machine yet.
    """
    whole = model_config(section.model)
    if whole is None:
        return None
    config = whole.get_text_config()
    depth, is_pair = int(config.num_hidden_layers) / _LAYERS, bool(whole.is_encoder_decoder)
    kind, is_lora = AutoModelForSeq2SeqLM if is_pair else AutoModelForCausalLM, section.method == "lora"
    dtype = compute_dtype(section.dtype, whole.model_type)
    weights = dtype if is_lora else torch.float32
    model = _few_layers(whole, kind, weights)
    widths = (aligned(read), aligned(written)) if is_pair else (aligned(read + written),)
    trained = with_adapters(model, section) if is_lora else model
    learned = _token_learned(trained, widths, section.batch_size, dtype, use_cache=False)
    head = nn.Linear(int(config.hidden_size), vocabulary or int(config.vocab_size), False, compute_device(), weights)
    target = _target_learned(head.requires_grad_(not is_lora), dtype)
    shallow = _few_layers(whole, kind, dtype).eval()
    writer = local_writer(shallow, int8)
    prompt = _read(writer, aligned(read))
    in_int8 = isinstance(shallow.get_output_embeddings(), Int8Linear)
    scores = Int8Linear(head) if in_int8 else head
    numbers = torch.float32 if in_int8 else head.weight.dtype
    hidden = torch.randn(_MANY, head.in_features, device=head.weight.device, dtype=numbers)
    few, many = (depth * _step(writer, rows) + _scored(scores, hidden[:rows]) for rows in (_FEW, _MANY))
    each = max(0.0, (many - few) / (_MANY - _FEW))
    again = 1.33 if section.resources.gradient_checkpointing else 1.0
    return StudentSpeed(again * depth * learned, target, depth * prompt, max(few - _FEW * each, 0.0), each)


@cache
@torch.random.fork_rng()
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
    config = model_config(section.model)
    if config is None:
        return None
    kind = AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel
    model, depth = _few_layers(config, kind, torch.float32), int(config.num_hidden_layers) / _LAYERS
    frozen = section.frozen_layers / int(config.num_hidden_layers)
    at_once = section.step_candidates or section.rationale_candidates + section.question_candidates
    asked_at_once, read_at_once = section.batch_size * queries, section.batch_size * at_once
    if section.kind == "cross_encoder":
        pair = depth * _encoded(model, query + passage)
        return RerankerSpeed(read_at_once * queries * pair * (3 - 2 * frozen), 0.0, pair)
    asked, read = (depth * _encoded(model, tokens) for tokens in (query, passage))
    learned = depth * _token_learned(model, (query,), asked_at_once, compute_dtype("auto", config.model_type)) * query
    step = asked_at_once * (learned * (1 - frozen) + asked * frozen)
    if section.learns_passages:
        step += read_at_once * read * (3 - 2 * frozen)
    return RerankerSpeed(step, read, asked)


def _few_layers(config: Any, kind: Any, dtype: torch.dtype) -> Any:
    """A model of the configuration's shapes with few layers and a small vocabulary."""
    config = deepcopy(config)
    for part in {id(one): one for one in (config, config.get_text_config())}.values():
        part.num_hidden_layers = _LAYERS
        if part.is_encoder_decoder:
            part.num_decoder_layers = part.decoder_layers = _LAYERS
        if kinds := part.to_dict().get("layer_types"):
            part.layer_types = kinds[-_LAYERS:]
        part.vocab_size, part.pad_token_id = _WORDS, None
    attention = None if torch.cuda.is_available() else ATTENTION_CPU
    model = kind.from_config(config, dtype=dtype, attn_implementation=attention, trust_remote_code=False)
    return model.to(compute_device())


def _seconds(work: Callable[[], object]) -> float:
    """Of one call, after one that is not counted: the quickest, as what disturbs a few of them does not last for hours."""
    work()
    _wait()
    begun, rounds = perf_counter(), list[float]()
    while not rounds or perf_counter() - begun < _SECONDS:
        start = perf_counter()
        work()
        _wait()
        rounds.append(perf_counter() - start)
    return min(rounds)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _token_learned(model: Any, widths: Sequence[int], batch: int, dtype: torch.dtype, **more: Any) -> float:
    """Forward and backward pass of the layers alone, a token; what comes in has gradients, as in all layers but the first."""
    rows, size = max(1, min(batch, _TOKENS // sum(widths))), int(model.config.get_text_config().hidden_size)
    inputs = [torch.randn(rows, width, size, device=model.device).requires_grad_() for width in widths]
    texts = dict(zip(("inputs_embeds", "decoder_inputs_embeds"), inputs, strict=False))
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.0)

    def step() -> None:
        with autocast(model.device.type, dtype):
            found = model(**texts, **more)[0]
        found.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return _seconds(step) / (rows * sum(widths))


def _target_learned(head: nn.Linear, dtype: torch.dtype) -> float:
    """The output layer, whose size is the vocabulary's, forward and back, of each token."""
    device = head.weight.device
    hidden = torch.randn(_TARGETS, head.in_features, device=device).requires_grad_()
    targets = torch.zeros(_TARGETS, dtype=torch.long, device=device)

    def step() -> None:
        with autocast(device.type, dtype):
            logits = head(hidden)
        functional.cross_entropy(logits.float(), targets, reduction="sum").backward()

    return _seconds(step) / _TARGETS


class _AnyText(AnswerConstraint):
    """Every row goes on to the limit, by a token that no prompt foresees."""

    def __init__(self, rows: int, limit: int) -> None:
        self.limits, self.cue, self.end = [limit] * rows, [1], -1

    def choose(self, rows: Sequence[int], written: Sequence[list[int]], scores: Tensor) -> Tensor:
        return torch.randint(2, _WORDS, (len(rows),), device=scores.device)

    def rest(self, row: int, text: list[int]) -> list[int]:
        return []


def _written(writer: Writer, rows: int, read: int, tokens: int) -> float:
    """Seconds of reading so many prompts, and writing behind each of them."""
    ids = torch.randint(2, _WORDS, (rows, read), device=compute_device())
    mask = torch.ones_like(ids)
    return _seconds(lambda: writer.write(Task(ids, mask, _AnyText(rows, tokens))))


def _read(writer: Writer, width: int) -> float:
    """Seconds of a prompt's token among many: what a call takes whatever it reads is not the layers' time."""
    few = max(1, _TOKENS // width)
    least, most = (_written(writer, rows, width, 1) for rows in (few, 4 * few))
    return max(most - least, 0.0) / (3 * few * width)


def _step(writer: Writer, rows: int) -> float:
    first, more = (_written(writer, rows, _BEGUN, tokens) for tokens in (1, 1 + _STEPS))
    return max(more - first, 0.0) / _STEPS


@torch.inference_mode()
def _scored(head: nn.Module, hidden: Tensor) -> float:
    return _seconds(lambda: head(hidden))


def _encoded(model: Any, tokens: int) -> float:
    """Seconds of a text, of which each core reads some."""
    rows, cores = max(1, _TOKENS // tokens), torch.get_num_threads() if model.device.type == "cpu" else 1
    ids = torch.ones(rows, tokens, dtype=torch.long, device=model.device)
    dtype = compute_dtype("auto", model.config.model_type)

    def read(part: Tensor) -> None:
        with torch.inference_mode(), autocast(model.device.type, dtype):
            model(input_ids=part)

    return _seconds(lambda: each_on_its_cores(read, [ids] * cores)) / (rows * cores)
