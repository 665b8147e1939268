"""What every training here shares: Trainer arguments, checkpoints that survive being killed, progress."""

from __future__ import annotations

import json
import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from kard.errors import UserError
from kard.processes import process_count
from kard.progress import progress


def training_arguments(folder: Path, dtype: torch.dtype, seed: int, **settings: Any) -> TrainingArguments:
    """Arguments of a Trainer that works quietly in `folder`; `settings` are TrainingArguments' own."""
    return TrainingArguments(
        output_dir=str(folder),
        bf16=dtype == torch.bfloat16,
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
        logging_steps=settings.pop("logging_steps", 5),
        logging_nan_inf_filter=False,
        **settings,
    )


def train(trainer: Trainer, label: str, checkpoint_minutes: float) -> list[dict[str, float]]:
    """Train, going on from the last whole checkpoint if there is one.

    Args:
        trainer: Its output folder holds the checkpoints.
        label: What is trained, for the progress line.
        checkpoint_minutes: How much work a killed process may lose.

    Returns:
        The loss curve: ``step`` and ``loss`` every few steps.

    Raises:
        UserError: The loss is not a number.
    """
    folder = Path(str(trainer.args.output_dir))
    trainer.remove_callback(PrinterCallback)
    with ExitStack() as stack:
        trainer.add_callback(_Watch(label, checkpoint_minutes, stack))
        trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    return [{"step": row["step"], "loss": row["loss"]} for row in trainer.state.log_history if "loss" in row]


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
    """Shows progress, asks for checkpoints by the clock, and stops on a loss that is not a number."""

    def __init__(self, label: str, checkpoint_minutes: float, stack: ExitStack) -> None:
        self.label = label
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
        loss = logs.get("loss", 0.0)
        if not math.isfinite(loss):
            raise UserError(
                f"{self.label}: the loss is {loss} at step {state.global_step}. "
                "Lower the learning rate (lr), or set dtype: fp32, and run again."
            )
