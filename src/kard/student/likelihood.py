"""How likely texts are: choices after what was written, and questions after their passages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutput

from kard.models.names import cache_argument
from kard.student.batching import IGNORED, Batch, Collator, reads_alone, unpadded


@torch.inference_mode()
def likelihoods(
    model: PreTrainedModel, inputs: Tensor, mask: Tensor, begun: Sequence[list[int]], paths: Sequence[list[list[int]]]
) -> list[list[float]]:
    """How likely each way to go on is: the sum of its tokens' log-probabilities.

    Args:
        model: Encoder-decoder or decoder.
        inputs: Token ids, padded on the left for a decoder and on the right for an encoder, (rows, tokens).
        mask: Which of them are real, same shape.
        begun: What has been written of each row.
        paths: For each row the tokens that may follow, at least one token each.

    Returns:
        Natural logarithms, for each row in the order of its paths.
    """
    owner = torch.tensor([row for row, ways in enumerate(paths) for _ in ways], device=inputs.device)
    after = [(begun[row], path) for row, ways in enumerate(paths) for path in ways]
    if model.config.is_encoder_decoder or keeps_tokens(model):
        sums = _after_prompts(model, inputs, mask, owner, after)
    else:  # some kinds of Mamba would start anew behind what they have read
        read = [ids[there].tolist() for ids, there in zip(inputs, mask.bool(), strict=True)]
        rows = [
            {"input_ids": [*read[row], *text, *path], "labels": path}
            for row, (text, path) in zip(owner.tolist(), after, strict=True)
        ]
        sums = label_likelihoods(model, Collator(0, False)(rows))
    rest = iter(sums)
    return [[next(rest) for _ in ways] for ways in paths]


@torch.inference_mode()
def following_scores(model: PreTrainedModel, prompt: Tensor, begun: Sequence[int], path: Sequence[int]) -> Tensor:
    """How likely each token is behind what was begun, and behind each token of a path after it.

    Args:
        model: Encoder-decoder or decoder.
        prompt: Token ids (1, tokens).
        begun: What has been written.
        path: The tokens that follow it.

    Returns:
        Natural logarithms (tokens of the path + 1, vocabulary).
    """
    after = torch.tensor([[*begun, *path]], dtype=prompt.dtype, device=prompt.device)
    if model.config.is_encoder_decoder:
        one_more = torch.nn.functional.pad(after, (0, 1))  # scores stand in front of a token
        owner = torch.zeros(1, dtype=torch.long, device=prompt.device)
        logits = _encoder_decoder_scores(model, prompt, torch.ones_like(prompt), owner, one_more)
    else:
        ids = torch.cat([prompt, after], dim=1)
        kept: dict[str, Any] = {"logits_to_keep": len(path) + 1, "use_cache": False}
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **kept).logits
    return logits[0, -len(path) - 1 :].float().log_softmax(dim=-1)


def keeps_tokens(model: PreTrainedModel) -> bool:
    """Whether all layers of a decoder keep what they have read token by token, as attention does and Mamba does not; and whether
    it can be asked for them: llama.cpp keeps its own."""
    if not isinstance(model, PreTrainedModel):
        return False
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)  # layers that also keep a state are made from them
    return not reads_alone(model.config) and all(
        type(layer) in kinds for layer in DynamicCache(config=model.config).layers
    )


def _after_prompts(
    model: PreTrainedModel, inputs: Tensor, mask: Tensor, owner: Tensor, after: Sequence[tuple[list[int], list[int]]]
) -> list[float]:
    """Of paths behind what was begun, each after the prompt that owns it; a prompt is read once."""
    texts = [[*text, *path] for text, path in after]
    width = max(map(len, texts))
    tokens = torch.tensor([text + [text[-1]] * (width - len(text)) for text in texts], device=inputs.device)
    continued = _encoder_decoder_scores if model.config.is_encoder_decoder else _decoder_scores
    logits = continued(model, inputs, mask, owner, tokens)
    sums = []
    for place, (text, path) in enumerate(after):
        scored = slice(len(text), len(text) + len(path))
        logs = logits[place, scored].float().log_softmax(dim=-1)
        sums.append(float(logs.gather(1, tokens[place, scored, None]).sum()))
    return sums


def _encoder_decoder_scores(
    model: PreTrainedModel, inputs: Tensor, mask: Tensor, owner: Tensor, tokens: Tensor
) -> Tensor:
    encoded = model.get_encoder()(input_ids=inputs, attention_mask=mask).last_hidden_state[owner]
    start = tokens.new_full((len(tokens), 1), model.config.decoder_start_token_id)
    return model(
        encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
        attention_mask=mask[owner],
        decoder_input_ids=torch.cat([start, tokens[:, :-1]], dim=1),
        use_cache=False,
    ).logits


def _decoder_scores(model: PreTrainedModel, inputs: Tensor, mask: Tensor, owner: Tensor, tokens: Tensor) -> Tensor:
    cache = DynamicCache(config=model.config)
    positions = mask.cumsum(dim=1) - 1
    read: dict[str, Any] = {cache_argument(model): cache, "use_cache": True}
    first = model(
        input_ids=inputs, attention_mask=mask, position_ids=positions.clamp(min=0), logits_to_keep=1, **read
    ).logits[owner]
    more = tokens[:, :-1]
    if not more.shape[1]:
        return first
    cache.reorder_cache(owner)
    seen = torch.cat([mask[owner], mask.new_ones(more.shape)], dim=1)
    places = positions[owner, -1:] + 1 + torch.arange(more.shape[1], device=inputs.device)
    return torch.cat([first, model(input_ids=more, attention_mask=seen, position_ids=places, **read).logits], dim=1)


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
