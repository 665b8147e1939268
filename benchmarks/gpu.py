"""Everything on one GPU in minutes: training, writing, encoding, reranking, the whole chain and its server, with models of random
weights in the shapes of Qwen3-0.6B, Flan-T5-large and MiniLM, and whether small inputs come to the same as on the CPU.

Usage: benchmarks/gpu.sh [--tiny] [--parts train write encode same serve]

Nothing is fetched. The peers: transformers' Trainer in the same number format with batches of similar length, batched `generate`.
`--tiny` takes tiny models, to try the script on a CPU. The last line is one JSON object; `mfu` is the share of the fastest
matrix product that the model's own multiply-adds take.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from train import Clock, plain_trainer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    T5Config,
)

from kard.machine.memory import release_memory
from kard.models.names import cache_argument
from kard.recipe.sections import RerankerSection, StudentSection
from kard.reranker.load import new_reranker
from kard.student.generation import Student, Writing, local_writer
from kard.student.loading import StudentSettings, base_model, base_tokenizer, model_dtype
from kard.student.training import Example, encode_examples, student_trainer, trained_tokens, with_adapters
from kard.student.vllm import Vllm

PARTS = ("train", "write", "encode", "same", "serve")
STUDENTS = {"qwen3_0.6b": "lora", "flan_t5_large": "full"}


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    wide: bool
    examples: int
    batch: int
    steps: int
    written: int
    passages: int
    seconds: float


FULL = Size(True, 512, 32, 12, 96, 4096, 20.0)
TINY = Size(False, 24, 4, 3, 6, 48, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny models")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--small-inputs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.small_inputs:
        print(json.dumps(small_inputs(options.small_inputs)))
        return
    size, rows, start = TINY if options.tiny else FULL, dict[str, Any](), time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_models(folder, size)
        peak = fastest_product(256 if options.tiny else 8192)
        for part in options.parts:
            begin = time.perf_counter()
            rows[part] = {"train": train, "write": write, "encode": encode, "same": same, "serve": serve}[part](
                folder, size, peak
            )
            rows[part]["seconds"] = round(time.perf_counter() - begin, 1)
            print(part, json.dumps(rows[part]), flush=True)
            release_memory()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    settings = {
        "device": device,
        "torch": torch.__version__,
        "peak_tflops": round(peak / 1e12, 2),
        "tiny": options.tiny,
    }
    line: dict[str, Any] = {"benchmark": "gpu", "ours": None, "peer": None, "peer_name": "Trainer, length grouping"}
    if "train" in rows:
        first = rows["train"]["qwen3_0.6b"]
        line |= {"ours": first["ours"], "peer": first["peer"], "ratio": first["ratio"]}
    seconds = round(time.perf_counter() - start, 1)
    print(
        json.dumps({**line, "unit": "tokens/s", "goal": 1.5, "settings": {**settings, "all_seconds": seconds, **rows}})
    )


def make_models(folder: Path, size: Size) -> None:
    """Models of random weights with a tokenizer of their own, saved as a user's would be."""
    torch.manual_seed(0)
    tokenizer = made_tokenizer(size)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    vocabulary = len(tokenizer)
    qwen = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 32,
    }
    qwen |= {"num_key_value_heads": 2, "vocab_size": vocabulary}
    t5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": vocabulary}
    bert = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if size.wide:
        qwen = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
        qwen |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
        t5 = {"d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_heads": 16, "vocab_size": 32128}
        bert = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    configs = {
        "qwen3_0.6b": Qwen3Config(**qwen, **ends, tie_word_embeddings=True),
        "flan_t5_large": T5Config(
            **t5,
            **ends,
            decoder_start_token_id=tokenizer.pad_token_id,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        ),
    }
    for name, config in configs.items():
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        kind.from_config(config, dtype=torch.bfloat16).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    BertModel(BertConfig(**bert, vocab_size=vocabulary, max_position_embeddings=256)).save_pretrained(folder / "minilm")
    tokenizer.save_pretrained(folder / "minilm")


def made_tokenizer(size: Size) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<eos>", "<unk>"]
    count = 8000 if size.wide else 600
    trainer = trainers.BpeTrainer(
        vocab_size=count, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(400 if size.wide else 60, 80, 9), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def texts(count: int, words: int, seed: int) -> list[str]:
    """Sentences of words that do not exist."""
    chance = random.Random(seed)
    known = [
        "".join(chance.choices("bdfgklmnprst", k=1)[0] + chance.choice("aeiou") for _ in range(1 + n % 3))
        for n in range(2000)
    ]
    return [f"{' '.join(chance.choices(known, k=chance.randint(words // 2, words)))}." for _ in range(count)]


def examples(size: Size) -> list[Example]:
    """As long as those of MedQA: a passage and a question, an explanation and an answer."""
    words = (120, 60, 50) if size.wide else (12, 6, 6)
    parts = zip(*(texts(size.examples, count, seed) for seed, count in enumerate(words)), strict=True)
    return [
        Example(f"Passage: {passage}\nQuestion: {question}\nExplanation:", f" {told}\nAnswer: {told.split()[0]}")
        for passage, question, told in parts
    ]


def fastest_product(width: int) -> float:
    """Multiply-adds, times two, a second of a square matrix product in the number format of training."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    one, other = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))

    def products(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            one @ other
        wait()
        return time.perf_counter() - start

    products(3)
    return 10 * 2 * width**3 / products(10)


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def memory() -> float:
    """The most gigabytes that tensors have taken on the GPU since it was asked last."""
    if not torch.cuda.is_available():
        return 0.0
    most = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return round(most, 2)


def train(folder: Path, size: Size, peak: float) -> dict[str, Any]:
    """Tokens a second of our Trainer and of the peer's, on the same examples."""
    rows: dict[str, Any] = {}
    for name, method in STUDENTS.items():
        base, changes = str(folder / name), {"method": method, "batch_size": size.batch, "epochs": 100.0}
        section = StudentSection(model=base, **changes)
        dtype, tokenizer = model_dtype(section.dtype, base), base_tokenizer(base)

        def model(base: str = base, section: StudentSection = section, dtype: torch.dtype = dtype) -> Any:
            found = base_model(base, dtype if section.method == "lora" else torch.float32)
            return with_adapters(found, section) if section.method == "lora" else found

        ours = student_trainer(model(), tokenizer, examples(size), (), section, dtype, 0, folder / "ours")
        rows[name] = measured(ours, size, peak)
        told = encode_examples(examples(size), tokenizer, ours.model.config.is_encoder_decoder)
        del ours
        release_memory()
        peer = plain_trainer(model(), told, int(tokenizer.pad_token_id), size.batch, folder / "peer", dtype)
        plain = measured(peer, size, peak)
        del peer
        release_memory()
        rows[name] |= {
            "peer": plain["ours"],
            "peer_gb": plain["gb"],
            "ratio": round(rows[name]["ours"] / plain["ours"], 2),
        }
    return rows


def measured(trainer: Any, size: Size, peak: float) -> dict[str, float]:
    memory()
    clock = Clock(trainer)
    clock.run(2)  # kernels are chosen and memory is taken
    speed = clock.speed(size.steps)
    return {"ours": round(speed, 1), "gb": memory(), "mfu": round(speed * flops(trainer) / peak, 4)}


def flops(trainer: Any) -> float:
    """Multiply-adds, times two, of a token: forward, back, and of all weights that learn once more."""
    model, rows = trainer.model, trainer.train_dataset
    pair = model.config.is_encoder_decoder
    tokens = trained_tokens([row for row in rows if len(row["labels"]) > 1], pair)
    whole = sum(tokens.values())
    learns = sum(one.numel() for one in model.parameters() if one.requires_grad)
    weights = {
        name: one.numel()
        for name, one in model.named_parameters()
        if one.dim() == 2 and "embed" not in name and "shared" not in name
    }
    head = model.get_output_embeddings().weight.numel()
    blocks = sum(count for name, count in weights.items() if "lm_head" not in name)
    encoder = sum(count for name, count in weights.items() if ".encoder." in f".{name}")
    of_written = tokens["written"] / whole
    share = (encoder * tokens["read"] / whole + (blocks - encoder) * of_written) if pair else blocks
    factor = 4 + 2 * min(1.0, learns / (blocks + head))
    return factor * (share + head * of_written)


def write(folder: Path, size: Size, peak: float) -> dict[str, Any]:
    """Tokens a second: our writer, `generate` on the same prompts in the same batches, and vLLM where it is installed."""
    base = str(folder / "qwen3_0.6b")
    dtype, tokenizer = model_dtype("auto", base), base_tokenizer(base)
    model = base_model(base, dtype).eval()
    settings = StudentSettings(base, False, "text", str(dtype).removeprefix("torch."), 512, size.written)
    prompts = [example.prompt for example in examples(size)]
    how = Writing("rationale", 4 * size.batch, answer_by="generate")
    student = Student(model, tokenizer, settings, local_writer(model))
    rows: dict[str, Any] = {}

    def speed(student: Student) -> tuple[float, dict[str, str]]:
        student.write(dict.fromkeys(prompts[:4], ()), how)
        start = time.perf_counter()
        found = {prompt: one.text for prompt, one in student.write(dict.fromkeys(prompts, ()), how).items()}
        count = sum(map(len, tokenizer(list(found.values())).input_ids))
        return count / (time.perf_counter() - start), found

    memory()
    ours, told = speed(student)
    rows |= {"ours": round(ours, 1), "gb": memory()}
    rows["peer"] = round(generated(model, tokenizer, prompts, size), 1)
    rows |= {"peer_name": "generate", "ratio": round(rows["ours"] / rows["peer"], 2), "cache": cache_argument(model)}
    del student, model
    release_memory()
    if find_spec("vllm") is not None:
        options = {"gpu_memory_utilization": 0.5, "max_model_len": 1024}
        whole = base_model(base, dtype, device="cpu").eval()
        fast, others = speed(Student(whole, tokenizer, settings, Vllm(whole, tokenizer, options)))
        rows |= {"vllm": round(fast, 1), "vllm_same_texts": sum(others[prompt] == told[prompt] for prompt in prompts)}
    return rows


@torch.inference_mode()
def generated(model: Any, tokenizer: Any, prompts: Sequence[str], size: Size) -> float:
    tokenizer.padding_side = "left"
    ordered = sorted(prompts, key=len, reverse=True)
    count, start = 0, time.perf_counter()
    for begin in range(0, len(ordered), 4 * size.batch):
        some = tokenizer(ordered[begin : begin + 4 * size.batch], return_tensors="pt", padding=True).to(model.device)
        new = model.generate(**some, max_new_tokens=size.written, do_sample=False)[:, some.input_ids.shape[1] :]
        count += int((new != tokenizer.pad_token_id).sum())
    wait()
    return count / (time.perf_counter() - start)


def encode(folder: Path, size: Size, peak: float) -> dict[str, Any]:
    """Passages a second, and milliseconds to rerank a question's 100 candidates from their vectors."""
    section = RerankerSection(model=str(folder / "minilm"), question_tokens=64, passage_tokens=128)
    stored = texts(size.passages, 70 if size.wide else 12, 3)
    reranker = new_reranker(section, folder / "vectors", stored, 0)
    reranker.prepare(range(min(64, len(stored))))
    memory()
    start = time.perf_counter()
    reranker.prepare(range(len(stored)))
    rate = (len(stored) - min(64, len(stored)) + 1) / (time.perf_counter() - start)
    questions = [(text,) for text in texts(32, 20, 4)]
    positions = [random.Random(number).sample(range(len(stored)), min(100, len(stored))) for number in range(32)]
    reranker.score(questions, positions)
    start = time.perf_counter()
    reranker.score(questions, positions)
    milliseconds = 1000 * (time.perf_counter() - start) / len(questions)
    return {"passages_per_second": round(rate, 1), "rerank_ms": round(milliseconds, 2), "gb": memory()}


def small_inputs(folder: Path) -> dict[str, Any]:
    """What tiny models come to in float32, wherever this process computes."""
    make_models(folder, TINY)
    found: dict[str, Any] = {}
    for name, method in STUDENTS.items():
        base = str(folder / name)
        section = StudentSection(model=base, method=method, dtype="fp32", batch_size=4, epochs=2.0, lr=1e-2)
        model, tokenizer = base_model(base, torch.float32), base_tokenizer(base)
        trained = with_adapters(model, section) if method == "lora" else model
        trainer = student_trainer(trained, tokenizer, examples(TINY), (), section, torch.float32, 0, folder / "ours")
        trainer.train()
        found[f"losses {name}"] = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        student = Student(
            base_model(base, torch.float32).eval(), tokenizer, StudentSettings(base, False, "text", "float32", 64, 12)
        )
        asked = {example.prompt: ["one", "another"] for example in examples(TINY)[:8]}
        found[f"texts {name}"] = [one.text for one in student.write(asked, Writing("rationale", 4)).values()]
    encoder = RerankerSection(model=str(folder / "minilm"), question_tokens=32, passage_tokens=32)
    reranker = new_reranker(encoder, folder / "vectors", texts(20, 12, 3), 0)
    found["scores"] = reranker.score([(text,) for text in texts(2, 8, 4)], [list(range(20))] * 2)[0].tolist()
    return found


def same(folder: Path, size: Size, peak: float) -> dict[str, Any]:
    """The largest differences between this machine's GPU and its CPU, and how many texts are the same."""
    (folder / "here").mkdir()
    here, there = small_inputs(folder / "here"), on_cpu(folder / "there")
    rows: dict[str, Any] = {}
    for name, values in here.items():
        pairs = list(zip(values, there[name], strict=True))
        if name.startswith("texts"):
            rows[name] = f"{sum(one == other for one, other in pairs)} of {len(pairs)}"
        else:
            rows[name] = max(abs(one - other) for one, other in pairs)
    return rows


def on_cpu(folder: Path) -> dict[str, Any]:
    """`small_inputs` in a process that sees no GPU."""
    folder.mkdir()
    command = [sys.executable, __file__, "--small-inputs", str(folder)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    found: dict[str, Any] = json.loads(shown.splitlines()[-1])
    return found


def serve(folder: Path, size: Size, peak: float) -> dict[str, Any]:
    """The whole chain on made-up questions, and a server of it under load."""
    from serve import measure

    from kard.pipeline import run_recipe
    from kard.recipe.file import load_recipe

    count, words = (64, 60) if size.wide else (24, 8)
    stored, told = texts(4 * count, words, 5), texts(count, 20, 6)
    passages = [{"id": f"p{number}", "title": f"t{number}", "text": text} for number, text in enumerate(stored)]
    asked = [
        {
            "id": f"q{n}",
            "question": f"Which of {text}",
            "choices": text.split()[:3],
            "answer": n % 3,
            "rationales": [f"{text} {stored[n]}"],
        }
        for n, text in enumerate(told)
    ]
    for name, lines in (("passages", passages), ("questions", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    recipe = {
        "questions": {"kind": "jsonl", "path": "questions.jsonl", "dev_size": 4, "test_size": count // 4},
        "knowledge": {"kind": "jsonl", "path": "passages.jsonl"},
        "teacher": {"kind": "recorded"},
        "reranker": {"model": str(folder / "minilm"), "question_tokens": 64, "passage_tokens": 128},
        "student": {"model": str(folder / "qwen3_0.6b"), "max_output_tokens": size.written},
        "evaluation": {"methods": ["kard_reranker"]},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    start = time.perf_counter()
    run_recipe(load_recipe(str(folder / "recipe.yaml")), folder / "run")
    rows = {"chain_seconds": round(time.perf_counter() - start, 1)}
    release_memory()
    clients = 64 if size.wide else 4
    return rows | asyncio.run(measure(folder / "run", clients, size.seconds, size.seconds, clients))


if __name__ == "__main__":
    main()
