"""How texts become batches: padding, groups of similar length, and pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

IGNORED = -100
# Texts are padded to a multiple of it: attention and products of such sizes are faster, and come again, so that they need be
# prepared only once.
WIDTH = 8

_Number = TypeVar("_Number", int, Tensor)
Row = dict[str, list[int]]
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Collator:
    """Pads a batch. Decoders are padded on the left, so that all targets end at the same place.

    Labels are masked by length, never by pad id: where pad and end are the same token, the end is still learned.
    """

    pad: int
    encoder_decoder: bool

    def __call__(self, rows: list[Row]) -> Batch:
        left = not self.encoder_decoder
        width = aligned(max(len(row["input_ids"]) for row in rows))
        inputs = _padded([row["input_ids"] for row in rows], self.pad, width, left)
        mask = _padded([[1] * len(row["input_ids"]) for row in rows], 0, width, left)
        # Trainer leaves a decoder's first label out when it counts what a step's loss is divided by: none may stand there.
        gap = [] if self.encoder_decoder else [IGNORED]
        longest = len(gap) + max(len(row["labels"]) for row in rows)
        written = longest if left else aligned(longest)  # a decoder's labels are no product's size
        labels = _padded([gap + row["labels"] for row in rows], IGNORED, written, left)
        batch = {"input_ids": inputs, "attention_mask": mask, "labels": labels}
        if not self.encoder_decoder:
            batch["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return batch


def prompt_batch(model: Any, pad: int, prompts: list[list[int]]) -> Batch:
    """Token ids of prompts as a model reads them, with their mask, on its device."""
    batch = Collator(pad, model.config.is_encoder_decoder)([{"input_ids": ids, "labels": []} for ids in prompts])
    return {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}


def reads_alone(config: Any) -> bool:
    """Whether a model of this configuration must read each text alone and without padding: RecurrentGemma keeps what it has read
    in its modules, and its convolutions mix padding in."""
    return bool(config.model_type == "recurrent_gemma")


def unpadded(batch: Batch) -> list[Batch]:
    """The rows of a decoder's batch, each a batch of its own without padding."""
    rows = []
    for row, mask in enumerate(batch["attention_mask"].bool()):
        rows.append({name: values[row : row + 1, mask] for name, values in batch.items() if name != "labels"})
        rows[-1]["labels"] = batch["labels"][row : row + 1, 1 - int(mask.sum()) :]  # none stands at the first token
    return rows


def aligned(tokens: _Number) -> _Number:
    """So many tokens with their padding."""
    return (tokens + WIDTH - 1) // WIDTH * WIDTH


def _padded(rows: list[list[int]], filler: int, width: int, left: bool) -> Tensor:
    fill = [[filler] * (width - len(row)) for row in rows]
    return torch.tensor([gap + row if left else row + gap for row, gap in zip(rows, fill, strict=True)])


def of_similar_length(lengths: Sequence[int], rows: int, tokens: int | None = None) -> list[list[int]]:
    """Texts in groups of similar length, longest first, so that little is computed for padding.

    Args:
        lengths: Tokens of each text.
        rows: Most texts of a group.
        tokens: Most tokens of a group, padding included (a single longer text is a group of its own); None: any.

    Returns:
        Places in `lengths`; of equal lengths the first comes first.
    """
    groups: list[list[int]] = []
    longest = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        size = len(groups[-1]) if groups else rows
        if size == rows or (tokens is not None and (size + 1) * longest > tokens):
            groups.append([])
            longest = lengths[place]
        groups[-1].append(place)
    return groups


def pieces(batch: Batch, rows: int) -> list[Batch]:
    """A batch in pieces of similar length, each without the padding that only the others need.

    Args:
        batch: From `Collator`.
        rows: Most examples of a piece.
    """
    if len(batch["labels"]) <= rows:
        return [batch]
    decoder = "position_ids" in batch
    read = aligned(batch["attention_mask"].sum(dim=1))
    learned = batch["labels"] != IGNORED
    # From a decoder's first label on, and one ignored place in front (see `Collator`): not all in between need be learned.
    from_first = learned.shape[1] - learned.int().argmax(dim=1) + 1
    written = torch.where(learned.any(dim=1), from_first, 1) if decoder else aligned(learned.sum(dim=1).clamp(min=1))
    lengths = (read if decoder else read + written).tolist()
    cuts = of_similar_length(lengths, rows)
    return [_cut(batch, cut, decoder, int(read[cut].max()), int(written[cut].max())) for cut in cuts]


def _cut(batch: Batch, rows: list[int], decoder: bool, read: int, written: int) -> Batch:
    widths = dict.fromkeys(batch, read) | {"labels": written}
    return {
        name: values[rows, -widths[name] :] if decoder else values[rows, : widths[name]]
        for name, values in batch.items()
    }
