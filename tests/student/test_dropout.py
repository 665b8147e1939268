"""Dropout of our own on CPUs: PyTorch's, in distribution, gradient and repeatability."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import T5ForConditionalGeneration

from kard.models.training import EpochOrder, training_arguments
from kard.student.dropout import dropout, quick_dropout
from kard.student.training import ATTENTION_CPU, StudentTrainer


@pytest.mark.parametrize("p", [0.003, 0.1, 0.5, 0.9])
def test_as_many_values_are_dropped_as_asked_and_the_mean_stays(p):
    torch.manual_seed(0)
    count = 1_000_003  # no multiple of four
    out = dropout(torch.ones(count), p)
    assert abs((out == 0).double().mean().item() - p) < 5 * math.sqrt(p * (1 - p) / count) + 1 / (1 << 16)
    assert abs(out.double().mean().item() - 1) < 5 * math.sqrt(p / (1 - p) / count)
    assert len(out.unique()) == 2


def test_places_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(400_000), 0.3) == 0).double()
    for step in (1, 2, 3, 4, 8, 1000):
        both = (dropped[:-step] * dropped[step:]).mean().item()
        assert both == pytest.approx(0.09, abs=0.003), step


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_has_the_same_mask(dtype):
    torch.manual_seed(0)
    values = torch.full((5, 7, 11), 2.0, dtype=dtype, requires_grad=True)
    out = dropout(values, 0.4)
    out.sum().backward()
    assert out.dtype == dtype
    assert torch.equal(values.grad * 2, out)


def test_nothing_everything_and_evaluation():
    values = torch.randn(50)
    assert torch.equal(dropout(values, 0.0), values)
    assert torch.equal(dropout(values, 0.5, training=False), values)
    assert torch.equal(dropout(values, 1.0), torch.zeros(50))
    assert dropout(torch.ones(0), 0.5).numel() == 0


def test_it_takes_the_place_of_pytorchs_while_entered_alone():
    layer, values = nn.Dropout(0.5), torch.ones(1000)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(1)
        return layer(values), functional.dropout(values, 0.25)

    torch.manual_seed(1)
    ours = dropout(values, 0.5), dropout(values, 0.25)
    with quick_dropout():
        entered = both()
    left = both()
    for one, same, other in zip(ours, entered, left, strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


class Operations(TorchDispatchMode):
    """Names of the operations that were computed."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_layers_that_are_computed_again_drop_the_same_places(t5_folder, tmp_path):
    """With gradient checkpointing the backward pass computes layers a second time."""
    ids = torch.arange(20).view(2, 10)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        model = T5ForConditionalGeneration.from_pretrained(
            t5_folder, dropout_rate=0.3, attn_implementation=ATTENTION_CPU
        )
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        trainer = StudentTrainer(
            model=model, args=training_arguments(tmp_path, torch.float32, 0), order=EpochOrder([], [], 1, 0)
        )
        torch.manual_seed(3)
        trainer.training_step(model, dict(batch))
        return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}

    straight, again = gradients(False), gradients(True)
    assert straight.keys() == again.keys()
    for name, gradient in straight.items():
        torch.testing.assert_close(again[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


def test_training_draws_its_masks_by_it_everywhere(t5_folder, tmp_path):
    model = T5ForConditionalGeneration.from_pretrained(t5_folder, dropout_rate=0.1, attn_implementation=ATTENTION_CPU)
    ids = torch.arange(20).view(2, 10)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    trainer = StudentTrainer(
        model=model, args=training_arguments(tmp_path, torch.float32, 0), order=EpochOrder([], [], 1, 0)
    )

    def losses(seed: int) -> float:
        torch.manual_seed(seed)
        return trainer.training_step(model, dict(batch)).item()

    with Operations() as operations:
        assert losses(0) == losses(0)
        assert losses(0) != losses(1)
    assert "random_" in operations.names
    assert "bernoulli_" not in operations.names
