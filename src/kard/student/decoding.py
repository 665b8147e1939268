"""Writing token by token, in batches that texts leave when they have ended.

A batch's rationales differ in length by a factor of three and more; with all rows kept to the end, most of the computation
would go into padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from kard.machine.cores import each_on_its_cores
from kard.student.attention import attends_by_group
from kard.student.batching import IGNORED, Batch, Collator, aligned, reads_alone, unpadded
from kard.student.cache import Buffers, GroupLayer, RoomyLayer, end_cache, is_roomy, last_tokens_can_go, roomy_cache
from kard.student.drafts import Drafts
from kard.student.guide import AnswerGuide

# Rows leave when this share of the batch has ended: copying the cache costs about as much as one step.
_ENDED_SHARE = 0.2
# About so many tokens of prompts a CPU reads together: as quick for each as with more, and short ones are padded less.
_READ_AT_ONCE = 1024


@torch.inference_mode()
def continuations(
    model: PreTrainedModel,
    inputs: Tensor,
    mask: Tensor,
    end: int,
    guide: AnswerGuide,
    samples: int = 1,
    step: Callable[[list[list[int]]], None] = lambda written: None,
    buffers: Buffers | None = None,
) -> list[list[int]]:
    """Continue each row token by token, until the end token or its limit.

    Args:
        model: Encoder-decoder or decoder.
        inputs: Token ids, padded on the left for a decoder and on the right for an encoder, (rows, tokens).
        mask: Which of them are real, same shape.
        end: The end token's id.
        guide: Chooses the tokens, and knows how many each row may have; its rows are those of `inputs`, each `samples` times.
        samples: Continuations of each row.
        step: Called after each token with what every row has written so far.
        buffers: Memory that the batch before has left; None: new.

    Returns:
        The new tokens of each row, without the end token; samples of a row stand together.
    """
    reader = _reader(model, inputs, mask, buffers or Buffers())
    logits = reader.read(reader.first)[:, -1:]
    drafts = Drafts(
        [ids[there].tolist() for ids, there in zip(inputs, mask.bool(), strict=True) for _ in range(samples)],
        guide.cue,
    )
    if samples > 1:  # what is read is read once
        repeated = torch.arange(len(inputs), device=inputs.device).repeat_interleave(samples)
        reader.keep(repeated)
        logits = logits[repeated]
    written: list[list[int]] = [[] for _ in range(len(logits))]
    rows = list(range(len(logits)))
    last: list[int | None] = [end for _ in rows]
    guesses: list[list[int]] = [[] for _ in rows]
    while True:
        going = [index for index, token in enumerate(last) if token is not None]
        taken, last = _follow(guide, rows, going, written, logits, guesses, end)
        step(written)
        running = [index for index, token in enumerate(last) if token is not None]
        if not running:
            reader.end()
            return written
        if logits.shape[1] > 1:
            for index in running:
                drafts.learn(rows[index], guesses[index], taken[index] - 1)
            reader.take_back(taken)
        if len(running) <= (1 - _ENDED_SHARE) * len(rows):
            reader.keep(torch.tensor(running, device=inputs.device))
            rows, last = [rows[index] for index in running], [last[index] for index in running]
        behind = {row: written[row] for row, token in zip(rows, last, strict=True) if token is not None}
        left = max(guide.limits[row] - len(text) for row, text in behind.items())
        found = iter(drafts.guesses(behind, min(left - 1, reader.room(left))))
        guesses = [next(found) if token is not None else [] for token in last]
        width = max(map(len, guesses))
        tokens = [[token or 0, *guess, *[0] * (width - len(guess))] for token, guess in zip(last, guesses, strict=True)]
        logits = reader.read(torch.tensor(tokens, device=inputs.device))


def _follow(
    guide: AnswerGuide,
    rows: Sequence[int],
    going: Sequence[int],
    written: list[list[int]],
    logits: Tensor,
    guesses: Sequence[list[int]],
    end: int,
) -> tuple[list[int], list[int | None]]:
    """Write each row's next token, and go on as long as the row's guess was right.

    Args:
        guide: Chooses the tokens.
        rows: The rows that are computed.
        going: Which of them (their places in `rows`) have not ended.
        written: Of every row, what it has written: tokens are put behind it.
        logits: Scores behind the last token and behind each guessed one, (rows, tokens, vocabulary).
        guesses: Of the computed rows.
        end: The end token's id.

    Returns:
        For each computed row how many of its scores were used, and its last token; None where it has ended.
    """
    taken = [0 for _ in rows]
    last: list[int | None] = [None for _ in rows]
    for place in range(logits.shape[1]):
        here = [rows[index] for index in going]
        scores = logits[:, place] if len(here) == len(rows) else logits[going, place]
        chosen = guide.choose(here, [written[row] for row in here], scores).tolist()
        following = []
        for index, row, token in zip(going, here, chosen, strict=True):
            taken[index], last[index] = place + 1, None
            if token != end:
                text = written[row]
                text.append(token)
                rest = guide.rest(row, text)
                if rest:  # most choices are certain after a token or two: the others need not be computed
                    text.extend(rest[:-1])
                elif len(text) < guide.limits[row]:
                    last[index] = token
                    if guesses[index][place : place + 1] == [token]:
                        following.append(index)
        going = following
        if not going:
            break
    return taken, last


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
    if not _goes_on_by_several(model):
        read = [ids[there].tolist() for ids, there in zip(inputs, mask.bool(), strict=True)]
        rows = [
            {"input_ids": [*before, *begun[row], *path], "labels": path}
            for row, before in enumerate(read)
            for path in paths[row]
        ]
        found = iter(label_likelihoods(model, Collator(0, False)(rows)))
        return [[next(found) for _ in ways] for ways in paths]
    reader = _reader(model, inputs, mask, Buffers())
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


@torch.inference_mode()
def label_likelihoods(model: PreTrainedModel, batch: Batch) -> list[float]:
    """The sum of the labels' log-probabilities of each row of a decoder's training batch, read at once."""
    if reads_alone(model.config) and not batch["attention_mask"].all():
        return [label_likelihoods(model, row)[0] for row in unpadded(batch)]
    labels = batch["labels"].to(model.device)
    inputs: dict[str, Any] = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
    logits = model(**inputs, logits_to_keep=labels.shape[1] + 1, use_cache=False).logits[:, :-1]
    is_label = labels != IGNORED
    logs = logits[is_label].float().log_softmax(dim=-1).gather(1, labels[is_label][:, None])[:, 0]
    return [float(row.sum()) for row in logs.split(is_label.sum(dim=1).tolist())]


def _goes_on_by_several(model: PreTrainedModel) -> bool:
    """Whether a model can read several tokens at once behind what it has read (some kinds of Mamba would start anew)."""
    return model.config.is_encoder_decoder or is_roomy(roomy_cache(model.config, Buffers()))


class _Reader(Protocol):
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

    def end(self) -> None:
        """Give the memory of what was read back."""
        ...


def _reader(model: PreTrainedModel, inputs: Tensor, mask: Tensor, buffers: Buffers) -> _Reader:
    kind: Any = _EncoderDecoder if model.config.is_encoder_decoder else _Decoder
    return kind(model, inputs, mask, buffers)


class _Decoder:
    def __init__(self, model: PreTrainedModel, inputs: Tensor, mask: Tensor, buffers: Buffers) -> None:
        self.model = model
        self.first = inputs
        self.mask = mask
        self.cache = roomy_cache(model.config, buffers, attends_by_group(model))
        self.window = min((layer.window for layer in self.cache.layers if isinstance(layer, RoomyLayer)), default=0)
        self.length: Tensor | None = None
        self.step = 0

    def read(self, tokens: Tensor) -> Tensor:
        if self.length is None:
            return self._read_prompts(tokens)
        self.mask = torch.cat([self.mask, self.mask.new_ones(tokens.shape)], dim=1)
        self.step = tokens.shape[1]
        positions = self.length + torch.arange(self.step, device=tokens.device)
        self.length = self.length + self.step
        # Where nothing attends to the tokens before, there is nothing to mask: Mamba would take the mask for these tokens'.
        mask = None if all(self.cache.is_linear) else self.mask
        return self._scores(tokens, mask, positions, self.step)

    def _read_prompts(self, tokens: Tensor) -> Tensor:
        self.length, self.step = self.mask.sum(dim=1, keepdim=True), tokens.shape[1]
        positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)
        groups = _read_together(self.mask)
        if len(groups) == 1 or not is_roomy(self.cache):
            return self._scores(tokens, self.mask, positions, 1)

        def scores(rows: Tensor, width: int) -> Tensor:
            group = DynamicCache()
            group.layers = [GroupLayer(layer, rows, tokens.shape) for layer in self.cache.layers]
            read, mask, places = (values[rows, -width:] for values in (tokens, self.mask, positions))
            return self._scores(read, mask, places, 1, group)

        found = _for_each(groups, scores)
        for layer in self.cache.layers:
            layer.end_groups(tokens.shape[1])
        return found

    def _scores(
        self, tokens: Tensor, mask: Tensor | None, positions: Tensor, wanted: int, into: DynamicCache | None = None
    ) -> Tensor:
        return self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            cache=into or self.cache,
            use_cache=True,
            logits_to_keep=wanted,
        ).logits

    def keep(self, rows: Tensor) -> None:
        self.cache.reorder_cache(rows)  # unlike `batch_select_indices`, every kind of layer has it
        self.mask = self.mask[rows]
        assert self.length is not None
        self.length = self.length[rows]

    def room(self, left: int) -> int:
        if len(self.mask) == 1:
            return last_tokens_can_go(self.cache)
        # What is taken back from some rows alone stays in the cache, masked; a sliding window would count it.
        return min(last_tokens_can_go(self.cache), self.window - self.mask.shape[1] - left)

    def take_back(self, kept: Sequence[int]) -> None:
        assert self.length is not None
        counts = torch.tensor(kept, device=self.mask.device)[:, None]
        most = max(kept)
        self.cache.crop(most - self.step)
        self.mask = self.mask[:, : self.mask.shape[1] - self.step + most]
        self.mask[:, -most:] = torch.arange(most, device=self.mask.device) < counts
        self.length = self.length - self.step + counts

    def end(self) -> None:
        end_cache(self.cache)


class _EncoderDecoder:
    def __init__(self, model: PreTrainedModel, inputs: Tensor, mask: Tensor, buffers: Buffers) -> None:
        self.model = model
        self.mask = mask
        self.first = inputs.new_full((len(inputs), 1), model.config.decoder_start_token_id)
        self.encoded = self._encode(inputs, mask)
        config = model.get_decoder().config
        self.cache = EncoderDecoderCache(roomy_cache(config, buffers), DynamicCache(config=config))
        self.step = 0

    def _encode(self, inputs: Tensor, mask: Tensor) -> Tensor:
        encoder = self.model.get_encoder()

        def hidden(rows: Tensor, width: int) -> Tensor:
            read = encoder(input_ids=inputs[rows, :width], attention_mask=mask[rows, :width]).last_hidden_state
            return functional.pad(read, (0, 0, 0, inputs.shape[1] - width))

        return _for_each(_read_together(mask), hidden)

    def read(self, tokens: Tensor) -> Tensor:
        self.step = tokens.shape[1]
        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.encoded),
            attention_mask=self.mask,
            decoder_input_ids=tokens,
            cache=self.cache,
            use_cache=True,
        ).logits

    def keep(self, rows: Tensor) -> None:
        self.cache.reorder_cache(rows)  # unlike `batch_select_indices`, every kind of layer has it
        self.encoded, self.mask = self.encoded[rows], self.mask[rows]

    def room(self, left: int) -> int:
        # Its decoders count how far apart tokens are by their places in the cache: rows must be equally long.
        return last_tokens_can_go(self.cache.self_attention_cache) if len(self.mask) == 1 else 0

    def take_back(self, kept: Sequence[int]) -> None:
        self.cache.self_attention_cache.crop(max(kept) - self.step)

    def end(self) -> None:
        end_cache(self.cache.self_attention_cache)


def _read_together(mask: Tensor) -> list[tuple[Tensor, int]]:
    """Which prompts of a batch are read together: on a CPU some of similar length, elsewhere all.

    Cores that read groups at the same time shall end at the same time: each gets as many groups, of about as many tokens.

    Args:
        mask: Which of their tokens are real, (rows, tokens).

    Returns:
        Row numbers and the width of their longest prompt; each row is in one of the groups.
    """
    rows, width = mask.shape
    if mask.device.type != "cpu" or rows * width <= _READ_AT_ONCE:
        return [(torch.arange(rows, device=mask.device), width)]
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


def _for_each(groups: Sequence[tuple[Tensor, int]], read: Callable[[Tensor, int], Tensor]) -> Tensor:
    """What is read of each row, in the order of the rows; groups are read at the same time.

    Args:
        groups: Row numbers and width of each, as `_read_together` gives them.
        read: From row numbers and width to (rows, …).
    """
    found = each_on_its_cores(torch.inference_mode()(lambda group: read(*group)), groups)
    return torch.cat(found)[torch.cat([rows for rows, _ in groups]).argsort()]
