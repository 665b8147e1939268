"""Training tokens a second of a student, beside a plain Trainer, and what share of the matrix products' speed is reached.

Gemma 3 270M as the quickstart trains it (LoRA on attention, 4 examples a step, KARD's prompts), and a T5 of base size from
random weights (all weights, 16 examples a step). The peer is transformers' Trainer with the settings that make it fastest here:
texts of similar length together, bfloat16 where the processor computes in it. It has logits for every token of the whole
vocabulary. Both train the same weights on the same examples. Tokens are those of prompts and targets, without padding.

Usage: python benchmarks/train.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from students import bf16_peak, quickstart, t5_base
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from kard.machine.memory import keep_freed_memory
from kard.models.precision import compute_dtype
from kard.models.weights import model_location
from kard.recipe.sections import StudentSection
from kard.student.batching import IGNORED
from kard.student.loading import base_model, base_tokenizer, quicken
from kard.student.training import (
    ATTENTION_CPU,
    Example,
    compile_layers,
    encode_examples,
    student_trainer,
    with_adapters,
)

GOAL = 1.5
PEER = "Trainer, {}, texts of similar length together"
SHARE_GOAL = 0.7
T5_BATCH = 16


class Clock(TrainerCallback):
    """Counts a Trainer's tokens and when its steps ended."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.tokens: list[int] = []
        self.ends: list[float] = []
        step = trainer.training_step

        def counted(model: Any, inputs: dict[str, torch.Tensor], count: Any = None) -> Any:
            written = inputs["labels"] != IGNORED if trainer.model.config.is_encoder_decoder else 0
            self.tokens.append(int(inputs["attention_mask"].sum()) + int(torch.as_tensor(written).sum()))
            return step(model, inputs, count)

        trainer.training_step = counted
        trainer.add_callback(self)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    def run(self, steps: int) -> float:
        """Seconds until the last of some steps ended."""
        self.tokens.clear()
        self.ends.clear()
        self.trainer.args.max_steps = steps
        begin = time.perf_counter()
        self.trainer.train()
        return self.ends[-1] - begin

    def speed(self, steps: int) -> float:
        """Tokens a second of some steps, the first left out."""
        self.run(steps)
        return sum(self.tokens[1:]) / (self.ends[-1] - self.ends[0])


def plain_trainer(
    model: Any, rows: list[dict[str, list[int]]], pad: int, batch_size: int, folder: Path, dtype: torch.dtype
) -> Trainer:
    """transformers' Trainer with nothing of ours: it computes in `dtype`, on texts of similar length."""
    decoder = not model.config.is_encoder_decoder

    def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in batch)
        inputs = [row["input_ids"] + [pad] * (width - len(row["input_ids"])) for row in batch]
        mask = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in batch]
        labels = [
            [IGNORED] * (len(row["input_ids"]) - len(row["labels"])) + row["labels"] if decoder else row["labels"]
            for row in batch
        ]
        width = max(map(len, labels))
        labels = [row + [IGNORED] * (width - len(row)) for row in labels]
        return {"input_ids": torch.tensor(inputs), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}

    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=batch_size, save_strategy="no", report_to=[], disable_tqdm=True,
        remove_unused_columns=False, learning_rate=5e-4, use_cpu=not torch.cuda.is_available(), logging_strategy="no",
        train_sampling_strategy="group_by_length", num_train_epochs=100, bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
    )  # fmt: skip
    return Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)


@dataclass(frozen=True)
class Roofline:
    """A step's matrix products: at the peak they would take `at_peak` of its time, and they do take `in_products`."""

    gflop: float
    peak_gflops: float
    at_peak: float
    in_products: float


def roofline(trainer: Trainer, flops: float | None = None) -> Roofline:
    """Of the longest batch; the peak is measured at once before.

    `flops` of a step are counted unless they are given: what has seen the counter is not run as compiled code any more.
    """
    batch = next(iter(trainer.get_train_dataloader()))

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=trainer.args.bf16):
            trainer.training_step(trainer.model, dict(batch))
        trainer.model.zero_grad()
        return time.perf_counter() - start

    step()
    if flops is None:
        with FlopCounterMode(display=False) as counter:
            step()
        flops = counter.get_total_flops()
    peak, seconds = bf16_peak(), statistics.median(step() for _ in range(3))
    with profile(activities=[ProfilerActivity.CPU]) as spent:
        step()
    times = {row.key: row.self_cpu_time_total for row in spent.key_averages()}
    products = sum(times.get(name, 0) for name in ("aten::mm", "aten::bmm", "aten::addmm"))
    return Roofline(flops / 1e9, peak / 1e9, flops / peak / seconds, products / sum(times.values()))


def compare(ours: dict[str, Trainer], peer: Trainer, steps: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Train in turn, so that a slow minute is everybody's: medians of the rounds' speeds and of their ratios."""
    fast, slow = {name: Clock(trainer) for name, trainer in ours.items()}, Clock(peer)
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in ours}
    for _ in range(rounds):
        plain = slow.speed(steps[1])
        for name, clock in fast.items():
            pairs[name].append((clock.speed(steps[0]), plain))
    rows: dict[str, Any] = {}
    flops = None
    for name, found in pairs.items():
        ratio, speed, plain = (
            statistics.median(column) for column in zip(*((a / b, a, b) for a, b in found), strict=True)
        )
        line = roofline(ours[name], flops)
        flops = line.gflop * 1e9
        rows[name] = {
            "ours": speed, "peer": plain, "ratio": ratio, "goal": GOAL, "pairs": found, **asdict(line)
        }  # fmt: skip
        print(
            f"{name}: {speed:.0f} tokens/s, Trainer {plain:.0f}: {ratio:.2f} times (goal {GOAL:g}; rounds: "
            f"{', '.join(f'{a / b:.2f}' for a, b in found)}). Matrix products ({line.gflop:.0f} GFLOP a step) at the peak of "
            f"{line.peak_gflops:.0f} GFLOP/s would take {line.at_peak:.0%} of a step's time (goal {SHARE_GOAL:.0%}), and do "
            f"take {line.in_products:.0%}",
            flush=True,
        )
    return rows


def t5_rows(examples: list[Example], base: Path) -> list[dict[str, list[int]]]:
    """Prompts and targets as a T5 of random weights reads them: ids of another tokenizer, brought into its range."""
    rows = encode_examples(examples, base_tokenizer(str(base)), True)
    return [{name: [2 + token % 32000 for token in ids] for name, ids in row.items()} for row in rows]


def main() -> None:
    keep_freed_memory()  # as the command line does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Gemma alone, fewer steps")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe, examples, base = quickstart(folder / "run")
        section, dtype = recipe.student, compute_dtype(recipe.student.dtype)
        tokenizer = base_tokenizer(str(base))

        def ours(model: Any, section: StudentSection) -> Trainer:
            return student_trainer(model, tokenizer, examples, (), section, dtype, 0, folder / "ours")

        def our_gemma(compiled: bool) -> Trainer:
            model = base_model(str(base), dtype, ATTENTION_CPU)
            adapted = with_adapters(model, section)
            if compiled:
                compile_layers(model)
            return ours(adapted, section)

        def plain_gemma() -> Trainer:
            location = model_location(section.model, "student.model")
            plain = AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32)
            model = with_adapters(plain, section)
            rows = encode_examples(examples, base_tokenizer(location), False)
            return plain_trainer(model, rows, 0, section.batch_size, folder / "peer", dtype)

        def our_t5() -> Trainer:
            model = t5_base()
            model.set_attn_implementation(ATTENTION_CPU)
            quicken(model)  # both as `base_model` does
            trainer = ours(model, section.model_copy(update={"method": "full", "batch_size": T5_BATCH}))
            trainer.train_dataset = t5_rows(examples, base)
            return trainer

        def plain_t5() -> Trainer:
            return plain_trainer(t5_base(), t5_rows(examples, base), 0, T5_BATCH, folder / "peer", dtype)

        begin_seconds = 0.0
        gemmas = {"gemma": our_gemma(False)}
        if not quick:
            gemmas["gemma compiled"] = our_gemma(True)
            begin_seconds = Clock(gemmas["gemma compiled"]).run(2)
            print(f"gemma compiled: its first two steps took {begin_seconds:.0f} s", flush=True)
        rows = compare(gemmas, plain_gemma(), (9, 5), 1 if quick else 3)
        gemmas.clear()  # memory
        if not quick:
            rows |= compare({"t5_base": our_t5()}, plain_t5(), (3, 3), 3)
        settings = {
            "quick": quick, "examples": len(examples), "batch_size": section.batch_size, "t5_batch_size": T5_BATCH,
            "compiled_begin_seconds": begin_seconds, "threads": torch.get_num_threads(),
            "dtype": str(dtype).removeprefix("torch."), "share_goal": SHARE_GOAL, **rows,
        }  # fmt: skip
        first = rows["gemma"]
        last = {
            "benchmark": "train", "ours": first["ours"], "peer": first["peer"], "peer_name": PEER.format(settings["dtype"]),
            "unit": "tokens/s", "ratio": first["ratio"], "goal": first["goal"], "settings": settings,
        }  # fmt: skip
        print(json.dumps(last))


if __name__ == "__main__":
    main()
