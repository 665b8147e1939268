import pytest
import torch
from torch.nn import functional

from kard.student import loss
from kard.student.loss import token_loss


def both(logits, targets, monkeypatch, at_once):
    monkeypatch.setattr(loss, "_AT_ONCE", at_once)
    pairs = []
    for compute in (
        lambda x: functional.cross_entropy(x.float(), targets, reduction="sum"),
        lambda x: token_loss(x, targets),
    ):
        leaf = logits.clone().requires_grad_()
        value = compute(leaf) / 7
        value.backward()
        pairs.append((value.detach(), leaf.grad))
    return pairs


@pytest.mark.parametrize("at_once", [1, 3 * 50, 1 << 21], ids=["row by row", "in pieces with a rest", "at once"])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_it_is_the_cross_entropy(dtype, error, at_once, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(11, 50, generator=generator)).to(dtype)
    targets = torch.randint(50, (11,), generator=generator)
    (expected, gradient), (found, ours) = both(logits, targets, monkeypatch, at_once)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, gradient, rtol=error, atol=error * 1e-2)


def test_logits_far_apart_give_finite_gradients(monkeypatch):
    logits = torch.tensor([[500.0, -500.0, 0.0], [-1e4, 1e4, 0.0]])
    targets = torch.tensor([1, 1])
    (expected, gradient), (found, ours) = both(logits, targets, monkeypatch, 1 << 21)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours, gradient)
    assert found == pytest.approx(1000 / 7)


def test_no_gradient_is_computed_where_none_is_asked_for():
    logits = torch.randn(4, 9)
    value = token_loss(logits, torch.tensor([0, 1, 2, 3]))
    assert value.grad_fn is None
    torch.testing.assert_close(value, functional.cross_entropy(logits, torch.arange(4), reduction="sum"))


def test_a_nan_is_not_hidden():
    logits = torch.tensor([[float("nan"), 0.0]])
    assert token_loss(logits, torch.tensor([1])).isnan()
