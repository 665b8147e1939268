"""Questions a second that a student answers, beside one question at a time in float32.

Gemma 3 270M with the quickstart's prompts and trimmed vocabulary, and a T5 of base size from random weights. The peer is
``generate`` on one prompt after the other, in float32, with the whole vocabulary. Nothing is trained here: our side is told to
write what a trained student would, its question's real rationale and answer, and the peer writes as many tokens.

With --without our side is measured with and without each of the tricks named, on the quickstart's prompts alone; `generate`
stands for transformers' own loop in place of the engine. The ratio then says what the trick brings.

Usage: python benchmarks/write.py [--quick] [--without NAME...]: prompt_lookup, rows_leave, prompts_in_groups,
generate
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from students import quickstart, t5_base
from torch import Tensor

from kard.machine.memory import keep_freed_memory
from kard.models.precision import compute_dtype
from kard.models.weights import model_location
from kard.student.constraint import Pick
from kard.student.cpu_engine.engine import CpuEngine, Tricks
from kard.student.generation import Student, Writing
from kard.student.loading import StudentSettings, base_model, base_tokenizer
from kard.student.reference import Reference
from kard.student.writer import Writer

GOAL = 8.0
TRICK_GOAL = 1.15
NONE = Tricks(False, False, False)


@dataclass(frozen=True)
class Told:
    """Looks for the likeliest token, and takes the next one of each prompt's real text."""

    texts: dict[str, list[int]]
    end: int
    samples: int = 1

    def pick(self, prompts: Sequence[str], limit: int) -> Pick:
        def pick(rows: Sequence[int], places: Sequence[int], scores: Tensor) -> Tensor:
            tokens = scores.max(dim=-1).indices
            for index, (row, place) in enumerate(zip(rows, places, strict=True)):
                tokens[index] = [*self.texts[prompts[row]], self.end][place]
            return tokens

        return pick


def ours(
    model: Any,
    tokenizer: Any,
    texts: dict[str, list[int]],
    batch_size: int,
    vocabulary: int | None = None,
    writer: Writer | None = None,
) -> float:
    settings = StudentSettings("", False, "text", "bfloat16", 512, max(map(len, texts.values())) + 1)
    told = {prompt: [token % vocabulary for token in ids] if vocabulary else ids for prompt, ids in texts.items()}
    student = Student(model.eval(), _Within(tokenizer, vocabulary) if vocabulary else tokenizer, settings, writer)
    how = Writing("rationale", batch_size, answer_by="generate", sampling=Told(told, tokenizer.eos_token_id))  # type: ignore
    start = time.perf_counter()
    written = student.write(dict.fromkeys(texts, ()), how)
    assert len(written) == len(texts)
    return len(texts) / (time.perf_counter() - start)


class _Within:
    """A tokenizer whose ids are brought into the range of a model of random weights."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self.eos_token_id = tokenizer.eos_token_id

    def __call__(self, texts: Any, **settings: Any) -> Any:
        found = self.tokenizer(texts, **settings)
        found["input_ids"] = self._within(found["input_ids"])
        return found

    def _within(self, ids: Any) -> Any:
        return [self._within(row) for row in ids] if isinstance(ids, list) else ids % self.vocabulary

    def decode(self, tokens: Any, **settings: Any) -> str:
        return self.tokenizer.decode(tokens, **settings)


def one_at_a_time(model: Any, tokenizer: Any, texts: dict[str, list[int]], vocabulary: int | None) -> float:
    model.eval()
    start = time.perf_counter()
    for prompt, length in ((prompt, len(ids)) for prompt, ids in texts.items()):
        inputs = tokenizer(prompt, return_tensors="pt")
        ids = inputs.input_ids % vocabulary if vocabulary else inputs.input_ids
        with torch.inference_mode():
            model.generate(
                input_ids=ids, attention_mask=inputs.attention_mask, do_sample=False,
                min_new_tokens=length, max_new_tokens=length,
            )  # fmt: skip
    return len(texts) / (time.perf_counter() - start)


def some(texts: dict[str, list[int]], count: int) -> dict[str, list[int]]:
    """Prompts spread evenly over the lengths."""
    ordered = sorted(texts, key=lambda prompt: (len(prompt), prompt))
    return {prompt: texts[prompt] for prompt in ordered[len(ordered) // count // 2 :: len(ordered) // count][:count]}


def compared(name: str, fast: float, slow: float) -> dict[str, float]:
    print(f"{name}: ours {fast:.2f}, one at a time {slow:.2f} questions/s: {fast / slow:.2f} times", flush=True)
    return {"ours": fast, "peer": slow, "ratio": fast / slow, "goal": GOAL}


def without(name: str, base: str, dtype: torch.dtype, tokenizer: Any, texts: dict[str, list[int]], size: int) -> None:
    """Print what a trick brings: three rounds in turn, so that a slow minute is both sides'."""

    def speed(tricks: Tricks) -> float:
        model = base_model(base, dtype).eval()
        writer = Reference(model) if name == "generate" and tricks == NONE else CpuEngine(model, tricks)
        return ours(model, tokenizer, texts, size, writer=writer)

    left_out = NONE if name == "generate" else Tricks(**{name: False})
    rounds = [(speed(Tricks()), speed(left_out)) for _ in range(3)]
    fast, slow, ratio = (statistics.median(column) for column in zip(*((a, b, a / b) for a, b in rounds), strict=True))
    print(f"with {name} {fast:.2f}, without {slow:.2f} questions/s: {ratio:.2f} times", flush=True)
    settings = {"questions": len(texts), "batch_size": size, "threads": torch.get_num_threads(), "rounds": rounds}
    last = {"benchmark": "write", "ours": fast, "peer": slow, "peer_name": f"without {name}", "unit": "questions/s"}
    print(json.dumps(last | {"ratio": ratio, "goal": TRICK_GOAL, "settings": settings}))


def main() -> None:
    keep_freed_memory()  # as the command line does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Gemma alone, fewer questions")
    parser.add_argument("--without", nargs="+", default=[], choices=[*Tricks.__dataclass_fields__, "generate"])
    options = parser.parse_args()
    quick = options.quick
    with tempfile.TemporaryDirectory() as name:
        recipe, examples, base = quickstart(Path(name) / "run")
        dtype, batch_size = compute_dtype(recipe.student.dtype), recipe.evaluation.resources.batch_size
        tokenizer = base_tokenizer(str(base))
        targets = tokenizer([example.target for example in examples], add_special_tokens=False).input_ids
        texts = {example.prompt: ids for example, ids in zip(examples, targets, strict=True)}
        many, few = some(texts, batch_size if quick else 4 * batch_size), some(texts, 3 if quick else 12)
        for trick in options.without:
            without(trick, str(base), dtype, tokenizer, some(texts, 24), batch_size)
        if options.without:
            return
        location = model_location(recipe.student.model, "student.model")
        found = {
            "gemma": compared(
                "gemma",
                ours(base_model(str(base), dtype), tokenizer, many, batch_size),
                one_at_a_time(base_model(location, torch.float32), base_tokenizer(location), few, None),
            )
        }
        if not quick:
            found["t5_base"] = compared(
                "t5_base",
                ours(t5_base(dtype), tokenizer, many, batch_size, 32128),
                one_at_a_time(t5_base(), tokenizer, few, 32128),
            )
    settings = {
        "quick": quick, "questions": [len(many), len(few)], "batch_size": batch_size, "threads": torch.get_num_threads(),
        "tokens_written": sum(map(len, many.values())) / len(many), "dtype": str(dtype).removeprefix("torch."), **found,
    }  # fmt: skip
    last = {
        "benchmark": "write", "ours": found["gemma"]["ours"], "peer": found["gemma"]["peer"],
        "peer_name": "one question at a time, fp32", "unit": "questions/s", "ratio": found["gemma"]["ratio"], "goal": GOAL,
        "settings": settings,
    }  # fmt: skip
    print(json.dumps(last))


if __name__ == "__main__":
    main()
