"""Questions a second that a student answers, beside one question at a time in float32.

Gemma 3 270M with the quickstart's prompts and trimmed vocabulary, and a T5 of base size from random weights. The peer is
``generate`` on one prompt after the other, in float32, with the whole vocabulary. Nothing is trained here: so that both sides
write as much as a trained student would, each text ends at the length of its question's real rationale and answer.

Usage: python benchmarks/write.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from students import quickstart, t5_base
from torch import Tensor

from kard.memory import keep_freed_memory
from kard.precision import compute_dtype
from kard.student.generation import Student, Writing
from kard.student.guide import Pick
from kard.student.loading import StudentSettings, base_model, base_tokenizer
from kard.weights import model_location

GOAL = 8.0


@dataclass(frozen=True)
class UpTo:
    """Takes the likeliest token, and the end token at each text's given length."""

    lengths: dict[str, int]
    end: int
    samples: int = 1

    def pick(self, prompts: Sequence[str], limit: int) -> Pick:
        def pick(rows: Sequence[int], places: Sequence[int], scores: Tensor) -> Tensor:
            scores[:, self.end] = -torch.inf
            ended = torch.tensor([p >= self.lengths[prompts[row]] for row, p in zip(rows, places, strict=True)])
            return scores.argmax(dim=-1).masked_fill(ended, self.end)

        return pick


def ours(model: Any, tokenizer: Any, lengths: dict[str, int], batch_size: int, vocabulary: int | None) -> float:
    settings = StudentSettings("", False, "text", "bfloat16", 512, max(lengths.values()) + 1)
    student = Student(model.eval(), _Within(tokenizer, vocabulary) if vocabulary else tokenizer, settings)
    how = Writing("rationale", batch_size, answer_by="generate", sampling=UpTo(lengths, tokenizer.eos_token_id))  # type: ignore
    start = time.perf_counter()
    written = student.write(dict.fromkeys(lengths, ()), how)
    assert len(written) == len(lengths)
    return len(lengths) / (time.perf_counter() - start)


class _Within:
    """A tokenizer whose ids are brought into the range of a model of random weights."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self.eos_token_id = tokenizer.eos_token_id

    def __call__(self, texts: Any, **settings: Any) -> Any:
        found = self.tokenizer(texts, **settings)
        if settings:
            found["input_ids"] = found["input_ids"] % self.vocabulary
        return found

    def batch_decode(self, tokens: Any, **settings: Any) -> list[str]:
        return self.tokenizer.batch_decode(tokens, **settings)


def one_at_a_time(model: Any, tokenizer: Any, lengths: dict[str, int], vocabulary: int | None) -> float:
    model.eval()
    start = time.perf_counter()
    for prompt, length in lengths.items():
        inputs = tokenizer(prompt, return_tensors="pt")
        ids = inputs.input_ids % vocabulary if vocabulary else inputs.input_ids
        with torch.inference_mode():
            model.generate(
                input_ids=ids, attention_mask=inputs.attention_mask, do_sample=False,
                min_new_tokens=length, max_new_tokens=length,
            )  # fmt: skip
    return len(lengths) / (time.perf_counter() - start)


def some(lengths: dict[str, int], count: int) -> dict[str, int]:
    """Prompts spread evenly over the lengths."""
    ordered = sorted(lengths, key=lambda prompt: (len(prompt), prompt))
    return {prompt: lengths[prompt] for prompt in ordered[len(ordered) // count // 2 :: len(ordered) // count][:count]}


def main() -> None:
    keep_freed_memory()  # as the command line does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Gemma alone, fewer questions")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as name:
        recipe, examples, base = quickstart(Path(name) / "run")
        dtype, batch_size = compute_dtype(recipe.student.dtype), recipe.evaluation.batch_size
        tokenizer = base_tokenizer(str(base))
        targets = tokenizer([example.target for example in examples], add_special_tokens=False).input_ids
        lengths = {example.prompt: len(ids) for example, ids in zip(examples, targets, strict=True)}
        many, few = some(lengths, batch_size if quick else 4 * batch_size), some(lengths, 3 if quick else 12)
        location = model_location(recipe.student.model, "student.model")
        rows = {
            "gemma": (
                ours(base_model(str(base), dtype), tokenizer, many, batch_size, None),
                one_at_a_time(base_model(location, torch.float32), base_tokenizer(location), few, None),
            )
        }
        if not quick:
            rows["t5_base"] = (
                ours(t5_base(dtype), tokenizer, many, batch_size, 32128),
                one_at_a_time(t5_base(), tokenizer, few, 32128),
            )
    found = {
        name: {"ours": fast, "peer": slow, "ratio": fast / slow, "goal": GOAL} for name, (fast, slow) in rows.items()
    }
    for name, row in found.items():
        print(f"{name}: ours {row['ours']:.2f}, one at a time {row['peer']:.2f} questions/s: {row['ratio']:.2f} times")
    settings = {
        "quick": quick, "questions": [len(many), len(few)], "batch_size": batch_size, "threads": torch.get_num_threads(),
        "tokens_written": sum(many.values()) / len(many), "dtype": str(dtype).removeprefix("torch."), **found,
    }  # fmt: skip
    last = {
        "benchmark": "write", "ours": found["gemma"]["ours"], "peer": found["gemma"]["peer"],
        "peer_name": "one question at a time, fp32", "unit": "questions/s", "ratio": found["gemma"]["ratio"], "goal": GOAL,
        "settings": settings,
    }  # fmt: skip
    print(json.dumps(last))


if __name__ == "__main__":
    main()
