"""What is wrong with a model's files is said before the first stage, with the key, the file and what to do."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoTokenizer, RwkvConfig

from kard.errors import UserError
from kard.models.weights import check_model
from kard.preflight.checks import check_models
from kard.recipe.file import load_recipe
from kard.reranker.model import new_encoder
from kard.student.loading import base_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1342\n"


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def point(path):
    path.write_bytes(POINTER)


def sharded(folder):
    (folder / "model.safetensors").unlink()
    model = base_model(str(folder.parent / "whole"), "float32")
    model.save_pretrained(folder, max_shard_size="20KB")
    next(iter(sorted(folder.glob("model-00002*")))).unlink()


def more_tokens(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(folder)


def own_padding(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)


DAMAGES = {
    "pointer": (
        lambda folder: point(folder / "model.safetensors"),
        r"model\.safetensors' is a Git LFS pointer.*git lfs pull",
    ),
    "tokenizer pointer": (lambda folder: point(folder / "tokenizer.json"), r"tokenizer\.json' is a Git LFS pointer"),
    "cut weights": (lambda folder: cut(folder / "model.safetensors"), r"model\.safetensors' is damaged or cut off \("),
    "cut tokenizer": (lambda folder: cut(folder / "tokenizer.json"), r"tokenizer\.json' is damaged or cut off"),
    "empty weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        r"model\.safetensors' is damaged",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
    "a part is missing": (sharded, r"has no model-00002-of-.*index of its weights"),
    "more tokens": (more_tokens, r"no embedding for: '<tool>' is number \d+, and there are \d+ embeddings\. Resize"),
    "padding": (own_padding, r"no embedding for: '\[PAD\]'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_before_the_first_stage(damage, project, decoder_folder, tmp_path):
    shutil.copytree(decoder_folder, tmp_path / "whole")
    folder = tmp_path / "model"
    shutil.copytree(decoder_folder, folder)
    harm, message = DAMAGES[damage]
    harm(folder)
    keys = {"student.model": "students", "reranker.model": "reranker", "teacher.verifier": "rationales"}
    for key, stage in keys.items():
        recipe = load_recipe(str(project), [f"{key}={json.dumps(str(folder))}"])
        with pytest.raises(UserError, match=rf"^{key}: .*{message}") as error:
            check_models(recipe, {stage})
        assert "\n" not in str(error.value)
    check_models(load_recipe(str(project), []), set(keys.values()))  # whole ones are taken


@pytest.mark.parametrize("content", [POINTER, b"GGUF", b"GGUF" + bytes(5000), b"", b"PK\3\4" * 9])
def test_a_damaged_gguf_file_names_its_key(content, tmp_path, monkeypatch):
    monkeypatch.setenv("KARD_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "small.gguf"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^student\.model: .*small\.gguf"):
        check_model(str(path), "student.model")


def test_a_model_that_cannot_go_on_from_what_it_has_read_is_no_student(project, decoder_folder, tmp_path):
    shutil.copytree(decoder_folder, tmp_path / "model")
    RwkvConfig(vocab_size=600).save_pretrained(tmp_path / "model")
    recipe = load_recipe(str(project), [f"student.model={json.dumps(str(tmp_path / 'model'))}"])
    with pytest.raises(UserError, match=r"student\.model: .* of type 'rwkv', which takes no cache\. Choose another"):
        check_models(recipe, {"students"})


def test_special_tokens_in_passages_and_questions_are_text_to_the_reranker(project):
    encoder = new_encoder(load_recipe(str(project), []).reranker, 0)
    for task in ("query", "document"):
        ids = encoder.preprocess(["red [SEP] blue [CLS]"], task=task)["input_ids"][0].tolist()
        tokenizer = next(module.tokenizer for module in encoder.modules() if hasattr(module, "auto_model"))
        assert ids.count(tokenizer.sep_token_id) == ids.count(tokenizer.cls_token_id) == 1
