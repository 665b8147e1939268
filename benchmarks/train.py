"""Training tokens a second of a student, beside a plain Trainer, and what share of the matrix products' speed is reached.

Gemma 3 270M as the quickstart trains it (LoRA on attention, 4 examples a step, KARD's prompts), and a T5 of base size from
random weights as the paper trains it (all weights, 32 examples a step). The peer is transformers' Trainer as it comes:
float32, logits for every token of the whole vocabulary, batches in random order padded to their longest text. Both train the
same weights on the same examples.
Tokens are those of prompts and targets, without padding.

Usage: python benchmarks/train.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from students import bf16_peak, quickstart, t5_base
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import Trainer, TrainerCallback, TrainingArguments

from kard.memory import keep_freed_memory
from kard.precision import compute_dtype
from kard.recipe import StudentSection
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
from kard.weights import model_location

GOALS = {"gemma": 6.0, "t5_base": 3.0}
SHARE_GOAL = 0.7
T5_BATCH = 32


class Clock(TrainerCallback):
    """Counts the tokens of each step and when it ended."""

    def __init__(self, trainer: Trainer) -> None:
        self.tokens: list[int] = []
        self.ends: list[float] = []
        self.begin = time.perf_counter()
        step = trainer.training_step

        def counted(model: Any, inputs: dict[str, torch.Tensor], count: Any = None) -> Any:
            written = (
                0
                if "position_ids" in inputs or not trainer.model.config.is_encoder_decoder
                else inputs["labels"] != IGNORED
            )
            self.tokens.append(int(inputs["attention_mask"].sum()) + int(torch.as_tensor(written).sum()))
            return step(model, inputs, count)

        trainer.training_step = counted
        trainer.add_callback(self)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def speed(self) -> float:
        """Tokens a second, the first step left out."""
        return sum(self.tokens[1:]) / (self.ends[-1] - self.ends[0])


def measured(trainer: Trainer, steps: int) -> float:
    return clocked(trainer, steps).speed


def clocked(trainer: Trainer, steps: int) -> Clock:
    trainer.args.max_steps = steps
    clock = Clock(trainer)
    trainer.train()
    return clock


def plain_trainer(model: Any, rows: list[dict[str, list[int]]], pad: int, batch_size: int, folder: Path) -> Trainer:
    """transformers' Trainer with nothing of ours."""
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
    )  # fmt: skip
    return Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)


def share_of_peak(trainer: Trainer, peak: float) -> dict[str, float]:
    """A step's matrix products at the measured peak, as a share of the step's time; and what share they do take."""
    batch = next(iter(trainer.get_train_dataloader()))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=trainer.args.bf16):
            trainer.training_step(trainer.model, dict(batch))
        trainer.model.zero_grad()

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    flops = counter.get_total_flops()
    with profile(activities=[ProfilerActivity.CPU]) as spent:
        step()
    times_spent = {row.key: row.self_cpu_time_total for row in spent.key_averages()}
    products = sum(times_spent.get(name, 0) for name in ("aten::mm", "aten::bmm", "aten::addmm"))
    return {
        "in_products": products / sum(times_spent.values()),
        "step_gflop": flops / 1e9,
        "step_gflops_per_s": flops / min(times) / 1e9,
        "share": flops / peak / min(times),
    }


def compare(
    name: str, ours: Callable[[], Trainer], peer: Callable[[], Trainer], steps: tuple[int, int], peak: float
) -> dict[str, Any]:
    trainer = ours()
    roofline = share_of_peak(trainer, peak)
    fast = measured(trainer, steps[0])
    slow = measured(peer(), steps[1])
    row = {"ours": fast, "peer": slow, "ratio": fast / slow, "goal": GOALS[name], **roofline}
    print(
        f"{name}: ours {fast:.0f}, plain Trainer {slow:.0f} tokens/s: {row['ratio']:.2f} times (goal {GOALS[name]:g}). "
        f"Matrix products at the peak of {peak / 1e9:.0f} GFLOP/s would take {roofline['share']:.0%} of a step's time "
        f"(goal {SHARE_GOAL:.0%}), and do take {roofline['in_products']:.0%}; {roofline['step_gflop']:.0f} GFLOP a step",
        flush=True,
    )
    return row


def compare_compiled(compiled: Trainer, eager: dict[str, Any], steps: int, peak: float) -> dict[str, float]:
    """The same with torch.compile (``student.compile``): what it takes to begin, and what it brings."""
    clock = clocked(compiled, 2)
    before = clock.ends[1] - clock.begin
    roofline = share_of_peak(compiled, peak)
    speed = measured(compiled, steps)
    print(
        f"gemma compiled: {speed:.0f} tokens/s, {speed / eager['ours']:.2f} times eager and {speed / eager['peer']:.2f} times "
        f"plain; the first two steps took {before:.0f} s. Matrix products at the peak would take {roofline['share']:.0%} of a "
        f"step's time, and do take {roofline['in_products']:.0%}",
        flush=True,
    )
    ratios = {"ratio": speed / eager["ours"], "ratio_to_peer": speed / eager["peer"]}
    return {"ours": speed, **ratios, "begin_seconds": before, **roofline}


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
        section, dtype, peak = recipe.student, compute_dtype(recipe.student.dtype), bf16_peak()
        tokenizer = base_tokenizer(str(base))

        def ours(model: Any, section: StudentSection) -> Trainer:
            return student_trainer(model, tokenizer, examples, (), section, dtype, 0, folder / "ours")

        def our_gemma() -> Trainer:
            return ours(with_adapters(base_model(str(base), dtype, ATTENTION_CPU), section), section)

        def plain_gemma() -> Trainer:
            location = model_location(section.model, "student.model")
            model = with_adapters(base_model(location, torch.float32), section)
            rows = encode_examples(examples, base_tokenizer(location), False)
            return plain_trainer(model, rows, 0, section.batch_size, folder / "peer")

        rows = {"gemma": compare("gemma", our_gemma, plain_gemma, (8, 2) if quick else (24, 4), peak)}
        if not quick:
            model = base_model(str(base), dtype, ATTENTION_CPU)
            adapted = with_adapters(model, section)
            compile_layers(model)
            rows["gemma_compiled"] = compare_compiled(ours(adapted, section), rows["gemma"], 24, peak)
            whole = section.model_copy(update={"method": "full", "batch_size": T5_BATCH})

            def our_t5() -> Trainer:
                model = t5_base()
                model.set_attn_implementation(ATTENTION_CPU)
                quicken(model)  # both as `base_model` does
                trainer = ours(model, whole)
                trainer.train_dataset = t5_rows(examples, base)
                return trainer

            def plain_t5() -> Trainer:
                return plain_trainer(t5_base(), t5_rows(examples, base), 0, T5_BATCH, folder / "peer")

            rows["t5_base"] = compare("t5_base", our_t5, plain_t5, (4, 3), peak)
        settings = {
            "quick": quick, "examples": len(examples), "batch_size": section.batch_size, "t5_batch_size": T5_BATCH,
            "threads": torch.get_num_threads(),
            "dtype": str(dtype).removeprefix("torch."), "peak_gflops": peak / 1e9, "share_goal": SHARE_GOAL, **rows,
        }  # fmt: skip
        first = rows["gemma"]
        last = {
            "benchmark": "train", "ours": first["ours"], "peer": first["peer"], "peer_name": "plain Trainer, fp32",
            "unit": "tokens/s", "ratio": first["ratio"], "goal": first["goal"], "settings": settings,
        }  # fmt: skip
        print(json.dumps(last))


if __name__ == "__main__":
    main()
