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
from torch.nn import functional
from transformers import EarlyStoppingCallback, PreTrainedModel, PreTrainedTokenizerFast

from kard.artifacts.files import write_json
from kard.errors import UserError
from kard.machine.processes import process_count, rank, shards_models
from kard.models.at_once import AtOnce
from kard.models.names import checkpointing_argument
from kard.models.training import (
    CHECKPOINT_MINUTES,
    SCHEDULERS,
    EpochOrder,
    OrderedTrainer,
    train,
    training_arguments,
)
from kard.models.weights import most_tokens
from kard.recipe.sections import StudentSection
from kard.student.batching import IGNORED, Batch, Collator, Row, of_similar_length, pieces, reads_alone, unpadded
from kard.student.loading import StudentSettings, base_model, base_tokenizer, model_dtype
from kard.student.tokens import question_tokens, text_tokens

# Sequences are short here, and the backward pass of the fused kernel is the slower one on CPUs (measured: half the speed).
ATTENTION_CPU = "eager"
_WARMUP = 0.05  # share of the steps in which the learning rate rises
# What the common models call the projections of their attention (an output projection's name alone is often the MLP's, too).
ATTENTION_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "q", "k", "v", "o"]
ATTENTION_LAYERS += ["qkv_proj", "query_key_value", "Wqkv", "attn.c_attn", "attn.c_proj"]
ATTENTION_LAYERS += [
    f"{block}.{out}"
    for block in ("attn", "self_attn", "encoder_attn", "attention", "self_attention")
    for out in ("out_proj", "dense")
]


@dataclass(frozen=True)
class Example:
    """One training example: what is read and what is to be written.

    With `question` a decoder also learns how likely the prompt's question is after its passages: L = −log p(r, y | x, D̂) −
    log p(x | D̂), at no other cost than these tokens' logits.
    """

    prompt: str
    target: str
    question: bool = False


def train_student(
    examples: Sequence[Example],
    base: str,
    saved_as: str,
    section: StudentSection,
    seed: int,
    folder: Path,
    label: str,
    dev: Sequence[Example] = (),
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
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
        checkpoint_minutes: How much work a killed process may lose.

    Raises:
        UserError: There is no example, one is longer than the model can read, the batch cannot be shared between the processes,
            or training fails (see `kard.models.training.train`).
    """
    torch.manual_seed(seed)
    dtype = model_dtype(section.dtype, base)
    tokenizer = base_tokenizer(base)
    model = base_model(
        base,
        dtype if section.method == "lora" else torch.float32,
        None if torch.cuda.is_available() else ATTENTION_CPU,
        # Each process's piece alone goes to its GPU, and Trainer takes it there.
        device="cpu" if shards_models() else None,
        quantized=section.quantized,
    )
    trained = with_adapters(model, section) if section.method == "lora" else model
    if section.resources.compile:
        compile_layers(model)
    checkpoints = folder / "checkpoints"
    trainer = student_trainer(trained, tokenizer, examples, dev, section, dtype, seed, checkpoints)
    settings = StudentSettings(
        base=saved_as if section.method == "lora" else "weights",
        adapters=section.method == "lora",
        answer_as=section.answer_as,
        dtype=str(dtype).removeprefix("torch."),
        max_input_tokens=section.max_input_tokens,
        max_output_tokens=section.max_output_tokens,
        long_questions=section.long_questions,
    )
    curve = train(trainer, label, checkpoint_minutes, "student")
    trainer.save_model(str(folder / "weights"))
    if rank() == 0:
        (folder / "weights" / "training_args.bin").unlink()  # it holds paths of this machine, and nobody reads it
        tokenizer.save_pretrained(folder / "tokenizer")
        write_json(folder / "student.json", asdict(settings))
        write_json(folder / "training.json", _training_told(trainer, curve, len(examples)))
        shutil.rmtree(checkpoints, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def _training_told(trainer: StudentTrainer, curve: list[dict[str, float]], examples: int) -> dict[str, Any]:
    """What ``training.json`` says."""
    dataset: Any = trainer.train_dataset
    epochs = trainer.state.epoch or 0.0
    tokens = trained_tokens(dataset[:examples], trainer.model.config.is_encoder_decoder)
    summary: dict[str, Any] = {"examples": examples, "loss": curve, "epochs": epochs}
    summary |= {"tokens": {name: round(epochs * count) for name, count in tokens.items()}}
    looks = [row for row in trainer.state.log_history if "eval_loss" in row]
    dev_loss = [{"step": row["step"], "loss": row["eval_loss"]} for row in looks]
    return summary | ({"dev_loss": dev_loss} if dev_loss else {})


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
    dev_rows = encode_examples(dev, tokenizer, encoder_decoder) if dev else []
    _check_lengths(model, [*rows, *dev_rows])
    stopping: dict[str, Any] = {}
    if dev:
        stopping = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
        stopping |= {"metric_for_best_model": "loss", "greater_is_better": False}
        stopping |= {"restore_callback_states_from_checkpoint": True}  # for how many epochs nothing got better
    arguments = training_arguments(
        checkpoints,
        dtype,
        seed,
        num_train_epochs=section.epochs,
        per_device_train_batch_size=step // process_count(),
        learning_rate=section.lr,
        lr_scheduler_type=SCHEDULERS[section.schedule],
        warmup_steps=_WARMUP,
        **{checkpointing_argument(): section.resources.gradient_checkpointing},
        **stopping,
    )
    # As many tokens as have logits where a batch has one target: a process's share of a batch may be all filler.
    filler = [{"input_ids": [tokenizer.eos_token_id] * 3, "labels": [IGNORED]}] if process_count() > 1 else []
    order = EpochOrder(
        [len(row["input_ids"]) + (len(row["labels"]) if encoder_decoder else 0) for row in rows],
        step,
        seed,
        bool(filler),
    )
    stop = [EarlyStoppingCallback(section.early_stopping)] if dev and section.early_stopping else []
    return StudentTrainer(
        model=model,
        args=arguments,
        train_dataset=rows + filler,
        eval_dataset=dev_rows or None,
        data_collator=Collator(tokenizer.pad_token_id, encoder_decoder),
        callbacks=stop,
        order=order,
        piece_rows=1 if reads_alone(model.config) else max(1, section.batch_size // process_count()),
    )


def _check_lengths(model: Any, rows: Sequence[Row]) -> None:
    """Raise UserError where an example has more tokens than the model has positions (T5 has any)."""
    reads = most_tokens(model.config)
    longest = max(len(row["input_ids"]) for row in rows)
    if model.config.is_encoder_decoder:
        longest = max(longest, max(len(row["labels"]) for row in rows))
    if reads is not None and longest > reads:
        raise UserError(
            f"student.model: it reads at most {reads} tokens, and an example has {longest}. "
            "Lower student.max_input_tokens, shorten the rationales (teacher.max_words), or take another model."
        )


def trained_tokens(rows: Sequence[Row], encoder_decoder: bool) -> dict[str, int]:
    """Tokens of an epoch, of prompts (``read``) and what is learned (``written``)."""
    written = sum(token != IGNORED for row in rows for token in row["labels"])
    inputs = sum(len(row["input_ids"]) for row in rows)
    return {"read": inputs if encoder_decoder else inputs - written, "written": written}


def compile_layers(model: PreTrainedModel) -> None:
    """Compile the model's blocks in place, each kind once for any length: parameters keep their names."""
    for module in model.modules():
        if type(module).__name__ in (model._no_split_modules or ()):
            module.compile(dynamic=True)


def with_adapters(model: PreTrainedModel, section: StudentSection) -> Any:
    """The model with LoRA adapters on the layers that ``lora_targets`` names; only they are trained, in float32."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = LoraConfig(
        r=section.lora_rank,
        lora_alpha=2 * section.lora_rank,
        target_modules="all-linear" if section.lora_targets == "all" else ATTENTION_LAYERS,
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:  # peft: no module of these names, or none that can have adapters
        raise UserError(
            f"student.lora_targets: '{section.lora_targets}' finds no layers in a model of type '{model.config.model_type}'. "
            f"Set {'it to all, or ' if section.lora_targets == 'attention' else ''}student.method: full."
        ) from error
    for module in adapted.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False  # autocast casts; a second cast to float32 and back is lost time
    return adapted


def encode_examples(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast, encoder_decoder: bool
) -> list[Row]:
    """Token ids of prompts and targets, encoded apart so that a prompt's tokens are the same in training and writing."""
    if not examples:
        raise UserError("students: there is no training example. See 'kard show RUN rationales' for why none was kept.")
    prompts = tokenizer([example.prompt for example in examples]).input_ids
    targets = text_tokens(tokenizer, [example.target for example in examples])
    ended = [[*ids, tokenizer.eos_token_id] for ids in targets]
    if encoder_decoder:
        return [{"input_ids": prompt, "labels": ids} for prompt, ids in zip(prompts, ended, strict=True)]
    rows = [{"input_ids": prompt + ids, "labels": ids} for prompt, ids in zip(prompts, ended, strict=True)]
    for row, example in zip(rows, examples, strict=True):
        if example.question:
            row["labels"] = question_tokens(tokenizer, example.prompt)[1] + row["labels"]
    return rows


class StudentTrainer(OrderedTrainer):
    """A Trainer whose loss looks at target positions only, and whose batches are computed in pieces that fit.

    No logits are computed for prompts or padding. A step's gradients are those of its whole batch, whatever the pieces.

    Args:
        order: Which examples come when.
        piece_rows: Most examples that are computed at once.
        settings: Trainer's own.
    """

    def __init__(
        self,
        *,
        order: EpochOrder,
        piece_rows: int = sys.maxsize,
        **settings: Any,
    ) -> None:
        super().__init__(order=order, **settings)
        self.at_once = AtOnce(piece_rows, "examples", same=", same batch a step")
        self.model_accepts_loss_kwargs = True  # the loss is a sum over the step's tokens, for every architecture

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        count = num_items_in_batch if num_items_in_batch is not None else (inputs["labels"] != IGNORED).sum()

        def add_up(parts: list[Batch]) -> torch.Tensor:
            total = torch.zeros((), device=self.args.device)
            for place, part in enumerate(parts):
                last = place == len(parts) - 1
                with nullcontext() if last else self.accelerator.no_sync(model):
                    total += super(StudentTrainer, self).training_step(model, dict(part), count)
            return total

        return self._in_pieces(model, inputs, add_up)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Loss on the dev examples, averaged over all of their target tokens."""
        rows: Any = self.eval_dataset
        model = self.model_wrapped.eval()

        def add_up(parts: list[Batch]) -> torch.Tensor:
            totals = [self._total_loss(model, self._prepare_inputs(dict(part)))[0] for part in parts]
            return torch.stack(totals).sum()

        lengths = [len(row["input_ids"]) + len(row["labels"]) for row in rows]
        total, collate = 0.0, self.data_collator
        # Every process looks at all of them: they are few, and all processes must come to the same decision.
        with torch.no_grad(), self.compute_loss_context_manager():
            for group in of_similar_length(lengths, self.at_once.size):
                total += float(self._in_pieces(model, collate([rows[place] for place in group]), add_up))
        metrics = {"eval_loss": total / sum(token != IGNORED for row in rows for token in row["labels"])}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _in_pieces(self, model: Any, inputs: Batch, compute: Callable[[list[Batch]], torch.Tensor]) -> torch.Tensor:
        """What `compute` makes of a batch's pieces; smaller ones from here on where the memory does not suffice."""
        if process_count() > 1:  # they must stay in step
            return compute(pieces(inputs, self.at_once.size))
        # Gradients of a part of the batch must go before it is computed again.
        return self.at_once.run(lambda rows: compute(pieces(inputs, rows)), len(inputs["labels"]), model.zero_grad)

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        total, count, outputs = self._total_loss(model, inputs)
        # `num_items_in_batch` is counted over all processes, whose gradients are averaged.
        processes = self.accelerator.num_processes
        loss = total / count if num_items_in_batch is None else total / num_items_in_batch * processes
        return (loss, outputs) if return_outputs else loss

    def _total_loss(self, model: Any, inputs: Batch) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """The sum of the loss over a batch's targets, how many they are, and what the model gave."""
        inner = self.accelerator.unwrap_model(model)
        if reads_alone(inner.config):
            [inputs] = unpadded(inputs)
        labels = inputs.pop("labels")
        is_target = labels != IGNORED
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
        total = functional.cross_entropy(outputs.logits.float(), labels[is_target], reduction="sum")
        return total, is_target.sum(), outputs


@contextmanager
def _inputs_at(head: nn.Module, chosen: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Give the output layer only some rows of its input: the one place where every architecture can be reached alike."""
    handle = head.register_forward_pre_hook(lambda module, inputs: (chosen(inputs[0]),))
    try:
        yield
    finally:
        handle.remove()
