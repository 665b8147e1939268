"""Products of 8-bit numbers in place of float32 or bfloat16: quicker on CPUs.

Weights are rounded once, to a scale for each output; what they are multiplied by is rounded token by token, to a scale for each
token (dynamic quantization: Yao et al. 2022, ZeroQuant). So a row's product does not depend on the other rows: sums of integers
are exact. What lies between the products is float32, whose rounding depends on the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from kard.errors import UserError

# AVX2 adds two products in 16 bits, which hold 2 · 255 · 64 and not 2 · 255 · 127: weights have 7 bits, on every processor.
_MOST_WEIGHT, _MOST_INPUT = 63, 127
_NO_LESS = 1e-12  # of a scale: rows of zeros have one, too


class Int8Linear(nn.Module):
    """A linear layer that multiplies in 8 bits by PyTorch's oneDNN kernel; it takes and gives float32.

    Args:
        layer: Its weights; they are not kept.
    """

    weight = None  # some models look at their layers' weights for a number format to cast to

    def __init__(self, layer: nn.Linear | Conv1D) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        weight = weight.t().contiguous() if isinstance(layer, Conv1D) else weight
        self.scale = weight.abs().amax(dim=1).clamp_min(_NO_LESS) / _MOST_WEIGHT
        rounded = (weight / self.scale[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.long)
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(_NO_LESS) / _MOST_INPUT
        zero = _MOST_INPUT + 1  # the kernel takes numbers without a sign
        rounded = (rows / scale).round_().add_(zero).to(torch.uint8)
        found = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, zero, self.packed, self.scale, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        found = found.mul_(scale)
        return (found if self.bias is None else found + self.bias).view(*inputs.shape[:-1], -1)


def multiply_in_int8(model: PreTrainedModel) -> None:
    """Replace all of a model's linear layers, the output layer too, by `Int8Linear`; the rest is in float32 then.

    Raises:
        UserError: This build of PyTorch has no oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        raise UserError("evaluation.engine: int8 needs a PyTorch with oneDNN. Set engine: transformers.")
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear | Conv1D):
                setattr(module, name, Int8Linear(child))
    model.float()  # the last: most of its weights are in the layers that are gone
