"""Trimming a vocabulary to what the data uses.

A large vocabulary costs a small model most of its time: two thirds of Gemma 3 270M are its embedding. The trimmed tokenizer
splits every text that was looked at exactly as before (see `_kept_pieces`), and any other text into smaller pieces or bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kard.errors import UserError

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_LAST_LATIN = 0x17F
_SPACE = "▁"  # stands for a space; its bytes would be decoded as this sign, not as a space
_TEXTS_AT_ONCE = 1000
_ID_SETTINGS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)


def trim(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Cut a model's embeddings down to the tokens that `texts` use, in place.

    Args:
        model: Encoder-decoder or decoder; its embedding and output layer get fewer rows.
        tokenizer: The model's tokenizer (BPE or Unigram); left as it is.
        texts: All that the model will be trained on, and what it may read.

    Returns:
        The tokenizer that goes with the smaller model. Special tokens, bytes and single characters are kept, so every
        text can still be encoded.

    Raises:
        UserError: The tokenizer is of another kind, or the model has more that goes by token than embeddings and output layer.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = spec["model"]["type"]
    if kind not in ("BPE", "Unigram"):
        raise UserError(f"student.trim_vocabulary: a tokenizer of kind {kind} cannot be trimmed. Set it to false.")
    kept = sorted(_kept_ids(tokenizer, spec, texts) | _named_ids(model))
    number = {old: new for new, old in enumerate(kept)}
    smaller = _smaller_tokenizer(tokenizer, spec, number)
    before = len(model.get_input_embeddings().weight)
    _cut_embeddings(model, kept)
    if len(kept) < before:
        _check_all_is_cut(model, before)
    _renumber_special_tokens(model, number)
    return smaller


def _kept_ids(tokenizer: PreTrainedTokenizerFast, spec: dict[str, Any], texts: Iterable[str]) -> set[int]:
    used: set[int] = set(tokenizer.all_special_ids)
    rest = iter(texts)
    while block := list(islice(rest, _TEXTS_AT_ONCE)):
        for ids in tokenizer(block, add_special_tokens=True, truncation=False).input_ids:
            used.update(ids)
    vocabulary = _vocabulary(spec)
    pieces = {piece for piece, number in vocabulary.items() if number in used}
    if spec["model"]["type"] == "BPE":
        pieces |= _merged_from(pieces, spec["model"]["merges"])
    bytes_known = any(map(_BYTE.fullmatch, vocabulary)) or _is_byte_level(spec)
    indivisible = {piece for piece in vocabulary if _is_indivisible(piece, bytes_known)}
    return (
        used
        | {vocabulary[piece] for piece in indivisible}
        | {vocabulary[piece] for piece in pieces if piece in vocabulary}
    )


def _named_ids(model: PreTrainedModel) -> set[int]:
    """The special tokens that the model's settings name: they need not be the tokenizer's."""
    named: set[int] = set()
    for settings in (model.config, model.generation_config):
        values = [settings.to_dict().get(name) for name in _ID_SETTINGS]
        listed = [value if isinstance(value, list) else [value] for value in values if value is not None]
        named |= {token for tokens in listed for token in tokens}
    return {
        token for token in named if 0 <= token < model.config.vocab_size
    }  # GPT-2 models of 100 tokens name the 50,256th


def _is_byte_level(spec: dict[str, Any]) -> bool:
    return '"ByteLevel"' in json.dumps(spec["pre_tokenizer"])


def _is_indivisible(piece: str, bytes_known: bool) -> bool:
    """Bytes and single characters; where bytes stand for rare characters, of the characters only the Latin ones (all of the
    byte-level alphabet is among them)."""
    if len(piece) == 1:
        return not bytes_known or ord(piece) <= _LAST_LATIN or piece == _SPACE
    return bool(_BYTE.fullmatch(piece))


def _vocabulary(spec: dict[str, Any]) -> dict[str, int]:
    vocabulary = spec["model"]["vocab"]
    if isinstance(vocabulary, dict):
        return vocabulary
    return {piece: number for number, (piece, _) in enumerate(vocabulary)}


def _merged_from(pieces: set[str], merges: list[list[str]]) -> set[str]:
    """Every piece that byte-pair encoding passes through on its way to the given ones, from single characters on.

    A text's final pieces have no merge across their borders, so the merges inside each are those of the piece on its own;
    with these kept, the same merges happen in the same order on every text that consists of the pieces.
    """
    rank = {(left, right): place for place, (left, right) in enumerate(merges)}
    passed: set[str] = set()
    for piece in pieces:
        parts = list(piece)
        passed.update(parts)
        while len(parts) > 1:
            place, at = min((rank.get((parts[i], parts[i + 1]), len(merges)), i) for i in range(len(parts) - 1))
            if place == len(merges):
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
            passed.add(parts[at])
    return passed


def _smaller_tokenizer(
    tokenizer: PreTrainedTokenizerFast, spec: dict[str, Any], number: dict[int, int]
) -> PreTrainedTokenizerFast:
    model = spec["model"]
    if model["type"] == "BPE":
        model["vocab"] = {piece: number[old] for piece, old in model["vocab"].items() if old in number}
        model["merges"] = [pair for pair in model["merges"] if {*pair, "".join(pair)} <= model["vocab"].keys()]
    else:
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in number]
        model["unk_id"] = number[model["unk_id"]] if model.get("unk_id") is not None else None
    spec["added_tokens"] = [
        {**token, "id": number[token["id"]]} for token in spec["added_tokens"] if token["id"] in number
    ]
    for processor in _processors(spec.get("post_processor")):
        if processor["type"] == "TemplateProcessing":
            for special in processor["special_tokens"].values():
                special["ids"] = [number[old] for old in special["ids"]]
        elif processor["type"] in ("RobertaProcessing", "BertProcessing"):
            for name in ("sep", "cls"):
                token, old = processor[name]
                processor[name] = [token, number[old]]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        unk_token=tokenizer.unk_token,
        padding_side=tokenizer.padding_side,
        clean_up_tokenization_spaces=False,
    )


def _processors(processor: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What puts special tokens around a text, in the order in which it happens."""
    if processor is None:
        return []
    if processor["type"] == "Sequence":
        return [inner for part in processor["processors"] for inner in _processors(part)]
    return [processor]


def _cut_embeddings(model: PreTrainedModel, kept: list[int]) -> None:
    rows = torch.tensor(kept)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    embedding = model.get_input_embeddings()
    embedding.weight = nn.Parameter(embedding.weight.detach()[rows].clone())
    embedding.num_embeddings = len(kept)
    if embedding.padding_idx is not None and embedding.padding_idx >= 0:
        embedding.padding_idx = kept.index(embedding.padding_idx)
    head = model.get_output_embeddings()
    head.weight = embedding.weight if tied else nn.Parameter(head.weight.detach()[rows].clone())
    if head.bias is not None:
        head.bias = nn.Parameter(head.bias.detach()[rows].clone())
    head.out_features = len(kept)
    buffers = dict(model.named_buffers())
    if "final_logits_bias" in buffers:  # BART and its like: (1, vocabulary)
        model.register_buffer("final_logits_bias", buffers["final_logits_bias"][:, rows].clone())
    model.config.vocab_size = len(kept)
    model.set_input_embeddings(embedding)  # T5 shares it between encoder and decoder


def _check_all_is_cut(model: PreTrainedModel, before: int) -> None:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if uncut := [name for name, tensor in tensors if before in tensor.shape]:
        raise UserError(
            f"student.trim_vocabulary: '{uncut[0]}' of a model of type '{model.config.model_type}' goes by token, too, and "
            "cannot be cut. Set it to false."
        )


def _renumber_special_tokens(model: PreTrainedModel, number: dict[int, int]) -> None:
    for settings in (model.config, model.generation_config):
        for name in _ID_SETTINGS:
            old = settings.to_dict().get(name)
            if isinstance(old, int):
                setattr(settings, name, number.get(old, old))
            elif isinstance(old, list):
                setattr(settings, name, [number[token] for token in old if token in number])
