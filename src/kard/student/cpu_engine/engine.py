"""Writing on CPUs token by token, in batches that texts leave when they have ended.

A batch's rationales differ in length by a factor of three and more; with all rows kept to the end, most of the computation
would go into padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kard.student.constraint import AnswerConstraint
from kard.student.cpu_engine.prompt_lookup import PromptLookup
from kard.student.cpu_engine.reading import Reader, reader_of
from kard.student.writer import Task

# Rows leave when this share of the batch has ended: copying the cache costs about as much as one step.
_ENDED_SHARE = 0.2


@dataclass(frozen=True)
class Tricks:
    """What makes the engine quick; ``benchmarks/write.py --without NAME`` measures it without one of them.

    Attributes:
        prompt_lookup: What follows is guessed from the prompt, and several tokens are read at once.
        rows_leave: Texts that have ended leave the batch.
        prompts_in_groups: A batch's prompts are read in groups of similar length, by each core on its own.
    """

    prompt_lookup: bool = True
    rows_leave: bool = True
    prompts_in_groups: bool = True


class CpuEngine:
    """Writes on CPUs; see `kard.student.writer.Writer`.

    Args:
        model: An encoder-decoder, or a decoder whose layers all attend to what was read (`likelihood.keeps_tokens`).
        tricks: What is done for speed; the texts are the same without, up to rounding.
    """

    takes_all = False

    def __init__(self, model: PreTrainedModel, tricks: Tricks = Tricks()) -> None:
        self.model = model
        self.tricks = tricks
        # The last position's hidden states are a strided view; without a copy of them, PyTorch copies the output layer's
        # weights once for each row of the batch.
        model.get_output_embeddings().register_forward_pre_hook(lambda head, inputs: (inputs[0].contiguous(),))

    @torch.inference_mode()
    def write(self, task: Task) -> list[list[int]]:
        """Continue each row."""
        constraint = task.constraint
        reader = reader_of(self.model, task.inputs, task.mask, self.tricks.prompts_in_groups)
        logits = reader.read(reader.first)[:, -1:]
        prompts = [ids[there].tolist() for ids, there in zip(task.inputs, task.mask.bool(), strict=True)]
        lookup = PromptLookup([prompt for prompt in prompts for _ in range(task.samples)], constraint.cue)
        if task.samples > 1:  # what is read is read once
            repeated = torch.arange(len(prompts)).repeat_interleave(task.samples)
            reader.keep(repeated)
            logits = logits[repeated]
        written: list[list[int]] = [[] for _ in range(len(logits))]
        rows = list(range(len(logits)))
        last: list[int | None] = [constraint.end for _ in rows]
        guesses: list[list[int]] = [[] for _ in rows]
        while True:
            going = [index for index, token in enumerate(last) if token is not None]
            taken, last = _follow(constraint, rows, going, written, logits, guesses)
            task.on_tokens(written)
            running = [index for index, token in enumerate(last) if token is not None]
            if not running:
                return written
            if logits.shape[1] > 1:
                for index in running:
                    lookup.learn(rows[index], guesses[index], taken[index] - 1)
                reader.take_back(taken)
            if self.tricks.rows_leave and len(running) <= (1 - _ENDED_SHARE) * len(rows):
                reader.keep(torch.tensor(running))
                rows, last = [rows[index] for index in running], [last[index] for index in running]
            if self.tricks.prompt_lookup:
                guesses = _guesses(reader, lookup, constraint, {row: written[row] for row in rows}, last)
            else:
                guesses = [[] for _ in rows]
            width = max(map(len, guesses))
            tokens = [
                [token or 0, *guess, *[0] * (width - len(guess))] for token, guess in zip(last, guesses, strict=True)
            ]
            logits = reader.read(torch.tensor(tokens))


def _guesses(
    reader: Reader,
    lookup: PromptLookup,
    constraint: AnswerConstraint,
    written: dict[int, list[int]],
    last: Sequence[int | None],
) -> list[list[int]]:
    """What each computed row may write next; nothing for those that have ended."""
    going = {row: text for (row, text), token in zip(written.items(), last, strict=True) if token is not None}
    left = max(constraint.limits[row] - len(text) for row, text in going.items())
    found = iter(lookup.guesses(going, min(left - 1, reader.room(left))))
    return [next(found) if token is not None else [] for token in last]


def _follow(
    constraint: AnswerConstraint,
    rows: Sequence[int],
    going: Sequence[int],
    written: list[list[int]],
    logits: Tensor,
    guesses: Sequence[list[int]],
) -> tuple[list[int], list[int | None]]:
    """Write each row's next token, and go on as long as the row's guess was right.

    Args:
        constraint: Chooses the tokens.
        rows: The rows that are computed.
        going: Which of them (their places in `rows`) have not ended.
        written: Of every row, what it has written: tokens are put behind it.
        logits: Scores behind the last token and behind each guessed one, (rows, tokens, vocabulary).
        guesses: Of the computed rows.

    Returns:
        For each computed row how many of its scores were used, and its last token; None where it has ended.
    """
    taken = [0 for _ in rows]
    last: list[int | None] = [None for _ in rows]
    for place in range(logits.shape[1]):
        here = [rows[index] for index in going]
        scores = logits[:, place] if len(here) == len(rows) else logits[going, place]
        chosen = constraint.choose(here, [written[row] for row in here], scores).tolist()
        following = []
        for index, row, token in zip(going, here, chosen, strict=True):
            taken[index], last[index] = place + 1, None
            if token != constraint.end:
                text = written[row]
                text.append(token)
                rest = constraint.rest(row, text)
                if rest:  # most choices are certain after a token or two: the others need not be computed
                    text.extend(rest[:-1])
                elif len(text) < constraint.limits[row]:
                    last[index] = token
                    if guesses[index][place : place + 1] == [token]:
                        following.append(index)
        going = following
        if not going:
            break
    return taken, last
