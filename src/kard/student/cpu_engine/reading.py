"""Reading on CPUs: prompts in groups of similar length, each on cores of its own, and the tokens that are written behind them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from kard.machine.cores import each_on_its_cores
from kard.models.names import cache_argument
from kard.student.batching import aligned
from kard.student.cpu_engine.cache import GroupLayer, roomy_cache

# About so many tokens of prompts are read together: as quick for each as with more, and short ones are padded less.
_READ_AT_ONCE = 1024

Group = tuple[Tensor, int]
"""Numbers of rows that are read together, and the width of the longest one."""


class Reader(Protocol):
    """A model that reads tokens one after the other; `first` are those to begin with."""

    first: Tensor

    def read(self, tokens: Tensor) -> Tensor:
        """Next-token scores after each of the tokens (rows, tokens), or after the last one alone."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows, each as often as it is named."""
        ...

    def room(self, left: int) -> int:
        """How many tokens may be read only to be taken back, where each row will go on by `left` tokens at most."""
        ...

    def take_back(self, kept: Sequence[int]) -> None:
        """Forget the tokens of the last step but the first ones, so many of each row."""
        ...


def reader_of(model: PreTrainedModel, inputs: Tensor, mask: Tensor, in_groups: bool = True) -> Reader:
    """What reads these prompts (rows, tokens), `in_groups` or all at once, and goes on behind them."""
    kind = _EncoderDecoder if model.config.is_encoder_decoder else _Decoder
    groups = _read_together(mask) if in_groups else [(torch.arange(len(mask)), mask.shape[1])]
    return kind(model, inputs, mask, groups)


class _Decoder:
    def __init__(self, model: PreTrainedModel, inputs: Tensor, mask: Tensor, groups: list[Group]) -> None:
        self.model = model
        self.cache_argument = cache_argument(model)
        self.first = inputs
        self.mask = mask
        self.groups = groups
        self.cache = roomy_cache(model.config)
        self.window = min(layer.window for layer in self.cache.layers)
        self.length: Tensor | None = None
        self.step = 0

    def read(self, tokens: Tensor) -> Tensor:
        if self.length is None:
            return self._read_prompts(tokens)
        self.mask = torch.cat([self.mask, self.mask.new_ones(tokens.shape)], dim=1)
        self.step = tokens.shape[1]
        positions = self.length + torch.arange(self.step)
        self.length = self.length + self.step
        return self._scores(tokens, self.mask, positions, self.step)

    def _read_prompts(self, tokens: Tensor) -> Tensor:
        self.length, self.step = self.mask.sum(dim=1, keepdim=True), tokens.shape[1]
        positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)
        if len(self.groups) == 1:
            return self._scores(tokens, self.mask, positions, 1)

        def scores(rows: Tensor, width: int) -> Tensor:
            group = DynamicCache()
            group.layers = [GroupLayer(layer, rows, tokens.shape) for layer in self.cache.layers]
            read, mask, places = (values[rows, -width:] for values in (tokens, self.mask, positions))
            return self._scores(read, mask, places, 1, group)

        found = _for_each(self.groups, scores)
        for layer in self.cache.layers:
            layer.end_groups(tokens.shape[1])
        return found

    def _scores(
        self, tokens: Tensor, mask: Tensor, positions: Tensor, wanted: int, into: DynamicCache | None = None
    ) -> Tensor:
        return self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=wanted,
            **{self.cache_argument: into or self.cache},
        ).logits

    def keep(self, rows: Tensor) -> None:
        self.cache.reorder_cache(rows)  # unlike `batch_select_indices`, every kind of layer has it
        self.mask = self.mask[rows]
        assert self.length is not None
        self.length = self.length[rows]

    def room(self, left: int) -> int:
        if len(self.mask) == 1:
            return sys.maxsize
        # What is taken back from some rows alone stays in the cache, masked; a sliding window would count it.
        return self.window - self.mask.shape[1] - left

    def take_back(self, kept: Sequence[int]) -> None:
        assert self.length is not None
        counts = torch.tensor(kept)[:, None]
        most = max(kept)
        self.cache.crop(most - self.step)
        self.mask = self.mask[:, : self.mask.shape[1] - self.step + most]
        self.mask[:, -most:] = torch.arange(most) < counts
        self.length = self.length - self.step + counts


class _EncoderDecoder:
    def __init__(self, model: PreTrainedModel, inputs: Tensor, mask: Tensor, groups: list[Group]) -> None:
        self.model = model
        self.cache_argument = cache_argument(model)
        self.mask = mask
        self.first = inputs.new_full((len(inputs), 1), model.config.decoder_start_token_id)
        self.encoded = self._encode(inputs, mask, groups)
        config = model.get_decoder().config
        self.cache = EncoderDecoderCache(roomy_cache(config), DynamicCache(config=config))
        self.step = 0

    def _encode(self, inputs: Tensor, mask: Tensor, groups: list[Group]) -> Tensor:
        encoder = self.model.get_encoder()

        def hidden(rows: Tensor, width: int) -> Tensor:
            read = encoder(input_ids=inputs[rows, :width], attention_mask=mask[rows, :width]).last_hidden_state
            return functional.pad(read, (0, 0, 0, inputs.shape[1] - width))

        return _for_each(groups, hidden)

    def read(self, tokens: Tensor) -> Tensor:
        self.step = tokens.shape[1]
        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.encoded),
            attention_mask=self.mask,
            decoder_input_ids=tokens,
            use_cache=True,
            **{self.cache_argument: self.cache},
        ).logits

    def keep(self, rows: Tensor) -> None:
        self.cache.reorder_cache(rows)  # unlike `batch_select_indices`, every kind of layer has it
        self.encoded, self.mask = self.encoded[rows], self.mask[rows]

    def room(self, left: int) -> int:
        # Its decoders count how far apart tokens are by their places in the cache: rows must be equally long.
        return sys.maxsize if len(self.mask) == 1 else 0

    def take_back(self, kept: Sequence[int]) -> None:
        self.cache.self_attention_cache.crop(max(kept) - self.step)


def _read_together(mask: Tensor) -> list[Group]:
    """Which prompts of a batch are read together: some of similar length.

    Cores that read groups at the same time shall end at the same time: each gets as many groups, of about as many tokens.

    Args:
        mask: Which of their tokens are real, (rows, tokens).

    Returns:
        Row numbers and the width of their longest prompt; each row is in one of the groups.
    """
    rows, width = mask.shape
    if rows * width <= _READ_AT_ONCE:
        return [(torch.arange(rows), width)]
    widths = [min(aligned(length), width) for length in mask.sum(dim=1).tolist()]
    needed = sum(widths) / _READ_AT_ONCE
    at_once = min(torch.get_num_threads(), math.ceil(needed))
    count = at_once * math.ceil(needed / at_once)
    groups: dict[int, list[int]] = {}
    before = 0
    for row in sorted(range(rows), key=lambda row: -widths[row]):
        groups.setdefault(before * count // sum(widths), []).append(row)
        before += widths[row]
    return [(torch.tensor(group), widths[group[0]]) for group in groups.values()]


def _for_each(groups: Sequence[Group], read: Callable[[Tensor, int], Tensor]) -> Tensor:
    """What is read of each row, in the order of the rows; groups are read at the same time.

    Args:
        groups: Row numbers and width of each, as `_read_together` gives them.
        read: From row numbers and width to (rows, …).
    """
    found = each_on_its_cores(torch.inference_mode()(lambda group: read(*group)), groups)
    return torch.cat(found)[torch.cat([rows for rows, _ in groups]).argsort()]
