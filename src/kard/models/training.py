"""What every training here shares: Trainer arguments, the order of examples, checkpoints that survive being killed, progress."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from kard.errors import UserError
from kard.machine.processes import process_count
from kard.models.at_once import is_out_of_memory
from kard.progress import progress

Section = Literal["student", "reranker"]
SCHEDULERS = {"linear": "linear", "constant": "constant_with_warmup"}
"""What transformers calls the recipe's schedules."""
CHECKPOINT_MINUTES = 2.0
"""How much training a killed run may lose."""
_STEPS_A_POINT = 5
_DIVERGED = {
    "student": "Lower student.lr, or set student.dtype: fp32, and run again.",
    "reranker": "Lower reranker.lr and run again.",
}
_TOO_LARGE = {
    "student": "Set student.method: lora or student.resources.gradient_checkpointing: true, lower student.batch_size (and "
    "raise student.gradient_accumulation) or student.max_input_tokens, or take a smaller model.",
    "reranker": "Lower reranker.batch_size or reranker.step_candidates, or set reranker.interaction: normalized.",
}


def training_arguments(folder: Path, dtype: torch.dtype, seed: int, **settings: Any) -> TrainingArguments:
    """Arguments of a Trainer that works quietly in `folder`; `settings` are TrainingArguments' own."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,  # Trainer scales the loss then
        use_cpu=not torch.cuda.is_available(),
        ddp_backend="gloo" if process_count() > 1 and not torch.cuda.is_available() else None,
        seed=seed,
        data_seed=seed,
        save_strategy=settings.pop("save_strategy", "no"),  # Checkpoints are asked for by the clock, in `_Watch`.
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,  # so that a step's loss is known whatever comes after it: see `_curve`
        logging_nan_inf_filter=False,
        **settings,
    )
    # The recipe decides, not what `accelerate config` once left behind.
    arguments.mixed_precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, "no")
    arguments._n_gpu = min(
        arguments.n_gpu, 1
    )  # a process trains on one GPU: DataParallel would cut batches unlike the recipe's
    return arguments


class EpochOrder(Sampler[int]):
    """Examples in batches of similar length; seed and epoch alone decide the order.

    So every process of a group, and a run that goes on after it was killed, sees the same order.

    Args:
        lengths: Of each example, in any unit.
        batch_size: Examples a step.
        seed: Of the order.
        filler: Whether behind the examples stands one without a target, which makes the last batch whole.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, filler: bool = False) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.filler = filler
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) + self._missing()

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        # Not looked at: the order has always been drawn behind so many numbers, and a seed's order shall stay.
        torch.randint(1, (len(self.lengths),), generator=generator)
        yield from get_length_grouped_indices(list(self.lengths), self.batch_size, generator=generator)
        yield from [len(self.lengths)] * self._missing()

    def _missing(self) -> int:
        return -len(self.lengths) % self.batch_size if self.filler else 0


class OrderedTrainer(Trainer):
    """A Trainer whose examples come as an `EpochOrder` says.

    Args:
        order: Which examples come when.
        settings: Trainer's own.
    """

    def __init__(self, *, order: EpochOrder, **settings: Any) -> None:
        super().__init__(**settings)
        self.order = order
        self.control: Any  # Trainer's own, which it does not declare
        self.add_callback(_Epochs(order))

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.order


class _Epochs(TrainerCallback):
    """Tells the order which epoch it is: from a checkpoint on, with several processes, Trainer does not."""

    def __init__(self, order: EpochOrder) -> None:
        self.order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.order.set_epoch(int(state.epoch or 0))


def train(trainer: Trainer, label: str, checkpoint_minutes: float, section: Section) -> list[dict[str, float]]:
    """Train, going on from the last whole checkpoint if there is one.

    Args:
        trainer: Its output folder holds the checkpoints.
        label: What is trained, for the progress line.
        checkpoint_minutes: How much work a killed process may lose.
        section: Whose keys of the recipe a message names.

    Returns:
        The loss curve: ``step`` and the mean ``loss`` of the steps since the point before.

    Raises:
        UserError: The loss or a weight is not a number, or the memory does not suffice.
    """
    folder = Path(str(trainer.args.output_dir))
    trainer.remove_callback(PrinterCallback)
    with ExitStack() as stack:
        trainer.add_callback(_Watch(label, checkpoint_minutes, stack, section))
        try:
            trainer.train(resume_from_checkpoint=last_checkpoint(folder))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(f"{label}: out of memory. {_TOO_LARGE[section]}") from error
    return _curve([(row["step"], row["loss"]) for row in trainer.state.log_history if "loss" in row])


def _curve(losses: list[tuple[int, float]]) -> list[dict[str, float]]:
    """Means over a few steps each, the same whether a training was interrupted or not."""
    blocks = [losses[begin : begin + _STEPS_A_POINT] for begin in range(0, len(losses), _STEPS_A_POINT)]
    return [{"step": block[-1][0], "loss": sum(loss for _, loss in block) / len(block)} for block in blocks]


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end (its state file comes last), or None."""
    whole = [path for path in folder.glob("checkpoint-*") if _is_whole(path)]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    return True


def _as_the_first_process(decision: bool, device: torch.device) -> bool:
    """What rank 0 decided: clocks differ, and processes must save together."""
    if process_count() == 1:
        return decision
    flag = torch.tensor(int(decision), device=device)
    torch.distributed.broadcast(flag, src=0)
    return bool(flag.item())


class _Watch(TrainerCallback):
    """Shows progress, asks for checkpoints by the clock, and stops on a loss or a weight that is not a number."""

    def __init__(self, label: str, checkpoint_minutes: float, stack: ExitStack, section: Section) -> None:
        self.label = label
        self.section = section
        self.checkpoint_seconds = checkpoint_minutes * 60
        self.stack = stack
        self.saved = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        remaining = state.max_steps - state.global_step
        self.advance = self.stack.enter_context(progress(self.label, remaining, "steps"))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.advance(1)
        due = _as_the_first_process(time.monotonic() - self.saved >= self.checkpoint_seconds, args.device)
        if due and state.global_step < state.max_steps:
            control.should_save = True
            self.saved = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        for name in ("loss", "eval_loss"):
            if not math.isfinite(loss := logs.get(name, 0.0)):
                raise UserError(
                    f"{self.label}: the loss is {loss} at step {state.global_step}. {_DIVERGED[self.section]}"
                )

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        # A loss shows a step's weights after the next step alone.
        trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
        if not all(bool(parameter.isfinite().all()) for parameter in trained):
            raise UserError(f"{self.label}: weights are no numbers any more at its end. {_DIVERGED[self.section]}")
