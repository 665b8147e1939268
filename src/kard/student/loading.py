"""Loading models and tokenizers, encoder-decoder or decoder from the same key."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from kard.artifacts.files import read_json
from kard.errors import UserError
from kard.machine.processes import compute_device
from kard.models.precision import Dtype, compute_dtype
from kard.models.weights import guarded, loading_explained, local_location, model_location, read_as_text
from kard.prompt import AnswerAs, WorkedExample

KEY = "student.model"
# How peft names what it saves.
_PEFT, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class StudentSettings:
    """What a saved student knows of itself (``student.json``): enough to be used without the recipe.

    `base` is a hub id or a folder; a relative one is meant from the student's own folder. A student that is prompted, not
    trained, has `examples` to show in front of a question.
    """

    base: str
    adapters: bool
    answer_as: AnswerAs
    dtype: str
    max_input_tokens: int
    max_output_tokens: int
    long_questions: Literal["cut", "stop"] = "cut"
    examples: tuple[WorkedExample, ...] = ()

    @classmethod
    def read(cls, path: Path) -> StudentSettings:
        """The settings that a student's folder holds."""
        row = read_json(path)
        lists = ("choices", "passages")
        examples = ({**one, **{name: tuple(one[name]) for name in lists}} for one in row.pop("examples", []))
        return cls(**row, examples=tuple(WorkedExample(**one) for one in examples))


def base_tokenizer(location: str, key: str = KEY) -> PreTrainedTokenizerFast:
    """The tokenizer, with a padding token (its end token where it has none of its own); it reads all of a text as text.

    Raises:
        UserError: It cannot be loaded, is no fast tokenizer, or knows no end of text.
    """
    with loading_explained(location, key):
        tokenizer = AutoTokenizer.from_pretrained(location, **guarded(location))
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise UserError(f"{key}: '{location}' has no fast tokenizer with an end-of-text token. Choose another model.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    read_as_text(tokenizer)
    return tokenizer


def base_model(
    location: str,
    dtype: torch.dtype,
    attention: str | None = None,
    key: str = KEY,
    device: str | None = None,
    quantized: bool = False,
) -> PreTrainedModel:
    """The model with a language-model head.

    Args:
        location: From `model_location`.
        dtype: Of the weights.
        attention: How it attends, in transformers' words; None: by PyTorch's kernel where the model can.
        key: The recipe's key, for the error message.
        device: Where it is put; None: on this process's GPU, if it has one.
        quantized: Keep the linear layers' weights in 4 bit (NF4, double quantization: Dettmers et al. 2023).

    Raises:
        UserError: It cannot be loaded.
    """
    device, more = device or compute_device(), dict[str, Any]()
    if quantized:
        settings = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
        more = {"device_map": {"": device}, "quantization_config": BitsAndBytesConfig(load_in_4bit=True, **settings)}
    with loading_explained(location, key):
        config = AutoConfig.from_pretrained(location, **guarded(location))
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        more |= guarded(location)
        model = kind.from_pretrained(location, dtype=dtype, attn_implementation=attention, **more)
    quicken(model)
    if quantized or device == "cpu":  # to shard it, a process may have been given no weights at all
        return model
    return model.to(device)


def model_dtype(wanted: Dtype, location: str, key: str = KEY) -> torch.dtype:
    """`compute_dtype` of the model at a location."""
    with loading_explained(location, key):
        config = AutoConfig.from_pretrained(location, **guarded(location))
    return compute_dtype(wanted, config.model_type)


def quicken(model: PreTrainedModel) -> None:
    """Replace the activation that GPT-2 and T5 v1.1 spell out in eight operations by PyTorch's own one for the same function."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


@dataclass(frozen=True)
class StudentSize:
    """How many parameters take part in computing a token.

    Attributes:
        reading: For one that is read: a decoder's layers, or the encoder.
        writing: For one that is written: the (other) layers and the output layer; what is only looked up is in neither.
        adapters: Of them, trained beside frozen weights; 0 where there are none.
    """

    reading: int
    writing: int
    adapters: int = 0


def student_size(folder: Path) -> StudentSize:
    """The size of the student in a folder, from its configuration: no weights are loaded."""
    settings = StudentSettings.read(folder / "student.json")
    location = _base_location(folder, settings)
    with loading_explained(location, KEY), torch.device("meta"):
        config = AutoConfig.from_pretrained(location, **guarded(location))
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = kind.from_config(config, trust_remote_code=False)
    looked_up, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    numbers = {
        id(weight): weight.numel() for weight in model.parameters() if weight is not looked_up and weight is not head
    }
    layers = sum(numbers.values())
    adapters = _adapter_parameters(folder / "weights" / "adapter_model.safetensors") if settings.adapters else 0
    if not config.is_encoder_decoder:
        return StudentSize(layers, layers + head.numel(), adapters)
    encoder = sum(numbers.get(id(weight), 0) for weight in model.get_encoder().parameters())
    return StudentSize(encoder, layers - encoder + head.numel(), adapters)


def _adapter_parameters(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _base_location(folder: Path, settings: StudentSettings, online: bool = False) -> str:
    """Where the model under a student lies; a relative path does not lead out of its run."""
    inside = folder / settings.base
    if Path(settings.base).is_absolute() or not inside.exists():
        return (model_location if online else local_location)(settings.base, KEY)
    if not inside.resolve().is_relative_to(folder.parent.resolve()):
        raise UserError(f"{folder / 'student.json'}: its base '{settings.base}' leads out of the run. Do not use it.")
    return str(inside)


def trained_model(
    folder: Path, online: bool = False, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, StudentSettings]:
    """A trained student from its folder; adapters are merged into the weights, so that writing is fast.

    Args:
        folder: Written by training.
        online: Whether the model under it may be fetched from the hub: the recipe asks for it.
        device: See `base_model`.
    """
    settings = StudentSettings.read(folder / "student.json")
    dtype: torch.dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[
        settings.dtype
    ]
    if dtype == torch.float16 and not torch.cuda.is_available():
        dtype = torch.float32  # it holds the same numbers, and CPUs are far slower in float16
    tokenizer = base_tokenizer(str(folder / "tokenizer"))
    model = base_model(_base_location(folder, settings, online), dtype, device=device)
    if settings.adapters:
        _merge(model, folder / "weights")
    return model.eval(), tokenizer, settings


def _merge(model: PreTrainedModel, adapters: Path) -> None:
    """Add what the adapters learned, W + (α / r) B A: in float32, layer by layer, so that nothing is rounded twice and the
    model is in memory once. peft would build all adapters first, which takes longer than all other loading."""
    config = read_json(adapters / "adapter_config.json")
    tensors = load_file(adapters / "adapter_model.safetensors")
    for name in [name for name in tensors if name.endswith(_DOWN)]:
        layer = model.get_submodule(name.removeprefix(_PEFT).removesuffix(_DOWN))
        down, up = tensors.pop(name).float(), tensors.pop(name.removesuffix(_DOWN) + _UP).float()
        added = (up @ down) * (config["lora_alpha"] / config["r"])
        added = added.T if isinstance(layer, Conv1D) else added
        weight: Any = layer.weight
        weight.data = (weight.float() + added.to(weight.device)).to(weight.dtype)
    if tensors:
        raise UserError(f"{adapters}: cannot merge '{next(iter(tensors))}'. Train the student again with this version.")
