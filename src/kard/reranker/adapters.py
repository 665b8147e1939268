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


def make_trainable(encoder: nn.Module, modules: Sequence[nn.Module], section: RerankerSection) -> None:
    """Let `modules` of an encoder learn, in the way that the recipe's ``reranker`` asks for.

    Raises:
        UserError: No layer would be left, or LoRA finds no layers.
    """
    encoder.requires_grad_(False)
    _check_frozen_layers(encoder, section)
    for module in modules:
        heads = _heads(module)
        if section.method == "lora":
            _add_adapters(module, section)
        for name, parameter in module.named_parameters():
            if section.method == "full" or "lora_" in name or id(parameter) in heads:
                parameter.requires_grad_(not _is_frozen(name, section.frozen_layers))


def _heads(module: nn.Module) -> set[int]:
    """Parameters on top of a model, as a cross-encoder's last layer: they may be random, so all learn, also with LoRA."""
    inner = [one for one in module.modules() if isinstance(one, PreTrainedModel) and one.base_model is not one]
    pairs = [(one, {id(parameter) for parameter in one.base_model.parameters()}) for one in inner]
    linear = (parameter for one in module.modules() if isinstance(one, Dense) for parameter in one.parameters())
    on_top = (parameter for one, below in pairs for parameter in one.parameters() if id(parameter) not in below)
    return {id(parameter) for parameter in (*linear, *on_top)}


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

    config = LoraConfig(r=section.lora_rank, lora_alpha=2 * section.lora_rank, target_modules=QUERY_AND_VALUE)
    for part in module.modules():
        if isinstance(part, Transformer):
            try:
                inject_adapter_in_model(config, part)
            except ValueError as error:  # peft: no module of these names
                raise UserError(
                    f"reranker.method: lora finds no query and value layers in '{section.model}'. Set method: full."
                ) from error


def merge_adapters(encoder: nn.Module) -> None:
    """Put what LoRA learned into the weights, so that an ordinary model is left."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in list(encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge()
                setattr(module, name, child.get_base_layer())
