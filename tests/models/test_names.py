"""Names of transformers' that differ between the versions that kard takes; whichever is installed, the right one."""

from __future__ import annotations

import logging
import sys
import warnings
from inspect import signature
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import DynamicCache, TrainingArguments

from kard.errors import UserError
from kard.models.names import cache_argument, checkpointing_argument, dense
from kard.student.loading import base_model


class Newer:
    def forward(self, input_ids, cache=None): ...


class Older:
    def forward(self, input_ids, past_key_values=None): ...


class State:
    def forward(self, input_ids, cache_params=None): ...


class Neither:
    def forward(self, input_ids): ...


@pytest.mark.parametrize(
    ("kind", "name"), [(Newer, "cache"), (Older, "past_key_values"), (State, "cache_params"), (Neither, "")]
)
def test_the_name_is_what_the_model_takes(kind, name):
    assert cache_argument(kind) == cache_argument(kind()) == name


def test_gguf_files_are_not_converted_by_a_version_that_reads_their_tokenizers_wrongly(monkeypatch):
    with monkeypatch.context() as changes:
        changes.setitem(sys.modules, "transformers", ModuleType("transformers"))  # it knows no GgufConfig
        with pytest.raises(UserError, match=r"student.model: transformers .* reads the tokenizer of x.gguf wrongly"):
            dense("student.model", Path("m/x.gguf"))


def test_what_is_installed_warns_of_nothing(decoder_folder, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model, cache = base_model(str(decoder_folder), torch.float32), DynamicCache()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, logger="transformers"):
        warnings.simplefilter("error")
        model(input_ids=torch.tensor([[3, 4, 5]]), use_cache=True, **{cache_argument(model): cache})
        assert checkpointing_argument() in signature(TrainingArguments).parameters
        TrainingArguments(output_dir=str(tmp_path), **{checkpointing_argument(): True}, report_to=[])
    assert cache.get_seq_length() == 3
    assert caplog.text == ""
