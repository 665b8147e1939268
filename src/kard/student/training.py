"""Training a student: loss on the target tokens only, batches of similar length, LoRA or all weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer

from kard.artifacts import write_json
from kard.errors import UserError
from kard.recipe import StudentSection
from kard.student.loading import StudentSettings, base_model, base_tokenizer
from kard.training import compute_dtype, train, training_arguments

IGNORED = -100
# Sequences are short here, and the backward pass of the fused kernel is the slower one on CPUs (measured: half the speed).
ATTENTION_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "q", "k", "v", "o"]
ATTENTION_CPU, ATTENTION_GPU = "eager", "sdpa"


@dataclass(frozen=True)
class Example:
    """One training example: what is read and what is to be written."""

    prompt: str
    target: str


def train_student(
    examples: Sequence[Example],
    base: str,
    saved_as: str,
    section: StudentSection,
    seed: int,
    folder: Path,
    label: str,
) -> None:
    """Fine-tune a student and write it to a folder that `Student.load` reads.

    Minimises −log p(target | prompt) averaged over target tokens (KARD equations 2 and 3; the paper leaves open whether a
    long rationale weighs more, here every token weighs the same).

    Args:
        examples: Prompts and targets; at least one.
        base: Folder or hub id of the model to start from.
        saved_as: How the student's folder names it: a relative path, a hub id or ``package:NAME``.
        section: The recipe's ``student``.
        seed: Order of the examples and initial adapters.
        folder: Gets the weights (or adapters), ``student.json`` and the loss curve; checkpoints while training.
        label: What is trained, for the progress line.
    """
    torch.manual_seed(seed)
    dtype = compute_dtype(section.dtype)
    tokenizer = base_tokenizer(base)
    attention = ATTENTION_GPU if torch.cuda.is_available() else ATTENTION_CPU
    model = base_model(base, dtype if section.method == "lora" else torch.float32, attention)
    trained = with_adapters(model, section) if section.method == "lora" else model
    rows = encode_examples(examples, tokenizer, model.config.is_encoder_decoder)
    arguments = training_arguments(
        folder / "checkpoints",
        dtype,
        seed,
        num_train_epochs=section.epochs,
        per_device_train_batch_size=section.batch_size,
        gradient_accumulation_steps=section.gradient_accumulation,
        learning_rate=section.lr,
        warmup_steps=section.warmup,
        weight_decay=section.weight_decay,
        train_sampling_strategy="group_by_length",
    )
    trainer = StudentTrainer(
        model=trained,
        args=arguments,
        train_dataset=rows,
        data_collator=Collator(tokenizer.pad_token_id, model.config.is_encoder_decoder),
    )
    curve = train(trainer, label, section.checkpoint_minutes)
    trained.save_pretrained(folder / "weights")
    tokenizer.save_pretrained(folder / "tokenizer")
    settings = StudentSettings(
        base=saved_as if section.method == "lora" else "weights",
        adapters=section.method == "lora",
        answer_as=section.answer_as,
        dtype=str(dtype).removeprefix("torch."),
        max_input_tokens=section.max_input_tokens,
        max_output_tokens=section.max_output_tokens,
    )
    write_json(folder / "student.json", asdict(settings))
    write_json(folder / "training.json", {"examples": len(examples), "loss": curve})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def with_adapters(model: PreTrainedModel, section: StudentSection) -> Any:
    """The model with LoRA adapters on all of its linear layers; only they are trained, in float32."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = LoraConfig(
        r=section.lora_rank,
        lora_alpha=section.lora_alpha,
        lora_dropout=section.lora_dropout,
        target_modules="all-linear" if section.lora_targets == "all" else ATTENTION_LAYERS,
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    for module in adapted.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False  # autocast casts; a second cast to float32 and back is lost time
    return adapted


def encode_examples(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast, encoder_decoder: bool
) -> list[dict[str, list[int]]]:
    """Token ids of prompts and targets, encoded apart so that a prompt's tokens are the same in training and writing."""
    if not examples:
        raise UserError("students: there is no training example. See 'kard show RUN rationales' for why none was kept.")
    prompts = tokenizer([example.prompt for example in examples]).input_ids
    targets = tokenizer([example.target for example in examples], add_special_tokens=False).input_ids
    ended = [[*ids, tokenizer.eos_token_id] for ids in targets]
    if encoder_decoder:
        return [{"input_ids": prompt, "labels": ids} for prompt, ids in zip(prompts, ended, strict=True)]
    return [{"input_ids": prompt + ids, "labels": ids} for prompt, ids in zip(prompts, ended, strict=True)]


@dataclass(frozen=True)
class Collator:
    """Pads a batch. Decoders are padded on the left, so that all targets end at the same place.

    Labels are masked by length, never by pad id: where pad and end are the same token, the end is still learned.
    """

    pad: int
    encoder_decoder: bool

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        inputs = _padded([row["input_ids"] for row in rows], self.pad, left=not self.encoder_decoder)
        ones = [[1] * len(row["input_ids"]) for row in rows]
        mask = _padded(ones, 0, left=not self.encoder_decoder)
        # Trainer leaves a decoder's first label out when it counts what a step's loss is divided by: none may stand there.
        gap = [] if self.encoder_decoder else [IGNORED]
        labels = _padded([gap + row["labels"] for row in rows], IGNORED, left=not self.encoder_decoder)
        batch = {"input_ids": inputs, "attention_mask": mask, "labels": labels}
        if not self.encoder_decoder:
            batch["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return batch


def _padded(rows: list[list[int]], filler: int, left: bool) -> torch.Tensor:
    width = max(len(row) for row in rows)
    fill = [[filler] * (width - len(row)) for row in rows]
    return torch.tensor([gap + row if left else row + gap for row, gap in zip(rows, fill, strict=True)])


class StudentTrainer(Trainer):
    """A Trainer whose loss looks at target positions only: no logits are computed for prompts or padding."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        labels = inputs.pop("labels")
        is_target = labels != IGNORED
        inner = self.accelerator.unwrap_model(model)
        if "position_ids" in inputs:
            # The logits before a token predict it: one place more is kept, and the last one is not looked at.
            width = labels.shape[1]
            select = _inputs_at(inner.get_output_embeddings(), lambda hidden: hidden[:, -width - 1 : -1][is_target])
            extra: dict[str, Any] = {"logits_to_keep": width + 1, "use_cache": False}
        else:
            select = _inputs_at(inner.get_output_embeddings(), lambda hidden: hidden[is_target])
            extra = {"decoder_input_ids": inner.prepare_decoder_input_ids_from_labels(labels=labels)}
        with select:
            outputs = model(**inputs, **extra)
        total = functional.cross_entropy(outputs.logits.float(), labels[is_target], reduction="sum")
        loss = total / (num_items_in_batch if num_items_in_batch is not None else is_target.sum())
        return (loss, outputs) if return_outputs else loss


@contextmanager
def _inputs_at(head: nn.Module, chosen: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Give the output layer only some rows of its input: the one place where every architecture can be reached alike."""
    handle = head.register_forward_pre_hook(lambda module, inputs: (chosen(inputs[0]),))
    try:
        yield
    finally:
        handle.remove()
