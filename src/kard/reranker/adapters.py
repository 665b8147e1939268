"""Which weights of an encoder learn: all, LoRA adapters, or those above frozen layers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sentence_transformers.base.modules import Dense, Transformer
from torch import nn
from transformers import PreTrainedModel

from kard.errors import UserError
from kard.recipe.sections import RerankerSection

# What the common encoders call their query and value projections.
QUERY_AND_VALUE = r".*\.(query|value|q_proj|v_proj|q_lin|v_lin|Wqkv|q|v)"
_RANK = 16  # of the paper's adapters


def make_trainable(encoder: nn.Module, modules: Sequence[nn.Module], section: RerankerSection) -> None:
    """Let `modules` of an encoder learn, in the way that the recipe's ``reranker`` asks for.

    Raises:
        UserError: No layer would be left, or LoRA finds no layers.
    """
    encoder.requires_grad_(False)
    _check_frozen_layers(encoder, section)
    for module in modules:
        if section.learns_passages:
            _add_adapters(module, section)
        # The linear layer is random at first: all of it learns.
        linear = {id(one) for part in module.modules() if isinstance(part, Dense) for one in part.parameters()}
        for name, parameter in module.named_parameters():
            if not section.learns_passages or "lora_" in name or id(parameter) in linear:
                parameter.requires_grad_(not _is_frozen(name, section.frozen_layers))


def _check_frozen_layers(encoder: nn.Module, section: RerankerSection) -> None:
    models = [one for one in encoder.modules() if isinstance(one, PreTrainedModel)]
    layers = min(one.config.num_hidden_layers for one in models)
    if section.frozen_layers >= layers:
        raise UserError(
            f"reranker.frozen_layers: {section.frozen_layers} asked for, '{section.model}' has {layers} layers, and one at "
            "least must learn. Lower it."
        )


def _is_frozen(parameter: str, layers: int) -> bool:
    """Whether a parameter belongs to the lowest layers, or to the embeddings below them (T5 calls both by other names)."""
    layer = re.search(r"\b(?:block|layers?)\.(\d+)\.", parameter)
    return layers > 0 and (int(layer[1]) < layers if layer else bool(re.search("embed|shared", parameter)))


def _add_adapters(module: nn.Module, section: RerankerSection) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules=QUERY_AND_VALUE)
    for part in module.modules():
        if isinstance(part, Transformer):
            try:
                inject_adapter_in_model(config, part)
            except ValueError as error:  # peft: no module of these names
                raise UserError(
                    f"reranker.interaction: paper finds no query and value layers in '{section.model}'. Set it to normalized, or "
                    "choose another reranker.model."
                ) from error


def merge_adapters(encoder: nn.Module) -> None:
    """Put what LoRA learned into the weights, so that an ordinary model is left."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in list(encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge()
                setattr(module, name, child.get_base_layer())
