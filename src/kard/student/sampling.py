"""Sampling that depends on the seed, the prompt and the sample's number alone, never on the batch or its order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kard.student.constraint import Pick


@dataclass(frozen=True)
class Sampling:
    """How many texts are drawn for a prompt, and how.

    Attributes:
        samples: Texts a prompt.
        temperature: Scores are divided by it.
        top_k: Only so many of the likeliest tokens can be drawn, by default as in the paper's code; None: all.
        top_p: Only the likeliest tokens that together have this probability can be drawn, by default as in the paper's code.
        seed: Of the draws.
    """

    samples: int
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float = 0.95
    seed: int = 0

    def pick(self, prompts: Sequence[str], limit: int) -> Pick:
        """What draws tokens for a batch in which each prompt stands `samples` times, for texts of up to `limit` tokens."""
        draws = np.stack(
            [_uniform(prompt, sample, self.seed, limit) for prompt in prompts for sample in range(self.samples)]
        )

        def pick(rows: Sequence[int], places: Sequence[int], scores: Tensor) -> Tensor:
            count = min(self.top_k or scores.shape[-1], scores.shape[-1])
            best, tokens = (scores.float() / self.temperature).topk(count, dim=-1)
            probability = best.softmax(dim=-1)
            upto = probability.cumsum(dim=-1)
            upto = upto.masked_fill(upto - probability >= self.top_p, 0).cummax(dim=-1).values
            drawn = torch.from_numpy(draws[list(rows), list(places)]).to(upto)[:, None] * upto[:, -1:]
            last = (upto < upto[:, -1:]).sum(dim=-1, keepdim=True)
            index = (upto <= drawn).sum(dim=-1, keepdim=True).minimum(last)
            return tokens.gather(-1, index)[:, 0]

        return pick


def _uniform(prompt: str, sample: int, seed: int, count: int) -> NDArray[np.float64]:
    digest = hashlib.sha256(f"{seed} {sample} {prompt}".encode()).digest()
    return np.random.default_rng(list(digest)).random(count)
