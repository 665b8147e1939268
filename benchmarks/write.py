"""Questions a second that a student answers, beside batched `generate` and llama.cpp's server.

Gemma 3 270M with the quickstart's prompts and trimmed vocabulary, and a T5 of base size from random weights. The peers have the
whole vocabulary. Ours multiplies in 8 bits (`evaluation.engine: int8`). transformers' `generate` gets
prompts of similar length together, in float32 or bf16; llama.cpp's server has a slot for each of its clients and the student's
GGUF file (Q4_K_M). Nothing is trained here: our side is told to write what a trained student would, its question's real rationale
and answer, and the peers write as many tokens. The ratio is to the quicker peer, the median of three rounds in turn.

With --without our side is measured with and without each of the tricks named, on the quickstart's prompts alone; `generate`
stands for transformers' own loop in place of the engine, `int8` for products in 8 bits, which the others are measured without.
The ratio then says what the trick brings.

Usage: python benchmarks/write.py [--quick] [--slots N] [--gguf FILE] [--without NAME...]: prompt_lookup,
rows_leave, prompts_in_groups, generate, int8
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from llama_server import Asked, answers_a_second, check_installed, llama_server
from students import packaged_gguf, quickstart, t5_base
from torch import Tensor
from transformers import AutoModelForCausalLM

from kard.machine.memory import keep_freed_memory
from kard.models.precision import compute_dtype
from kard.models.weights import model_location
from kard.student.constraint import Pick
from kard.student.cpu_engine.engine import CpuEngine, Tricks
from kard.student.cpu_engine.int8 import multiply_in_int8
from kard.student.generation import Student, Writing, local_writer
from kard.student.loading import StudentSettings, base_model, base_tokenizer
from kard.student.reference import Reference
from kard.student.writer import Writer

OURS = "ours"
AT_ONCE = 64  # prompts in a batch of generate
GOAL = 1.8
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
        self.eos_token_id, self.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id

    def __call__(self, texts: Any, **settings: Any) -> Any:
        found = self.tokenizer(texts, **settings)
        found["input_ids"] = self._within(found["input_ids"])
        return found

    def _within(self, ids: Any) -> Any:
        return [self._within(row) for row in ids] if isinstance(ids, list) else ids % self.vocabulary

    def decode(self, tokens: Any, **settings: Any) -> str:
        return self.tokenizer.decode(tokens, **settings)


def batched(
    model: Any, tokenizer: Any, texts: dict[str, list[int]], at_once: int, vocabulary: int | None = None
) -> float:
    """Questions a second of `generate`; a batch is written until its longest text is."""
    model.eval()
    start = time.perf_counter()
    ordered = sorted(texts, key=lambda prompt: len(prompt))
    for first in range(0, len(ordered), at_once):
        prompts = ordered[first : first + at_once]
        length = max(len(texts[prompt]) for prompt in prompts)
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        ids = inputs.input_ids % vocabulary if vocabulary else inputs.input_ids
        with torch.inference_mode():
            model.generate(
                input_ids=ids, attention_mask=inputs.attention_mask, do_sample=False,
                min_new_tokens=length, max_new_tokens=length,
            )  # fmt: skip
    return len(texts) / (time.perf_counter() - start)


def served(address: str, texts: dict[str, list[int]], slots: int) -> float:
    """Questions a second of llama.cpp's server."""
    asked = [
        Asked(prompt, {"n_predict": len(ids), "ignore_eos": True, "temperature": 0}) for prompt, ids in texts.items()
    ]
    return answers_a_second(address, asked, slots)


def some(texts: dict[str, list[int]], count: int) -> dict[str, list[int]]:
    """Prompts spread evenly over the lengths."""
    ordered = sorted(texts, key=lambda prompt: (len(prompt), prompt))
    return {prompt: texts[prompt] for prompt in ordered[len(ordered) // count // 2 :: len(ordered) // count][:count]}


def compared(name: str, sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, Any]:
    """Measure ours and its peers in turn, so that a slow minute is everybody's."""
    found = [{side: speed() for side, speed in sides.items()} for _ in range(rounds)]
    middle = {side: statistics.median(one[side] for one in found) for side in sides}
    peer = max((side for side in sides if side != OURS), key=lambda side: middle[side])
    ratio = statistics.median(one[OURS] / one[peer] for one in found)
    shown = ", ".join(f"{side} {speed:.2f}" for side, speed in middle.items())
    print(f"{name}: {shown} questions/s; {ratio:.2f} times {peer} (goal {GOAL:g})", flush=True)
    return {"ours": middle[OURS], "peer": middle[peer], "peer_name": peer, "ratio": ratio, "rounds": found}


def without(name: str, base: str, dtype: torch.dtype, tokenizer: Any, texts: dict[str, list[int]], size: int) -> None:
    """Print what a trick brings: three rounds in turn, so that a slow minute is both sides'."""

    def speed(tricks: Tricks, int8: bool = False) -> float:
        model = base_model(base, dtype).eval()
        if int8:
            multiply_in_int8(model)
        writer = Reference(model) if name == "generate" and tricks == NONE else CpuEngine(model, tricks)
        return ours(model, tokenizer, texts, size, writer=writer)

    left_out = {"generate": NONE, "int8": Tricks()}.get(name) or Tricks(**{name: False})
    rounds = [(speed(Tricks(), name == "int8"), speed(left_out)) for _ in range(3)]
    fast, slow, ratio = (statistics.median(column) for column in zip(*((a, b, a / b) for a, b in rounds), strict=True))
    print(f"with {name} {fast:.2f}, without {slow:.2f} questions/s: {ratio:.2f} times", flush=True)
    settings = {"questions": len(texts), "batch_size": size, "threads": torch.get_num_threads(), "rounds": rounds}
    last = {"benchmark": "write", "ours": fast, "peer": slow, "peer_name": f"without {name}", "unit": "questions/s"}
    print(json.dumps(last | {"ratio": ratio, "goal": TRICK_GOAL, "settings": settings}))


def main() -> None:
    keep_freed_memory()  # as the command line does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Gemma alone, fewer questions, one round")
    parser.add_argument("--without", nargs="+", default=[], choices=[*Tricks.__dataclass_fields__, "generate", "int8"])
    parser.add_argument("--slots", type=int, default=16, help="slots of llama.cpp's server, and clients")
    parser.add_argument("--gguf", type=Path, help="another GGUF file of the student for llama.cpp's server")
    options = parser.parse_args()
    check_installed()
    with tempfile.TemporaryDirectory() as name:
        recipe, examples, base = quickstart(Path(name) / "run")
        dtype, batch_size = compute_dtype(recipe.student.dtype), recipe.evaluation.resources.batch_size
        tokenizer = base_tokenizer(str(base))
        targets = tokenizer([example.target for example in examples], add_special_tokens=False).input_ids
        texts = {example.prompt: ids for example, ids in zip(examples, targets, strict=True)}
        chosen, rounds = some(texts, 32 if options.quick else 128), 1 if options.quick else 3
        for trick in options.without:
            without(trick, str(base), dtype, tokenizer, some(texts, 24), batch_size)
        if options.without:
            return
        location = model_location(recipe.student.model, "student.model")
        plain = base_tokenizer(location)
        longest = max(len(plain(prompt).input_ids) + len(ids) for prompt, ids in chosen.items())

        def gemma(server: str) -> dict[str, Any]:
            model, whole = base_model(str(base), dtype), AutoModelForCausalLM.from_pretrained(location, dtype=dtype)
            writer = local_writer(model.eval(), int8=True)
            sides = {
                OURS: lambda: ours(model, tokenizer, chosen, batch_size, writer=writer),
                f"generate, {AT_ONCE} at once": lambda: batched(whole, plain, chosen, AT_ONCE),
                f"llama.cpp's server, {options.slots} slots": lambda: served(server, chosen, options.slots),
            }
            return compared("gemma", sides, rounds)

        def t5() -> dict[str, Any]:
            quick, slow = t5_base(dtype), t5_base(dtype)
            few, writer = some(texts, 32), local_writer(quick.eval(), int8=True)
            sides = {
                OURS: lambda: ours(quick, tokenizer, few, batch_size, 32128, writer),
                f"generate, {AT_ONCE} at once": lambda: batched(slow, tokenizer, few, AT_ONCE, 32128),
            }
            return compared("t5_base", sides, rounds)

        gguf = options.gguf or packaged_gguf(recipe.student.model, Path(name))
        with llama_server(gguf, options.slots, longest + 16) as server:
            found = {"gemma": gemma(server)}
        if not options.quick:
            found["t5_base"] = t5()
    settings = {
        "quick": options.quick, "questions": len(chosen), "batch_size": batch_size, "threads": torch.get_num_threads(),
        "tokens_written": sum(map(len, chosen.values())) / len(chosen), "dtype": str(dtype).removeprefix("torch."), **found,
    }  # fmt: skip
    first = {name: found["gemma"][name] for name in ("ours", "peer", "peer_name", "ratio")}
    print(json.dumps({"benchmark": "write", "unit": "questions/s", **first, "goal": GOAL, "settings": settings}))


if __name__ == "__main__":
    main()
