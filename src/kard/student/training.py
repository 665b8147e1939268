"""Training a student: loss on the target tokens only, batches of similar length, LoRA or all weights."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedModel, PreTrainedTokenizerFast, Trainer

from kard.artifacts import write_json
from kard.errors import UserError
from kard.precision import compute_dtype
from kard.processes import process_count, rank
from kard.progress import say
from kard.recipe import StudentSection
from kard.student.activation import gelu_by_sigmoid
from kard.student.batching import IGNORED, Batch, Collator, EpochOrder, pieces
from kard.student.dropout import QuickDropout
from kard.student.loading import StudentSettings, base_model, base_tokenizer
from kard.student.loss import token_loss
from kard.training import train, training_arguments

# Sequences are short here, and the backward pass of the fused kernel is the slower one on CPUs (measured: half the speed).
ATTENTION_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "q", "k", "v", "o"]
ATTENTION_CPU, ATTENTION_GPU = "eager", "sdpa"


@dataclass(frozen=True)
class Example:
    """One training example: what is read and what is to be written.

    `group` names examples of which one may be drawn each epoch (a question's rationales), "" where there are none.
    """

    prompt: str
    target: str
    group: str = ""


def train_student(
    examples: Sequence[Example],
    base: str,
    saved_as: str,
    section: StudentSection,
    seed: int,
    folder: Path,
    label: str,
    dev: Sequence[Example] = (),
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
        dev: Examples that early stopping looks at; the weights with the lowest loss on them are kept.

    Raises:
        UserError: There is no example, or the batch cannot be shared between the processes.
    """
    torch.manual_seed(seed)
    dtype = compute_dtype(section.dtype)
    tokenizer = base_tokenizer(base)
    attention = ATTENTION_GPU if torch.cuda.is_available() else ATTENTION_CPU
    model = base_model(base, dtype if section.method == "lora" else torch.float32, attention)
    trained = with_adapters(model, section) if section.method == "lora" else model
    if section.compile:
        compile_layers(model)
    trainer = student_trainer(trained, tokenizer, examples, dev, section, dtype, seed, folder / "checkpoints")
    curve = train(trainer, label, section.checkpoint_minutes)
    trainer.save_model(str(folder / "weights"))
    trainer.accelerator.wait_for_everyone()
    if rank() > 0:
        return
    (folder / "weights" / "training_args.bin").unlink()  # it holds paths of this machine, and nobody reads it
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
    dev_loss = [
        {"step": row["step"], "loss": row["eval_loss"]} for row in trainer.state.log_history if "eval_loss" in row
    ]
    assert trainer.order is not None
    rows: Any = trainer.train_dataset
    tokens = trained_tokens(rows, trainer.order.groups, model.config.is_encoder_decoder)
    epochs = trainer.state.epoch or 0.0
    training: dict[str, Any] = {"examples": len(examples), "loss": curve, "epochs": epochs}
    training |= {"tokens": {name: round(epochs * count) for name, count in tokens.items()}}
    write_json(folder / "training.json", training | ({"dev_loss": dev_loss} if dev else {}))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def student_trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    dev: Sequence[Example],
    section: StudentSection,
    dtype: torch.dtype,
    seed: int,
    checkpoints: Path,
) -> StudentTrainer:
    """A Trainer for a student; `model` is what `with_adapters` gives, or the model itself where all weights are trained."""
    encoder_decoder = model.config.is_encoder_decoder
    rows = encode_examples(examples, tokenizer, encoder_decoder)
    step = section.batch_size * section.gradient_accumulation
    if step % process_count():
        raise UserError(
            f"student.batch_size: {step} examples a step cannot be shared by {process_count()} processes. "
            "Set student.batch_size to a multiple of them."
        )
    stopping: dict[str, Any] = {}
    if dev:
        stopping = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
        stopping |= {"metric_for_best_model": "loss", "per_device_eval_batch_size": section.batch_size}
    arguments = training_arguments(
        checkpoints,
        dtype,
        seed,
        num_train_epochs=section.epochs,
        per_device_train_batch_size=step // process_count(),
        learning_rate=section.lr,
        warmup_steps=section.warmup,
        weight_decay=section.weight_decay,
        activation_checkpointing=section.gradient_checkpointing,
        **stopping,
    )
    # Two tokens: the logits before the one that could be a target.
    filler = [{"input_ids": [tokenizer.eos_token_id] * 2, "labels": [IGNORED]}] if process_count() > 1 else []
    return StudentTrainer(
        model=model,
        args=arguments,
        train_dataset=rows + filler,
        eval_dataset=encode_examples(dev, tokenizer, encoder_decoder) if dev else None,
        data_collator=Collator(tokenizer.pad_token_id, encoder_decoder),
        callbacks=[EarlyStoppingCallback(section.early_stopping)] if dev and section.early_stopping else [],
        order=EpochOrder(
            [len(row["input_ids"]) + (len(row["labels"]) if encoder_decoder else 0) for row in rows],
            _groups(examples, section.rationales_per_epoch),
            step,
            seed,
            len(rows) if filler else None,
        ),
        piece_rows=max(1, section.batch_size // process_count()),
        piece_tokens=section.batch_tokens,
    )


def trained_tokens(
    rows: Sequence[dict[str, list[int]]], groups: Sequence[Sequence[int]], encoder_decoder: bool
) -> dict[str, float]:
    """Tokens of an epoch, of prompts (``read``) and targets (``written``): of a group one example is drawn, its mean counts."""
    written = [len(row["labels"]) for row in rows]
    inside = 0 if encoder_decoder else 1  # a decoder's inputs hold the target as well
    read = [len(row["input_ids"]) - inside * count for row, count in zip(rows, written, strict=True)]

    def total(counts: Sequence[int]) -> float:
        return sum(sum(counts[row] for row in group) / len(group) for group in groups)

    return {"read": total(read), "written": total(written)}


def _groups(examples: Sequence[Example], rationales_per_epoch: str) -> list[list[int]]:
    if rationales_per_epoch == "all":
        return [[row] for row in range(len(examples))]
    groups: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        groups.setdefault(example.group or f"alone {row}", []).append(row)
    return list(groups.values())


def compile_layers(model: PreTrainedModel) -> None:
    """Compile the model's blocks in place, each kind once for any length: parameters keep their names."""
    gelu_by_sigmoid(model)
    for module in model.modules():
        if type(module).__name__ in (model._no_split_modules or ()):
            module.compile(dynamic=True)


def with_adapters(model: PreTrainedModel, section: StudentSection) -> Any:
    """The model with LoRA adapters on the layers that ``lora_targets`` names; only they are trained, in float32."""
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


class StudentTrainer(Trainer):
    """A Trainer whose loss looks at target positions only, and whose batches are computed in pieces that fit.

    No logits are computed for prompts or padding. A step's gradients are those of its whole batch, whatever the pieces.

    Args:
        order: Which examples come when; None: the Trainer's own order.
        piece_rows: Most examples that are computed at once.
        piece_tokens: Most tokens, padding included; None: any.
        settings: Trainer's own.
    """

    def __init__(
        self,
        *,
        order: EpochOrder | None = None,
        piece_rows: int = sys.maxsize,
        piece_tokens: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.order = order
        self.piece_rows = piece_rows
        self.piece_tokens = piece_tokens
        self.model_accepts_loss_kwargs = True  # the loss is a sum over the step's tokens, for every architecture

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.order or super()._get_train_sampler(train_dataset)

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        count = num_items_in_batch if num_items_in_batch is not None else (inputs["labels"] != IGNORED).sum()
        while True:
            parts = pieces(inputs, self.piece_rows, self.piece_tokens)
            try:
                with QuickDropout() if _drops_on_cpu(model) else nullcontext():
                    return self._add_up(model, parts, count)
            except torch.OutOfMemoryError as error:
                largest = max(len(part["labels"]) for part in parts)
                if largest == 1 or process_count() > 1:
                    raise UserError(
                        f"out of memory with {largest} examples at once. Lower student.batch_size (and raise "
                        "student.gradient_accumulation), or set student.gradient_checkpointing: true."
                    ) from error
            # Out of the handler the failed pieces are free again; gradients of a part of the batch must go as well.
            model.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.piece_rows = largest // 2
            say(f"  out of memory with {largest} examples at once: going on with {self.piece_rows}, same batch a step")

    def _add_up(self, model: Any, parts: list[Batch], count: Any) -> torch.Tensor:
        total = torch.zeros((), device=self.args.device)
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                total += super().training_step(model, dict(part), count)
        return total

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
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
            extra = {
                "decoder_input_ids": inner.prepare_decoder_input_ids_from_labels(labels=labels),
                "use_cache": False,
            }
        with select:
            outputs = model(**inputs, **extra)
        total = token_loss(outputs.logits, labels[is_target])
        if num_items_in_batch is None:
            loss = total / is_target.sum()
        else:  # counted over all processes, whose gradients are averaged
            loss = total / num_items_in_batch * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss


def _drops_on_cpu(model: nn.Module) -> bool:
    return not torch.cuda.is_available() and any(isinstance(one, nn.Dropout) and one.p > 0 for one in model.modules())


@contextmanager
def _inputs_at(head: nn.Module, chosen: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Give the output layer only some rows of its input: the one place where every architecture can be reached alike."""
    handle = head.register_forward_pre_hook(lambda module, inputs: (chosen(inputs[0]),))
    try:
        yield
    finally:
        handle.remove()
