"""Writing token by token, in batches that texts leave when they have ended.

A batch's rationales differ in length by a factor of three and more; with all rows kept to the end, most of the computation
would go into padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutput

from kard.student.guide import AnswerGuide

# Rows leave when this share of the batch has ended: copying the cache costs about as much as one step.
_ENDED_SHARE = 0.2
_ROOM = 64  # tokens that are made room for at once


@torch.inference_mode()
def continuations(
    model: PreTrainedModel,
    inputs: Tensor,
    mask: Tensor,
    limit: int,
    end: int,
    guide: AnswerGuide,
    samples: int = 1,
    step: Callable[[list[list[int]]], None] = lambda written: None,
) -> list[list[int]]:
    """Continue each row token by token, until the end token or the limit.

    Args:
        model: Encoder-decoder or decoder.
        inputs: Token ids, padded on the left for a decoder and on the right for an encoder, (rows, tokens).
        mask: Which of them are real, same shape.
        limit: Most new tokens.
        end: The end token's id.
        guide: Chooses the tokens; its rows are those of `inputs`, each `samples` times.
        samples: Continuations of each row.
        step: Called after each token with what every row has written so far.

    Returns:
        The new tokens of each row, without the end token; samples of a row stand together.
    """
    reader = _reader(model, inputs, mask)
    logits = reader.read(reader.first)[:, -1]
    if samples > 1:  # what is read is read once
        repeated = torch.arange(len(inputs), device=inputs.device).repeat_interleave(samples)
        reader.keep(repeated)
        logits = logits[repeated]
    written: list[list[int]] = [[] for _ in range(len(logits))]
    rows = torch.arange(len(logits), device=inputs.device)
    running = torch.ones_like(rows, dtype=torch.bool)
    for _ in range(limit):
        here = rows.tolist()
        chosen = guide.choose(here, [written[row] for row in here], logits)
        running &= chosen != end
        for index in running.nonzero()[:, 0].tolist():
            text = written[here[index]]
            text.append(int(chosen[index]))
            rest = guide.rest(here[index], text)
            if rest:  # most choices are certain after a token or two: the others need not be computed
                text.extend(rest[:-1])
                del text[limit:]
                running[index] = False
        step(written)
        if not running.any():
            break
        if running.sum() <= (1 - _ENDED_SHARE) * len(rows):
            kept = running.nonzero()[:, 0]
            reader.keep(kept)
            rows, chosen, running = (values[kept] for values in (rows, chosen, running))
        logits = reader.read(chosen[:, None])[:, -1]
    return written


@torch.inference_mode()
def likelihoods(
    model: PreTrainedModel, inputs: Tensor, mask: Tensor, begun: Sequence[list[int]], paths: Sequence[list[list[int]]]
) -> list[list[float]]:
    """How likely each way to go on is: the sum of its tokens' log-probabilities.

    Args:
        model: Encoder-decoder or decoder.
        inputs: As in `continuations`.
        mask: As in `continuations`.
        begun: What has been written of each row.
        paths: For each row the tokens that may follow, at least one token each.

    Returns:
        Natural logarithms, for each row in the order of its paths.
    """
    reader = _reader(model, inputs, mask)
    first = reader.read(reader.first)[:, -1:]
    owner = torch.tensor([row for row, ways in enumerate(paths) for _ in ways], device=inputs.device)
    reader.keep(owner)
    texts = [[*begun[row], *path] for row, ways in enumerate(paths) for path in ways]
    width = max(map(len, texts))
    tokens = torch.tensor([text + [text[-1]] * (width - len(text)) for text in texts], device=inputs.device)
    logits = torch.cat([first[owner], reader.read(tokens[:, :-1])], dim=1) if width > 1 else first[owner]
    sums = []
    for place, (text, row) in enumerate(zip(texts, owner.tolist(), strict=True)):
        path = slice(len(begun[row]), len(text))
        scores = logits[place, path].float().log_softmax(dim=-1)
        sums.append(float(scores.gather(1, tokens[place, path, None]).sum()))
    rest = iter(sums)
    return [[next(rest) for _ in ways] for ways in paths]


class _Reader(Protocol):
    """A model that reads tokens one after the other; `first` are those to begin with."""

    first: Tensor

    def read(self, tokens: Tensor) -> Tensor:
        """Next-token scores after each of the tokens (rows, tokens), or after the last one alone."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows, each as often as it is named."""
        ...


def _reader(model: PreTrainedModel, inputs: Tensor, mask: Tensor) -> _Reader:
    kind: Any = _EncoderDecoder if model.config.is_encoder_decoder else _Decoder
    return kind(model, inputs, mask)


class _Decoder:
    def __init__(self, model: PreTrainedModel, inputs: Tensor, mask: Tensor) -> None:
        self.model = model
        self.first = inputs
        self.mask = mask
        self.cache = roomy_cache(model.config)
        self.length: Tensor | None = None

    def read(self, tokens: Tensor) -> Tensor:
        if self.length is None:
            positions, wanted = (self.mask.cumsum(dim=1) - 1).clamp(min=0), 1
        else:
            self.mask = torch.cat([self.mask, self.mask.new_ones(tokens.shape)], dim=1)
            wanted = tokens.shape[1]
            positions = self.length + torch.arange(wanted, device=tokens.device)
        self.length = positions[:, -1:] + 1
        return self.model(
            input_ids=tokens,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=wanted,
        ).logits

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]
        assert self.length is not None
        self.length = self.length[rows]


class _EncoderDecoder:
    def __init__(self, model: PreTrainedModel, inputs: Tensor, mask: Tensor) -> None:
        self.model = model
        self.mask = mask
        self.first = inputs.new_full((len(inputs), 1), model.config.decoder_start_token_id)
        self.encoded = model.get_encoder()(input_ids=inputs, attention_mask=mask).last_hidden_state
        config = model.get_decoder().config
        self.cache = EncoderDecoderCache(roomy_cache(config), DynamicCache(config=config))

    def read(self, tokens: Tensor) -> Tensor:
        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.encoded),
            attention_mask=self.mask,
            decoder_input_ids=tokens,
            past_key_values=self.cache,
            use_cache=True,
        ).logits

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.encoded, self.mask = self.encoded[rows], self.mask[rows]


def roomy_cache(config: Any) -> DynamicCache:
    """A cache whose attention layers do not copy all of their keys and values at every token.

    A sliding window is left to the mask, which is right for any length; the window would only save memory.
    """
    cache = DynamicCache(config=config)
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    cache.layers = [_RoomyLayer() if type(layer) in plain else layer for layer in cache.layers]
    return cache


class _RoomyLayer(DynamicLayer):
    """Keys and values as views into buffers (rows, heads, tokens and room for more, dimension)."""

    keys: Any
    values: Any
    key_buffer: Tensor
    value_buffer: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        length = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        longer = length + key_states.shape[-2]
        if length == 0 or longer > self.key_buffer.shape[-2]:
            self.key_buffer = _with_room(self.keys, key_states, longer)
            self.value_buffer = _with_room(self.values, value_states, longer)
        self.key_buffer[:, :, length:longer] = key_states
        self.value_buffer[:, :, length:longer] = value_states
        self.keys, self.values = self.key_buffer[:, :, :longer], self.value_buffer[:, :, :longer]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.get_seq_length()
        self.key_buffer, self.value_buffer = self.key_buffer[indices], self.value_buffer[indices]
        self.keys, self.values = self.key_buffer[:, :, :length], self.value_buffer[:, :, :length]


def _with_room(old: Tensor, new: Tensor, length: int) -> Tensor:
    rows, heads, _, dimension = new.shape
    buffer = new.new_empty(rows, heads, length + _ROOM, dimension)
    if old.numel():
        buffer[:, :, : old.shape[-2]] = old
    return buffer
